"""Step: decide whether a challenger may take the champion's place.

The rule is a pure function of two evaluations of the same held-out samples. Samples are compared in pairs, so
that what is hard about a sample cancels out; each comparison carries a bootstrap interval: noise decides nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, computed_field

from instructdiffusion.components.step import Made, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of, write_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]

EVALUATION, VERDICT, PAGE = "evaluation.json", "verdict.json", "verdict.html"


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


class Change(BaseModel):
    """A mean difference with its interval."""

    model_config = ConfigDict(frozen=True)
    value: float
    low: float
    high: float


class Row(BaseModel):
    """What the gate found on one task; scores are means in the unit of the task's metric."""

    model_config = ConfigDict(frozen=True)
    task: str
    metric: str
    n: int
    floor: float
    champion: float | None
    challenger: float
    over_floor: Change
    over_champion: Change | None
    passed: bool
    reason: str = ""


class Verdict(BaseModel):
    """Whether the challenger passed, and why not. Models and data are named by their digests."""

    model_config = ConfigDict(frozen=True)
    passed: bool
    reasons: tuple[str, ...]
    rows: tuple[Row, ...]
    rise: Change = Field(description="Of the alignment score: 0 the floor, 1 what the autoencoder lets through.")
    challenger: str
    champion: str = Field(description="Empty: there was none, and the challenger is held against doing nothing.")
    data: str
    margins: Margins

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reason(self) -> str:
        """One line for people."""
        told = f"no task fell and the alignment score rose by {_shown(self.rise)}"
        return "; ".join(self.reasons) or told


def run(
    challenger: Path,
    champion: Path | None,
    out: Path,
    *,
    margins: Margins | None = None,
    store: Store | None = None,
) -> Made:
    """Write `verdict.json` and the same as a page, `verdict.html`; facts: the verdict. A refusal is no error.

    Args:
        challenger: folder or file of the challenger's evaluation.
        champion: the same of the champion; None: there is no champion yet.
        out: folder for the verdict.
        margins: how sure to be; None: the defaults.
        store: where to upload; None: nowhere.

    Raises:
        DataError: an evaluation can't be read, or the two don't compare.
        ConfigError: the margins name a task that was not evaluated.
    """
    margins = margins or Margins()
    inputs = {
        "challenger": digest_of(_file(challenger)),
        "champion": digest_of(_file(champion)) if champion else "",
        "margins": margins.model_dump(mode="json"),
    }

    def decide() -> None:
        found = verdict(read(challenger), read(champion) if champion else None, margins)
        write_atomic(out / PAGE, page(found))
        write_atomic(out / VERDICT, found.model_dump_json(indent=1))

    digest = once(out, inputs, decide)
    return made(out, "verdicts", digest, store, json.loads((out / VERDICT).read_text()))


def verdict(
    challenger: Mapping[str, Any], champion: Mapping[str, Any] | None, margins: Margins | None = None
) -> Verdict:
    """Judge two evaluations of the same data; both as in evaluation.json.

    The challenger passes when, beyond noise, no task is below its floor, none below the champion, and the alignment
    score is above the champion's. Without a champion the floors, which are what doing nothing scores, stand in.

    Raises:
        DataError: the evaluations are of different data, or a score is not a number.
        ConfigError: the margins name a task that was not evaluated.
    """
    margins = margins or Margins()
    _comparable(challenger, champion, margins)
    tasks = {**challenger["tasks"], **(champion["tasks"] if champion else {})}
    ours, theirs = challenger["tasks"], champion["tasks"] if champion else {}
    # One chance in twenty of a false alarm is meant for the whole verdict, not for each of its comparisons.
    level = 1 - (1 - margins.level) / (2 * len(tasks))
    rows = tuple(_row(name, ours[name], theirs.get(name), margins, level) for name in tasks if name in ours)
    reasons = [f"{name} was not evaluated, the champion was" for name in tasks if name not in ours]
    reasons += [row.reason for row in rows if not row.passed]
    rise = _rise(ours, theirs, margins)
    if not rise.low > margins.rise:
        over = "the champion" if champion else "doing nothing"
        reasons.append(
            f"the alignment score does not rise over {over} beyond noise: {_shown(rise)}, "
            f"its lower end must be above {margins.rise:g}"
        )
    return Verdict(
        passed=not reasons,
        reasons=tuple(reasons),
        rows=rows,
        rise=rise,
        challenger=challenger["model"],
        champion=champion["model"] if champion else "",
        data=challenger["data"],
        margins=margins,
    )


def read(evaluation: Path) -> dict[str, Any]:
    """Read an evaluation from its folder or file; DataError if there is none or it is damaged."""
    path = _file(evaluation)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read ({error}); run the evaluate step again") from None
    if not isinstance(content, dict) or not {"tasks", "model", "data"} <= content.keys():
        raise DataError(f"{path} is no evaluation; run the evaluate step again")
    return content


