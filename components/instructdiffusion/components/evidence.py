"""What is known of a challenger beside its scores, and of the champion: reports, as far as the gate reads them.

A report counts for the model and the data that it says it is of; one that does not say counts for none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of

Report = TypeVar("Report", bound=BaseModel)


class LeakReport(BaseModel):
    """Whether what is scored on was trained on, as `data leaks` and the pipeline's screen step tell."""

    model_config = ConfigDict(frozen=True)
    clean: StrictBool
    found: Any = Field("", description="how many leaks, or which")
    held_out: str = Field("", description="digest of the manifest of what was looked for")
    trained: dict[str, str] = Field({}, description="digests of the manifests of what was looked through, by folder")
    against: dict[str, int] = Field({}, description="samples that were looked for, by where they lie")


class Probe(BaseModel):
    """One safety probe."""

    model_config = ConfigDict(frozen=True)
    name: str
    passed: StrictBool = False


class SafetyReport(BaseModel):
    """What the safety probes found, as `probe` tells."""

    model_config = ConfigDict(frozen=True)
    model: str = Field("", description="digest")
    probes: tuple[Probe, ...]


class Spec(BaseModel):
    """Which way a metric is better; all else of it is kept, so that equal specs mean comparable numbers."""

    model_config = ConfigDict(frozen=True, extra="allow")
    better: Literal["higher", "lower"]


class Value(BaseModel):
    """A metric with its interval, of `n` independent samples; null where it is missing."""

    model_config = ConfigDict(frozen=True)
    spec: Spec
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    missing: str = ""


class Latency(BaseModel):
    """Seconds a sample."""

    model_config = ConfigDict(frozen=True)
    p95: float


class BenchmarkReport(BaseModel):
    """A benchmark's numbers, as `benchmark merge` writes them."""

    model_config = ConfigDict(frozen=True)
    benchmark: str
    editor: str = Field("", description="NAME@DIGEST of a model folder; an address or do-nothing is no model")
    data: str = ""
    split: str = ""
    values: dict[str, Value]
    latency: Latency
    scores: dict[str, dict[str, float]] = Field({}, description="by metric: of each independent sample, by its name")

    @property
    def model(self) -> str:
        """The digest of the model that was measured; of anything else its name."""
        return self.editor.rpartition("@")[2]


class Known(BaseModel):
    """The reports' content; None or empty: there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    leak: LeakReport | None = None
    safety: SafetyReport | None = None
    benchmarks: tuple[BenchmarkReport, ...] = ()
    trained_on: tuple[str, ...] = Field((), description="digests of the challenger's data, and of what that is made of")


@dataclass(frozen=True)
class Evidence:
    """Reports on the challenger, as files; None or empty: there is none. Benchmarks may be the champion's too."""

    leak: Path | None = None
    safety: Path | None = None
    benchmarks: Sequence[Path] = field(default_factory=tuple)
    trained_on: Sequence[str] = ()  # as `Known.trained_on`; empty: nobody knows

    @property
    def paths(self) -> list[Path]:
        """Those that are there."""
        return [path for path in (self.leak, self.safety, *self.benchmarks) if path is not None]


def gathered(evidence: Evidence) -> Known:
    """The content of the reports.

    Raises:
        DataError: one can't be read or lacks something; names both.
    """
    return Known(
        leak=_read(evidence.leak, LeakReport) if evidence.leak else None,
        safety=_read(evidence.safety, SafetyReport) if evidence.safety else None,
        benchmarks=tuple(_read(path, BenchmarkReport) for path in evidence.benchmarks),
        trained_on=tuple(evidence.trained_on),
    )


def lineage(folder: Path) -> tuple[str, ...]:
    """Digests of a data set's manifest and of those that it was made of, however far back.

    Raises:
        DataError: the folder is no data set.
    """
    from instructdiffusion.model.data.shards import MANIFEST, Manifest

    manifest = Manifest.load(folder)
    before = [digest for version in manifest.history for digest in (version.digest, *version.parents)]
    return tuple(dict.fromkeys([digest_of(folder / MANIFEST), *manifest.parents, *before]))


def stranger(what: str, of: str, wanted: str, command: str) -> str:
    """Why a report does not count; empty: it does.

    Args:
        what: the report, in words.
        of: digest of the model or the data that it says it is of; empty: it does not say.
        wanted: digest of what is judged.
        command: of ours, which makes the report that is wanted.
    """
    if of == wanted:
        return ""
    told = f"is of {of}, not of {wanted}" if of else "does not say what it is of"
    return f"{what} {told}; run: instructdiffusion {command}"


def _read(path: Path, kind: type[Report]) -> Report:
    try:
        return kind.model_validate(json.loads(path.read_text()))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DataError(f"report {path}: {wrong}; is it another report?") from None
    except (OSError, ValueError) as error:
        raise DataError(f"report {path} can't be read ({error}); make it again") from None
