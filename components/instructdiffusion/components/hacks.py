"""What looks like a reward that was hacked: likeness that rises over the champion's while the background falls.

Models are compared sample by sample: how hard a sample is, and its background, cancels out. Noise flags nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from instructdiffusion.components.evidence import BenchmarkReport
from instructdiffusion.model.interval import interval, paired

BACKGROUND = "background"
# Of benchmarks: likeness in a network's space, and the points of a predictor and of a judge, which can be pleased too.
LIKENESS = ("clip_sim", "clip_t", "clip_i", "dino", "direction", "aesthetic", "follows", "quality", "overall")


def tasks_hacked(drop: float, rose: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """What looks hacked of the tasks whose score rose (challenger's row, champion's row).

    Args:
        drop: dB that a background may fall.

    Raises:
        DataError: a background was scored on different numbers of samples.
    """
    flags = []
    for name, rows in rose.items():
        ours, theirs = (row.get("also", {}).get(BACKGROUND, {}).get("scores") or () for row in rows)
        flags += _flags([name], paired(f"the background of {name}", theirs, ours), drop)
    return flags


def benchmarks_hacked(
    drop: float, reports: Sequence[BenchmarkReport], challenger: str, champion: str
) -> tuple[list[str], list[str]]:
    """What looks hacked of the benchmarks that both models were measured by, and what was not compared and why.

    Two reports are compared when they are of the same data, metric by metric when of the same spec and samples. Those
    that measure no likeness, or are of neither model, are passed over.

    Args:
        drop: dB that a background may fall.
        challenger, champion: digests.
    """
    flags, notes = list[str](), list[str]()
    ours, theirs = ([r for r in reports if r.model == model and _likeness(r)] for model in (challenger, champion))
    for report, other in [(a, b) for a in ours for b in theirs if _place(a) == _place(b)]:
        changes = {name: _changes(name, other, report) for name in (BACKGROUND, *_likeness(report))}
        told = {name: why for name, why in changes.items() if isinstance(why, str)}
        notes += [f"{_named(report, name)} was not compared with the champion's: {why}" for name, why in told.items()]
        rose = [name for name, change in changes.items() if not isinstance(change, str) and interval(change)[1] > 0]
        background = changes[BACKGROUND]
        if not isinstance(background, str):
            flags += _flags([_named(report, name) for name in rose if name != BACKGROUND], background, drop)
    for side, others, whose in ((ours, theirs, "champion"), (theirs, ours, "challenger")):
        there = set(map(_place, others))
        notes += [
            f"{_named(report)} was not compared: there is no report of the {whose}'s on the same data; "
            f"run: instructdiffusion benchmark run {report.benchmark} --model DIR, and give its report"
            for report in side
            if _place(report) not in there
        ]
    return flags, notes


def _flags(rose: Sequence[str], background: Sequence[float], drop: float) -> list[str]:
    """One for each name of what rose, where the background fell; `background` is its change on each sample, dB."""
    if not rose or not background:
        return []
    change, _, high = interval(background)
    if -change <= drop or high >= 0:
        return []
    fell = f"rose while its background fell by {-change:.2f} dB"
    return [f"{name} {fell}: the measure may have been hacked; look at its pictures" for name in rose]


def _changes(metric: str, before: BenchmarkReport, after: BenchmarkReport) -> list[float] | str:
    """By how much a metric changed on each sample; as a text, why nobody knows."""
    old, new = before.values.get(metric), after.values.get(metric)
    if old is None or new is None:
        return "it was not measured"
    if old.value is None or new.value is None:
        return new.missing or old.missing or "it has no value"
    if old.spec != new.spec:
        return "it was measured by another spec"
    ours, theirs = after.scores.get(metric), before.scores.get(metric)
    if not ours or not theirs:
        return "a report holds no scores of its samples; run: instructdiffusion benchmark merge DIR"
    if ours.keys() != theirs.keys():
        return "it was measured on other samples"
    return [score - theirs[sample] for sample, score in ours.items()]


def _likeness(report: BenchmarkReport) -> list[str]:
    return [name for name in report.values if name in LIKENESS]


def _place(report: BenchmarkReport) -> tuple[str, str, str]:
    return report.benchmark, report.data, report.split


def _named(report: BenchmarkReport, metric: str = "") -> str:
    return f"{report.benchmark}{metric and f'/{metric}'} on {report.data}"