def page(found: Verdict) -> str:
    """The verdict as one self-contained HTML page."""
    from html import escape

    head = "The challenger passes" if found.passed else "The champion stays"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in found.reasons)
    names = ("task", "metric", "n", "floor", "champion", "challenger", "over floor", "over champion", "")
    body = "".join(_tr(map(escape, _cells(row)), "" if row.passed else " class=bad") for row in found.rows)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{head}</title><style>"
        "body{font:14px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:right;border-bottom:1px solid #ccc}"
        "td:first-child,th:first-child{text-align:left}.bad{background:#fde0dc}</style>"
        f"<h1>{head}</h1><ul>{reasons}</ul><p>Alignment score: {escape(_shown(found.rise))}</p>"
        f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{body}</table>"
        f"<p>challenger {escape(found.challenger)}<br>champion {escape(found.champion or 'none')}<br>"
        f"data {escape(found.data)}</p></html>\n"
    )


def _cells(row: Row) -> tuple[str, ...]:
    champion = "" if row.champion is None else f"{row.champion:.3f}"
    over = "" if row.over_champion is None else _shown(row.over_champion)
    means = (f"{row.floor:.3f}", champion, f"{row.challenger:.3f}")
    return (
        row.task,
        row.metric,
        str(row.n),
        *means,
        _shown(row.over_floor),
        over,
        "passed" if row.passed else "refused",
    )


def _tr(cells: Any, attribute: str) -> str:
    return f"<tr{attribute}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _shown(change: Change) -> str:
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _file(evaluation: Path) -> Path:
    return evaluation / EVALUATION if evaluation.is_dir() else evaluation


def _comparable(challenger: Mapping[str, Any], champion: Mapping[str, Any] | None, margins: Margins) -> None:
    tasks = challenger["tasks"]
    if not tasks:
        raise DataError("the challenger's evaluation holds no task; run the evaluate step again")
    if unknown := set(margins.aligned) - tasks.keys():
        raise ConfigError(f"margins.aligned names {min(unknown)}, which was not evaluated; name other tasks")
    both = [challenger] if champion is None else [challenger, champion]
    for name, row in [item for evaluation in both for item in evaluation["tasks"].items()]:
        if not row["scores"] or not all(map(math.isfinite, (*row["scores"], row["floor"], row["bound"]))):
            raise DataError(f"a score of {name} is missing or not a number; run the evaluate step again")
    if champion is None:
        return
    if challenger["data"] != champion["data"]:
        raise DataError(
            f"the evaluations are of different data ({challenger['data']}, {champion['data']}); "
            "evaluate both models on the same"
        )
    for name in tasks.keys() & champion["tasks"].keys():
        one, other = tasks[name], champion["tasks"][name]
        if (one["metric"], len(one["scores"])) != (other["metric"], len(other["scores"])):
            raise DataError(f"{name} was evaluated in two ways; evaluate both models with the same limit")


def _row(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any] | None, margins: Margins, level: float) -> Row:
    scores = _array(ours)
    over_floor = _change([scores - ours["floor"]], margins, level)
    over_champion = None if theirs is None else _change([scores - _array(theirs)], margins, level)
    allowed = -margins.loss * _room(theirs or ours)
    reason = ""
    if over_floor.high < 0:
        reason = f"{name} is below its floor, which doing nothing reaches: {_shown(over_floor)}"
    elif over_champion is not None and over_champion.high < allowed:
        reason = f"{name} is below the champion: {_shown(over_champion)}"
    return Row(
        task=name,
        metric=ours["metric"],
        n=len(scores),
        floor=ours["floor"],
        champion=None if theirs is None else float(_array(theirs).mean()),
        challenger=float(scores.mean()),
        over_floor=over_floor,
        over_champion=over_champion,
        passed=not reason,
        reason=reason,
    )


def _rise(ours: Mapping[str, Any], theirs: Mapping[str, Any], margins: Margins) -> Change:
    """How far the alignment score rises: the mean over tasks of the change as a share of the task's room.

    A share, because tasks are measured in decibels and in ratios; tasks weigh the same however many samples they have.
    """
    changes = []
    for name in margins.aligned or ours:
        row, other = ours[name], theirs.get(name)
        before = row["floor"] if other is None else _array(other)
        changes.append((_array(row) - before) / _room(other or row))
    return _change(changes, margins, margins.level)


def _room(row: Mapping[str, Any]) -> float:
    """From doing nothing to what the autoencoder lets through, and at least the spread of the scores.

    Without that least a task that the autoencoder leaves no room would drown the others.
    """
    return max(float(row["bound"] - row["floor"]), float(_array(row).std())) or 1.0


def _array(row: Mapping[str, Any]) -> Scores:
    import numpy as np

    return np.asarray(row["scores"], float)


def _change(groups: Sequence[Scores], margins: Margins, level: float) -> Change:
    """The mean over groups of each group's mean, with its interval; each group is resampled by itself."""
    import numpy as np
    from scipy.stats import bootstrap

    value = float(np.mean([group.mean() for group in groups]))
    if all(np.ptp(group) == 0 for group in groups):  # nothing to resample: equal models, or one sample
        return Change(value=value, low=value, high=value)

    def mean(*samples: Scores, axis: int) -> Scores:
        return np.asarray(np.mean([sample.mean(axis=axis) for sample in samples], axis=0), float)

    pairs = [np.repeat(group, 2) if len(group) == 1 else group for group in groups]  # one sample has no spread
    found = bootstrap(
        pairs,
        mean,
        confidence_level=level,
        n_resamples=margins.resamples,
        method="percentile",
        batch=100,
        rng=np.random.default_rng(margins.seed),
    ).confidence_interval
    return Change(value=value, low=float(found.low), high=float(found.high))
