"""Step: decide whether a challenger may take the champion's place.

The rule is a pure function of a policy, of two evaluations of the same held-out samples, and of what else is known of
the challenger. Samples are compared in pairs, so that what is hard about a sample cancels out; each comparison carries
a bootstrap interval: noise decides nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, computed_field

from instructdiffusion.components.change import Change, mean_change
from instructdiffusion.components.evidence import Evidence, Known, gathered
from instructdiffusion.components.gate_page import page, shown
from instructdiffusion.components.hacks import benchmarks_hacked, tasks_hacked
from instructdiffusion.components.policy import Check, Margins, Policy, checked
from instructdiffusion.components.step import Made, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of, write_atomic

if TYPE_CHECKING:
    from instructdiffusion.components.change import Scores

EVALUATION, VERDICT, PAGE = "evaluation.json", "verdict.json", "verdict.html"


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
    policy: Policy = Policy()
    checks: tuple[Check, ...] = Field((), description="what else the policy asks for")
    flags: tuple[str, ...] = Field((), description="what a person should look at, whether it passed or not")
    notes: tuple[str, ...] = Field((), description="what could not be compared with the champion, and why")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reason(self) -> str:
        """One line for people."""
        told = f"no task fell and the alignment score rose by {shown(self.rise)}"
        return "; ".join(self.reasons) or told


def run(
    challenger: Path,
    champion: Path | None,
    out: Path,
    *,
    margins: Margins | None = None,
    policy: Policy | None = None,
    evidence: Evidence | None = None,
    store: Store | None = None,
) -> Made:
    """Write `verdict.json` and the same as a page, `verdict.html`; facts: the verdict. A refusal is no error.

    Args:
        challenger: folder or file of the challenger's evaluation.
        champion: the same of the champion; None: there is no champion yet.
        out: folder for the verdict.
        margins: how sure to be; None: the policy's.
        policy: what the challenger is held to; None: the default.
        evidence: files of what else is known of the challenger; None: nothing is.
        store: where to upload; None: nowhere.

    Raises:
        DataError: an evaluation or a report can't be read, or the two evaluations don't compare.
        ConfigError: the policy names a task that was not evaluated.
    """
    policy, evidence = _policy(policy, margins), evidence or Evidence()
    inputs = {
        "challenger": digest_of(_file(challenger)),
        "champion": digest_of(_file(champion)) if champion else "",
        "policy": policy.model_dump(mode="json"),
        "evidence": [digest_of(path) for path in evidence.paths],
        "trained_on": list(evidence.trained_on),
    }

    def decide() -> None:
        known = gathered(evidence)
        found = verdict(read(challenger), read(champion) if champion else None, policy=policy, known=known)
        write_atomic(out / PAGE, page(found))
        write_atomic(out / VERDICT, found.model_dump_json(indent=1))

    digest = once(out, inputs, decide)
    return made(out, "verdicts", digest, store, json.loads((out / VERDICT).read_text()))


def verdict(
    challenger: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    margins: Margins | None = None,
    *,
    policy: Policy | None = None,
    known: Known | None = None,
) -> Verdict:
    """Judge two evaluations of the same data; both as in evaluation.json.

    The challenger passes when, beyond noise, no task is below its floor, none below the champion, and the alignment
    score is above the champion's; and when all else that the policy asks for is there. Without a champion the floors,
    which are what doing nothing scores, stand in.

    Args:
        margins: how sure to be; None: the policy's.
        policy: None: the default, which asks for nothing else.
        known: what else is known of the challenger, and the champion's benchmarks; None: nothing.

    Raises:
        DataError: the evaluations are of different data, or a score is not a number.
        ConfigError: the policy names a task that was not evaluated.
    """
    policy = _policy(policy, margins)
    margins = policy.margins
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
            f"the alignment score does not rise over {over} beyond noise: {shown(rise)}, "
            f"its lower end must be above {margins.rise:g}"
        )
    known, model = known or Known(), str(challenger["model"])
    rival = str(champion["model"]) if champion and champion["model"] != model else ""
    checks = checked(policy, challenger, known, rival)
    rose = [row.task for row in rows if row.over_champion is not None and row.over_champion.low > 0]
    drop = policy.watch.drop
    flags, notes = benchmarks_hacked(drop, known.benchmarks, model, rival) if rival else ([], [])
    flags = tasks_hacked(drop, {name: (ours[name], theirs[name]) for name in rose}) + flags
    reasons += [check.told for check in checks if not check.passed]
    reasons += flags if policy.watch.refuse else []
    return Verdict(
        passed=not reasons,
        reasons=tuple(reasons),
        rows=rows,
        rise=rise,
        challenger=model,
        champion=champion["model"] if champion else "",
        data=challenger["data"],
        margins=margins,
        policy=policy,
        checks=checks,
        flags=tuple(flags),
        notes=tuple(notes),
    )


def _policy(policy: Policy | None, margins: Margins | None) -> Policy:
    policy = policy or Policy()
    return policy.model_copy(update={"margins": margins}) if margins else policy


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
        if one.get("spec") and other.get("spec") and one["spec"] != other["spec"]:
            raise DataError(f"{name} was measured by two specs; evaluate both models again, with the same version")


def _row(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any] | None, margins: Margins, level: float) -> Row:
    scores = _array(ours)
    over_floor = mean_change([scores - ours["floor"]], margins, level)
    over_champion = None if theirs is None else mean_change([scores - _array(theirs)], margins, level)
    allowed = -margins.loss * _room(theirs or ours)
    reason = ""
    if over_floor.high < 0:
        reason = f"{name} is below its floor, which doing nothing reaches: {shown(over_floor)}"
    elif over_champion is not None and over_champion.high < allowed:
        reason = f"{name} is below the champion: {shown(over_champion)}"
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
    return mean_change(changes, margins, margins.level)


def _room(row: Mapping[str, Any]) -> float:
    """From doing nothing to what the autoencoder lets through, and at least the spread of the scores.

    Without that least a task that the autoencoder leaves no room would drown the others.
    """
    return max(float(row["bound"] - row["floor"]), float(_array(row).std())) or 1.0


def _array(row: Mapping[str, Any]) -> Scores:
    import numpy as np

    return np.asarray(row["scores"], float)
