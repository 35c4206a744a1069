"""The gate's verdict as a page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instructdiffusion.components.change import Change
    from instructdiffusion.components.gate import Row, Verdict


def page(found: Verdict) -> str:
    """The verdict as one self-contained HTML page."""
    head = "The challenger passes" if found.passed else "The champion stays"
    names = ("task", "metric", "n", "floor", "champion", "challenger", "over floor", "over champion", "")
    body = "".join(_tr(map(escape, _cells(row)), "" if row.passed else " class=bad") for row in found.rows)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{head}</title><style>"
        "body{font:14px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:right;border-bottom:1px solid #ccc}"
        "td:first-child,th:first-child{text-align:left}.bad{background:#fde0dc}</style>"
        f"<h1>{head}</h1><ul>{_items(found.reasons)}</ul><p>Alignment score: {escape(shown(found.rise))}</p>"
        f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{body}</table>{_checks(found)}"
        f"<p>challenger {escape(found.challenger)}<br>champion {escape(found.champion or 'none')}<br>"
        f"data {escape(found.data)}</p></html>\n"
    )


def _checks(found: Verdict) -> str:
    """What else was asked for, what to look at and what was not compared; of what there is nothing, nothing."""
    rows = [(check.name, "passed" if check.passed else "refused", check.told) for check in found.checks]
    body = "".join(_tr(map(escape, cells), "" if cells[1] == "passed" else " class=bad") for cells in rows)
    table = f"<h2>Policy {escape(found.policy.name)}</h2><table>{body}</table>" if rows else ""
    lists = {"To look at": found.flags, "Not compared": found.notes}
    return table + "".join(f"<h2>{title}</h2><ul>{_items(lines)}</ul>" for title, lines in lists.items() if lines)


def _items(lines: Sequence[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    champion = "" if row.champion is None else f"{row.champion:.3f}"
    over = "" if row.over_champion is None else shown(row.over_champion)
    means = (f"{row.floor:.3f}", champion, f"{row.challenger:.3f}")
    return (
        row.task,
        row.metric,
        str(row.n),
        *means,
        shown(row.over_floor),
        over,
        "passed" if row.passed else "refused",
    )


def _tr(cells: Any, attribute: str) -> str:
    return f"<tr{attribute}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def shown(change: Change) -> str:
    """A change with its interval, in a few characters."""
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
