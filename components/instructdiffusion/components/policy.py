"""The gate's policy: what a challenger is held to, written in YAML, and what is read of it from reports.

    name: release
    floors: {remove: 6.0, remove/background: 30.0}   # the lower end of the interval must reach it
    benchmarks: {keypoints/oks_ap: 0.5}              # the same, of reports that `benchmark merge` wrote
    leak: required
    safety: required
    latency: 2.5
    watch: {drop: 1.0, refuse: true}

Left out, a field asks for nothing; an empty policy is the default. A report that is given counts whatever the policy
asks for: a leak that was found refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instructdiffusion.components.measure import Measure
from instructdiffusion.model.errors import ConfigError, DataError

Need = Literal["optional", "required"]


class Margins(BaseModel):
    """How sure the gate wants to be, and how much it lets pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    level: float = Field(default=0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    loss: float = Field(
        default=0.0, ge=0, description="What a task may lose against the champion, as a share of its room."
    )
    rise: float = Field(default=0.0, ge=0, description="What the alignment score must rise by at least.")
    aligned: tuple[str, ...] = Field(default=(), description="Tasks the alignment score is made of; empty: all.")
    resamples: int = Field(default=2000, ge=100, description="Resamples of a bootstrap.")
    seed: int = Field(default=0, ge=0, description="Seed of the bootstrap: the same scores give the same verdict.")


class Watch(BaseModel):
    """When likeness that rises is mistrusted: a model may learn to please its measure and wreck the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    drop: float = Field(
        default=1.0, ge=0, description="dB that the background's PSNR may fall while a task's score rises."
    )
    refuse: bool = Field(default=False, description="Refuse what is flagged; else a person is told to look.")


class Probes(BaseModel):
    """What the safety probes ask for beside what they always do."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    forbidden: tuple[Literal["watermark"], ...] = Field((), description="Tasks that a model must not do.")
    nsfw: str = Field("", description="Folder or s3:// address of a picture classifier with a harmful class.")


class Policy(BaseModel):
    """What a challenger is held to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = "default"
    margins: Margins = Margins()
    floors: dict[str, float] = Field(
        default={}, description="By task, or task/measure: what the lower end of its interval must reach."
    )
    benchmarks: dict[str, float] = Field(
        default={}, description="By benchmark/metric: the same; of metrics where less is better, the upper end."
    )
    leak: Need = Field(default="optional", description="Whether the report on leaks must be there.")
    safety: Need = Field(default="optional", description="Whether the report of the safety probes must be there.")
    measure: Measure = Field(default=Measure(), description="How a pipeline measures these benchmarks.")
    probes: Probes = Probes()
    latency: float | None = Field(
        default=None, gt=0, description="Seconds a sample, of 95 in 100, in every benchmark's report."
    )
    watch: Watch = Watch()

    @staticmethod
    def load(path: Path) -> Policy:
        """Read a policy.

        Raises:
            ConfigError: the file can't be read, or a field is wrong; names all that are.
        """
        import yaml

        try:
            return Policy.model_validate(yaml.safe_load(path.read_text()) or {})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"policy {path}: {wrong}") from None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"policy {path} can't be read ({str(error).splitlines()[0]}); give a YAML file") from None


class Check(BaseModel):
    """One thing that the policy asks for."""

    model_config = ConfigDict(frozen=True)
    name: str
    passed: bool
    told: str


@dataclass(frozen=True)
class Evidence:
    """Reports on the challenger, as files; None or empty: there is none."""

    leak: Path | None = None
    safety: Path | None = None
    benchmarks: Sequence[Path] = field(default_factory=tuple)

    @property
    def paths(self) -> list[Path]:
        """Those that are there."""
        return [path for path in (self.leak, self.safety, *self.benchmarks) if path is not None]


def gathered(evidence: Evidence) -> dict[str, Any]:
    """The content of the reports.

    Raises:
        DataError: one can't be read; names it.
    """
    known: dict[str, Any] = {"benchmarks": [_read(path, "values", "latency") for path in evidence.benchmarks]}
    if evidence.leak is not None:
        known["leak"] = _read(evidence.leak, "clean")
    if evidence.safety is not None:
        known["safety"] = _read(evidence.safety, "probes")
    return known


def checked(policy: Policy, evaluation: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[Check, ...]:
    """Hold a challenger to what the policy asks for beside the comparison with the champion. A pure function.

    Raises:
        ConfigError: a floor names what was not evaluated.
    """
    checks = [_floor(name, least, evaluation["tasks"]) for name, least in policy.floors.items()]
    reports = {report["benchmark"]: report for report in known.get("benchmarks", ())}
    checks += [_benchmark(name, least, reports, evaluation) for name, least in policy.benchmarks.items()]
    if "leak" in known or policy.leak == "required":
        checks.append(_leak(known.get("leak"), evaluation))
    if "safety" in known or policy.safety == "required":
        checks.append(_safety(known.get("safety"), evaluation))
    if policy.latency is not None:
        checks.append(_latency(policy.latency, reports))
    return tuple(checks)


def measured(policy: Policy) -> list[str]:
    """The benchmarks that a policy names, each with its own limit."""
    return sorted({name.partition("/")[0] for name in policy.benchmarks})


def watched(policy: Policy, rose: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """What looks like a reward that was hacked, of the tasks whose score rose (challenger's row, champion's row).

    The background is compared sample by sample: how hard a sample's background is cancels out.
    """
    from instructdiffusion.model.interval import interval

    flags = []
    for name, rows in rose.items():
        ours, theirs = (row.get("also", {}).get("background", {}).get("scores") for row in rows)
        pairs = [a - b for a, b in zip(ours or (), theirs or (), strict=False) if a is not None and b is not None]
        if not pairs:
            continue
        change, _, high = interval(pairs)
        if -change > policy.watch.drop and high < 0:
            flags.append(
                f"{name} rose while its background fell by {-change:.2f} dB: "
                "the measure may have been hacked; look at its pictures"
            )
    return flags


def _floor(name: str, least: float, tasks: Mapping[str, Any]) -> Check:
    task, _, measure = name.partition("/")
    row = tasks.get(task, {})
    found = row.get("also", {}).get(measure) if measure and measure != row.get("metric") else row
    if not found or "low" not in found:
        raise ConfigError(f"policy.floors names {name}, which was not evaluated; name other tasks")
    told = f"{name} is {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}], its floor {least:g}"
    return Check(name=f"floor of {name}", passed=found["low"] >= least, told=told)


def _benchmark(name: str, least: float, reports: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Check:
    bench, _, metric = name.partition("/")
    title, report = f"benchmark {name}", reports.get(bench)
    if report is None or metric not in report["values"]:
        return Check(name=title, passed=False, told=f"{name} was not measured; run the benchmark and give its report")
    value = report["values"][metric]
    if str(evaluation["model"]) not in report["editor"]:
        return Check(name=title, passed=False, told=f"{name} was measured on {report['editor']}, another model")
    if value["value"] is None:
        return Check(name=title, passed=False, told=f"{name} has no value: {value['missing']}")
    lower = value["spec"]["better"] == "lower"
    passed = value["high"] <= least if lower else value["low"] >= least
    told = f"{name} is {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}], its limit {least:g}"
    return Check(name=title, passed=passed, told=told)


def _leak(report: Mapping[str, Any] | None, evaluation: Mapping[str, Any]) -> Check:
    """`{"clean": bool, "found": [...], "held_out": number}`; a digest there must be that of the data scored on."""
    if report is None:
        return Check(name="leak", passed=False, told="there is no report on leaks between training and held-out data")
    looked, found = report.get("held_out"), report.get("found", "")
    if isinstance(looked, str) and looked != evaluation["data"]:
        return Check(name="leak", passed=False, told=f"the report on leaks is of {looked}, not of the data scored on")
    if looked == 0:
        return Check(name="leak", passed=False, told="the report on leaks looked at no held-out sample")
    seen = f"{len(found)}, as {json.dumps(found[0])[:200]}" if isinstance(found, list) and found else found or ""
    told = "no leak was found" if report["clean"] is True else f"training saw held-out samples: {seen}"
    return Check(name="leak", passed=report["clean"] is True, told=told.rstrip(": "))


def _safety(report: Mapping[str, Any] | None, evaluation: Mapping[str, Any]) -> Check:
    """`{"model": digest, "probes": [{"name": text, "passed": bool}]}`."""
    if report is None or not report["probes"]:
        return Check(name="safety", passed=False, told="there is no report of safety probes")
    if report.get("model", evaluation["model"]) != evaluation["model"]:
        return Check(name="safety", passed=False, told=f"the safety probes are of {report['model']}, another model")
    failed = [str(probe["name"]) for probe in report["probes"] if probe.get("passed") is not True]
    told = f"safety probes failed: {', '.join(failed)}" if failed else f"{len(report['probes'])} safety probes passed"
    return Check(name="safety", passed=not failed, told=told)


def _latency(budget: float, reports: Mapping[str, Any]) -> Check:
    if not reports:
        return Check(name="latency", passed=False, told="there is no benchmark's report to take the latency from")
    slowest = max(reports, key=lambda name: reports[name]["latency"]["p95"])
    seconds = reports[slowest]["latency"]["p95"]
    told = f"95 of 100 samples of {slowest} take up to {seconds:.3f} s, the budget is {budget:g} s"
    return Check(name="latency", passed=seconds <= budget, told=told)


def _read(path: Path, *needed: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"report {path} can't be read ({error}); make it again") from None
    if not isinstance(content, dict) or not set(needed) <= content.keys():
        raise DataError(f"report {path} lacks {', '.join(needed)}; is it another report?")
    return content
