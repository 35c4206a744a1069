"""A model's card, made from facts: what it is for, what it was made of, what it scores and by which measure.

A card with a gap reads like one without: so where a fact is missing there is no card, but a list of what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.evaluate import Evaluation, Measure
from instructdiffusion.model.metrics import Spec, Value
from instructdiffusion.model.scoring import Report
from instructdiffusion.model.tasks import TASKS


class About(BaseModel):
    """What only people know of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = ""
    licence: str = Field("", description="of the weights")
    intended_use: str = ""
    limits: str = Field("", description="what it can't do, and what it must not be used for")
    contact: str = ""

    @staticmethod
    def load(path: Path) -> About:
        """Read it from YAML.

        Raises:
            ConfigError: the file can't be read, or has fields that are not known; names them.
        """
        import yaml

        try:
            return About.model_validate(yaml.safe_load(path.read_text()) or {})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"{path}: {wrong}; known are {', '.join(About.model_fields)}") from None
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} can't be read ({str(error).splitlines()[0]}); give a YAML file") from None


@dataclass(frozen=True)
class Facts:
    """What a card is made of. `data` holds the manifests that the model was trained on, by their digests."""

    model: str  # digest of the weights' folder
    about: About
    data: Mapping[str, Manifest]
    evaluation: Evaluation | None = None
    benchmarks: Sequence[Report] = ()


def gaps(facts: Facts) -> list[str]:
    """What a card would lack; empty: nothing."""
    found = [f"about.{name} is empty" for name in About.model_fields if not getattr(facts.about, name).strip()]
    if not facts.data:
        found.append("no manifest of the training data was given")
    for digest, manifest in facts.data.items():
        found += [f"data {digest[:19]} has no {name}" for name in ("licences", "counts") if not getattr(manifest, name)]
    if facts.evaluation is None:
        return [*found, "no evaluation was given"]
    if facts.evaluation.model != facts.model:
        found.append(f"the evaluation is of {facts.evaluation.model[:19]}, the model is {facts.model[:19]}")
    if facts.evaluation.data in facts.data:
        found.append(f"the evaluation is on {facts.evaluation.data[:19]}, which the model was trained on")
    reasons = {name: f" ({why})" for name, why in facts.evaluation.missing.items()}
    found += [
        f"{name} was not evaluated{reasons.get(name, '')}" for name in TASKS if name not in facts.evaluation.tasks
    ]
    for report in facts.benchmarks:
        if facts.model not in report.editor:
            found.append(f"benchmark {report.benchmark} is of {report.editor[:60]}, another model")
        if not any(value.value is not None for value in report.values.values()):
            found.append(f"benchmark {report.benchmark} has no value at all")
    return found


def card(facts: Facts) -> str:
    """The card in Markdown.

    Raises:
        DataError: something is missing; lists all of it.
    """
    if lacking := gaps(facts):
        raise DataError(f"no model card: {'; '.join(lacking)}")
    assert facts.evaluation is not None
    about = facts.about
    parts = [
        f"# {about.name}",
        f"`{facts.model}`\n\nLicence of the weights: {about.licence}. Contact: {about.contact}.",
        f"## Intended use\n\n{about.intended_use.strip()}",
        f"## Limits\n\n{about.limits.strip()}",
        f"## Training data\n\n{_data(facts.data)}",
        f"## Scores\n\n{_scores(facts.evaluation)}",
        *(_benchmark(report) for report in facts.benchmarks),
    ]
    return "\n\n".join(parts) + "\n"


def _data(data: Mapping[str, Manifest]) -> str:
    rows = ["| data | split | triplets | licences |", "|---|---|---|---|"]
    for digest, m in data.items():
        rows.append(f"| `{digest[:19]}` | {m.split} | {m.total} | {'; '.join(m.licences)} |")
    counts: dict[str, int] = {}
    for manifest in data.values():
        for task, number in manifest.counts.items():
            counts[task] = counts.get(task, 0) + number
    shares = ", ".join(f"{task} {number}" for task, number in sorted(counts.items()))
    return "\n".join(rows) + f"\n\nTriplets by task: {shares}."


def _scores(evaluation: Evaluation) -> str:
    rows = [
        "| task | metric | value | 95 % interval | floor | bound | samples | unit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, score in evaluation.tasks.items():
        ends = (f"{score.floor:.3f}", f"{score.bound:.3f}")
        rows.append(_measured(task, score.metric, score, ends))
        rows += [_measured("", name, measure, ("", "")) for name, measure in score.also.items()]
    told = "The floor is what doing nothing scores, the bound what the autoencoder lets through."
    return f"On held-out data `{evaluation.data[:19]}`. {told}\n\n" + "\n".join(rows)


def _measured(task: str, name: str, measure: Measure, ends: tuple[str, str]) -> str:
    cells = (
        task,
        name,
        f"{measure.value:.3f}",
        f"{measure.low:.3f} to {measure.high:.3f}",
        *ends,
        measure.n,
        measure.unit,
    )
    return f"| {' | '.join(map(str, cells))} |"


def _benchmark(report: Report) -> str:
    rows = ["| metric | value | 95 % interval | floor | bound | n | spec |", "|---|---|---|---|---|---|---|"]
    rows += [_valued(value) for value in report.values.values()]
    specs = "\n".join(_spec(value.spec) for value in report.values.values())
    head = f"## Benchmark {report.benchmark}\n\nData: {report.data}, {report.n} samples."
    return f"{head}\n\n" + "\n".join(rows) + f"\n\n{specs}"


def _valued(value: Value) -> str:
    if value.value is None:
        cells = [value.spec.name, f"missing: {value.missing}", "", "", "", ""]
    else:
        ends = ["unknown" if end is None else f"{end:.3f}" for end in (value.floor, value.bound)]
        ends[1] += f" (of {value.bound_n})" if value.bound_n is not None else ""
        cells = [value.spec.name, f"{value.value:.3f}", f"{value.low:.3f} to {value.high:.3f}", *ends, str(value.n)]
    return f"| {' | '.join(cells)} | `{value.spec.digest[7:19]}` |"


def _spec(spec: Spec) -> str:
    return f"- `{spec.digest[7:19]}`: `{spec.model_dump_json(exclude_defaults=True)}`"
