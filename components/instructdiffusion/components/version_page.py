"""What the registry's page shows of a version, so that a lead can decide on it without looking elsewhere.

Links are relative to MLflow's own pages, so that they hold wherever the server is mounted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from instructdiffusion.components.change import Change
from instructdiffusion.components.gate import PAGE, Verdict
from instructdiffusion.components.registry import EVALUATION, kept

LIMIT = 5000  # characters of a description: the width of MLflow's column, which a server's database holds it to
NOTES = "## Notes"  # what follows belongs to people
LEFT_OUT = "Some of this page found no room beside the notes; all of it is among the artifacts of the run."
HEAD = ("task", "metric", "this version", "champion", "change", "floor to bound", "n", "gate")
NONE = "–"
SHEET, SHOWN = "sheet.png", "sheet-small.png"  # the contact sheet, and a copy that fits on the page
WIDTH = 800  # pixels of that copy: what the page has on a screen of 1440, with MLflow's assistant beside it


@dataclass(frozen=True)
class Data:
    """A data set that the version was trained or scored on."""

    name: str
    use: str  # training or evaluation
    digest: str
    triplets: int
    licences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a page is made of."""

    number: str
    run_id: str
    experiment: str  # id
    gate: str  # the tag's value
    reason: str
    evaluation: Mapping[str, Any]  # evaluation.json
    verdict: Verdict | None = None  # None: the first champion
    champion: str = ""  # version that it was held against; empty: none, or one that is not registered
    data: Sequence[Data] = ()
    files: Sequence[str] = ()  # kept beside the version


def page(facts: Facts, before: str = "") -> str:
    """The page in Markdown, with the notes that people left on the one `before`.

    The notes stay whole; of the rest whole parts are left out for which there is no room beside them. Where notes fill
    the page it stays as it was.
    """
    parts = [f"**{facts.gate}**: {facts.reason}.", _held_against(facts), _judged(facts), _table(facts), _reading(facts)]
    parts += [*map(_data, facts.data), _links(facts), _decide(facts.number), _picture(facts)]
    notes = _notes(before)
    if len(notes) > LIMIT:
        return before
    return "".join(f"{part}\n\n" for part in _fitting([*filter(None, parts)], LIMIT - len(notes))) + notes


def _notes(before: str) -> str:
    _, found, notes = before.partition(NOTES)
    notes = notes if found else before  # a description that somebody wrote by hand
    return f"{NOTES}\n\n{notes.strip() or 'Yours to write; what stands below this heading is kept.'}\n"


def _fitting(parts: Sequence[str], room: int) -> list[str]:
    """The parts for which there is room, an empty line after each; where some are left out, that is said instead."""
    if sum(len(part) + 2 for part in parts) <= room:
        return [*parts]
    fitting, room = list[str](), room - len(LEFT_OUT) - 2
    for part in parts:
        if len(part) + 2 <= room:
            fitting.append(part)
            room -= len(part) + 2
    return [*fitting, LEFT_OUT] if room >= 0 else []


def _held_against(facts: Facts) -> str:
    if facts.verdict is None:
        return ""
    if not facts.verdict.champion:
        return "There was no champion: held against doing nothing."
    is_champion = facts.verdict.champion == facts.evaluation["model"]
    other = f"version {facts.champion}" if facts.champion else "a model that is not registered"
    return "Held its place against a challenger." if is_champion else f"Held against {other}, the champion then."


def _verdict(facts: Facts) -> Verdict | None:
    """The verdict, where this version is the one that was judged."""
    return facts.verdict if facts.verdict and facts.verdict.challenger == facts.evaluation["model"] else None


def _judged(facts: Facts) -> str:
    """What else the policy asked for, what a person should look at, and what could not be compared."""
    verdict = _verdict(facts)
    if verdict is None:
        return ""
    lines = [f"- To look at: {flag}." for flag in verdict.flags] + [f"- {note}." for note in verdict.notes]
    if verdict.checks:
        passed = sum(check.passed for check in verdict.checks)
        lines.insert(0, f"- {passed} of {len(verdict.checks)} checks of the policy `{verdict.policy.name}` passed.")
    return "\n".join(lines)


def _table(facts: Facts) -> str:
    verdict = _verdict(facts)
    rows = verdict.rows if verdict else ()
    judged = {row.task: row for row in rows}
    table: list[tuple[str, ...]] = [HEAD]
    for task, score in facts.evaluation["tasks"].items():
        row = judged.get(task)
        table.append(
            (
                task if row is None or row.passed else f"**{task}**",
                str(score["metric"]),
                _span(score),
                NONE if row is None or row.champion is None else f"{row.champion:.3f}",
                NONE if row is None or row.over_champion is None else _change(row.over_champion),
                f"{score['floor']:.3f} to {score['bound']:.3f}",
                str(score["n"]),
                NONE if row is None else "passed" if row.passed else "**refused**",
            )
        )
    ruler = f"|{' --- |' * len(HEAD)}"
    lines = [f"| {'&ensp;| '.join(cells)} |" for cells in table]  # MLflow's own tables have no room between columns
    return "\n".join([lines[0], ruler, *lines[1:]])


def _reading(facts: Facts) -> str:
    """How the numbers are meant; where there was a verdict, the score that it turned on too."""
    meant = (
        "Brackets are 95 % intervals. The floor is what doing nothing scores, the bound what the autoencoder lets "
        "through. The change is sample by sample; the gate refuses a task that is below its floor or the champion "
        "beyond noise."
    )
    if facts.verdict is None:
        return meant
    return f"Alignment score, 0 the floor and 1 the bound: **{_change(facts.verdict.rise)}**. {meant}"


def _links(facts: Facts) -> str:
    at = f"#/experiments/{facts.experiment}/runs/{facts.run_id}/artifacts/{kept(facts.number)}"
    names = {PAGE: "the gate's report", EVALUATION: "every score", SHEET: "pictures"}
    found = [f"[{title}]({at}/{name})" for name, title in names.items() if name in facts.files]
    found += [f"[manifest of {name.split('/')[1]}]({at}/{name})" for name in facts.files if name.startswith("data/")]
    return " · ".join([*found, f"[the run](#/experiments/{facts.experiment}/runs/{facts.run_id})"])


def _picture(facts: Facts) -> str:
    if SHOWN not in facts.files:
        return ""
    path = quote(f"{kept(facts.number)}/{SHOWN}", safe="")
    return f"![source, output and target of held-out samples](get-artifact?path={path}&run_uuid={facts.run_id})"


def _data(data: Data) -> str:
    use = {"training": "Trained on", "evaluation": "Scored on"}.get(data.use, f"Used ({data.use})")
    licences = f"; {', '.join(data.licences)}" if data.licences else ""
    return f"{use} `{data.name}`, {data.triplets} triplets, `{data.digest[:19]}`{licences}."


def _decide(number: str) -> str:
    return (
        f"To promote, give this version the alias `champion`, here or with `instructdiffusion promote {number}`; "
        "`instructdiffusion rollback` takes it back."
    )


def _span(score: Mapping[str, float]) -> str:
    return f"{score['value']:.3f} [{score.get('low', score['value']):.3f}, {score.get('high', score['value']):.3f}]"


def _change(change: Change) -> str:
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
