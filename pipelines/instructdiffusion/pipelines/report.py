"""The report of a run: one page with its pictures inside, readable without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructdiffusion.model.files import write_atomic
from instructdiffusion.pipelines.answers import Answer

if TYPE_CHECKING:
    from instructdiffusion.model.effects import Effect

TEMPLATE = "report.html.j2"
COLOURS = ("#0b6e99", "#c2571a", "#5a7d2a")
SIZE = (4.0, 2.3)  # inches of a figure


@dataclass(frozen=True)
class Contents:
    """What a report shows. Documents are those that the steps wrote."""

    summary: Mapping[str, Any]  # as in summary.json
    champion: Mapping[str, Any] | None  # evaluation.json of the model that the aligned one was held against
    challenger: Mapping[str, Any]  # and of the aligned one
    sheets: Mapping[str, Path]  # contact sheet by task, of the model that serves
    trainings: Mapping[str, Mapping[str, Any]]  # training.json by the model's name
    answers: Sequence[Answer] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def write(path: Path, contents: Contents) -> Path:
    """Write the page."""
    return write_atomic(path, render(contents))


def render(contents: Contents) -> str:
    """The page as text; everything that came from data is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"png": png_uri, "file": lambda path: png_uri(Path(path).read_bytes())}
    environment.filters |= {"number": number, "duration": duration, "span": span}
    text = (resources.files("instructdiffusion.pipelines") / TEMPLATE).read_text()
    return environment.from_string(text).render(
        c=contents,
        s=contents.summary,
        rows=rows(contents.champion, contents.challenger),
        curves=curves(contents.trainings),
        alignment_plots=alignment_plots(contents.summary["alignment"]),
    )


def rows(champion: Mapping[str, Any] | None, challenger: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per task: both models' scores beside floor, bound and bar."""
    table = []
    for task, after in challenger["tasks"].items():
        before = champion["tasks"].get(task) if champion else None
        change = after["value"] - before["value"] if before else None
        table.append({"task": task, "before": before, "after": after, "change": change})
    return table


def number(value: float | None, digits: int = 2) -> str:
    """A number for a table; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def span(score: Mapping[str, float], digits: int = 2) -> str:
    """A value with its interval."""
    return f"{score['value']:.{digits}f} [{score['low']:.{digits}f}, {score['high']:.{digits}f}]"


def duration(seconds: float) -> str:
    """Seconds for people: `8.1 s`, `3 min 20 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s"


def png_uri(data: bytes) -> str:
    """PNG bytes as an address that holds them."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def curves(trainings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The loss of every training over its steps, but those that were left out, as pictures by the model's name."""
    drawn = {}
    for (name, training), colour in zip(trainings.items(), cycle(COLOURS), strict=False):
        if not (curve := [point for point in training.get("curve") or () if "loss" in point]):
            continue
        figure, axis = _figure()
        steps = [point["step"] for point in curve]
        axis.plot(steps, [point["loss"] for point in curve], color=colour, marker="o", markersize=2.5, linewidth=1.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_xlabel("optimizer step")
        axis.set_ylabel("loss")
        drawn[name] = _svg(figure)
    return drawn


def histogram(title: str, spread: Mapping[str, Any]) -> str:
    """How values are spread over what was kept and what was rejected, as a picture."""
    figure, axis = _figure()
    edges = spread["edges"]
    widths = [after - before for before, after in pairwise(edges)]
    axis.bar(edges[:-1], spread["kept"], widths, align="edge", color=COLOURS[0], label="kept")
    axis.bar(
        edges[:-1], spread["rejected"], widths, align="edge", bottom=spread["kept"], color=COLOURS[1], label="rejected"
    )
    axis.set_xlabel(title)
    axis.set_ylabel("triplets")
    axis.legend(fontsize=8, frameon=False)
    return _svg(figure)


def alignment_plots(alignment: Mapping[str, Any]) -> list[str]:
    """Mean truth of the edits of three models, and the gains, each with its interval."""
    groups = (
        ("mean truth of edits, 0 to 1", {"before": "before", "control": "control", "aligned": "aligned"}),
        (
            "difference, prompt by prompt",
            {"control_over_before": "control − before", "gain": "aligned − control"},
        ),
    )
    return [_intervals({label: alignment[key] for key, label in names.items()}, title) for title, names in groups]


def effects_plot(effects: Sequence[Effect], curve: Mapping[str, Sequence[Mapping[str, float]]] | None = None) -> str:
    """Differences with their intervals, one for each effect; with a curve, its arms over the amount instead."""
    if curve is None:
        spans = {e.name: {"value": e.value, "low": e.low, "high": e.high} for e in effects}
        return _intervals(
            spans, f"difference, {effects[0].unit}" if len({e.unit for e in effects}) == 1 else "difference"
        )
    figure, axis = _figure()
    for (name, points), colour in zip(curve.items(), cycle(COLOURS), strict=False):
        at, values = [p["amount"] for p in points], [p["value"] for p in points]
        axis.plot(at, values, color=colour, marker="o", markersize=3, linewidth=1.3, label=name)
        axis.fill_between(at, [p["low"] for p in points], [p["high"] for p in points], color=colour, alpha=0.15)
    axis.axhline(0, color="#888", linewidth=0.8)
    axis.set_xlabel("optimizer steps of the tuning")
    axis.set_ylabel("change of truth")
    axis.legend(fontsize=8, frameon=False)
    return _svg(figure)


def _intervals(scores: Mapping[str, Mapping[str, float]], title: str) -> str:
    figure, axis = _figure()
    for place, (score, colour) in enumerate(zip(scores.values(), cycle(COLOURS), strict=False)):
        reach = [[score["value"] - score["low"]], [score["high"] - score["value"]]]
        axis.errorbar(score["value"], place, xerr=reach, fmt="o", color=colour, capsize=3, markersize=4)
    axis.set_yticks(range(len(scores)), list(scores))
    axis.set_ylim(-0.6, len(scores) - 0.4)
    axis.set_xlabel(title)
    axis.locator_params(axis="x", nbins=5)
    if axis.get_xlim()[0] < 0 < axis.get_xlim()[1]:
        axis.axvline(0, color="#888", linewidth=0.8)
    return _svg(figure)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axis = figure.subplots()
    axis.tick_params(labelsize=8)
    axis.xaxis.label.set_fontsize(8)
    axis.yaxis.label.set_fontsize(8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _svg(figure: Any) -> str:
    """A figure as an address that holds it; letters stay letters."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "instructdiffusion"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()
