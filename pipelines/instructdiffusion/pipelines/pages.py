"""What a step leaves to look at in the pipeline's own pages: one small HTML page with its pictures inside.

Pages are shown in a frame without a network, so nothing in them is a link to something else.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as Pillow

from instructdiffusion.pipelines.report import alignment_plots, curves, duration, number, span

if TYPE_CHECKING:
    from pydantic import BaseModel

    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.data.sources import Sources
    from instructdiffusion.model.task import Image

TEMPLATE = "page.html.j2"
SIDE = 128  # pixels of a single picture at most
SHEET = 640  # and of the width of a contact sheet
SHOWN = 12  # strips of pictures on a page at most
SHEETS = 4  # of a training, likewise
GAUGES = {  # what a training told last, and its digits
    "gradient_norm": ("gradient norm", 3),
    "average_distance": ("distance of weights and average", 4),
    "waiting": ("share of time waiting for triplets", 3),
    "memory_gib": ("memory, GiB", 1),
    "gpu_memory_gib": ("memory of the GPU, GiB", 1),
}
Table = Sequence[Sequence[object]]  # the first row names the columns


@dataclass(frozen=True)
class Strip:
    """Pictures side by side, as addresses that hold them, under a caption."""

    caption: str
    pictures: Sequence[str]
    marked: Collection[int] = ()  # which of them stand out


def page(
    title: str,
    facts: Mapping[str, object] | None = None,
    *,
    notes: Sequence[str] = (),
    tables: Sequence[Table] = (),
    strips: Sequence[Strip] = (),
) -> str:
    """A page; everything that came from data is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = (resources.files("instructdiffusion.pipelines") / TEMPLATE).read_text()
    parts = {"notes": notes, "facts": facts or {}, "tables": tables, "strips": strips}
    return environment.from_string(text).render(title=title, **parts)


def shrunk(picture: Pillow.Image, side: int = SIDE) -> str:
    """A picture, made no wider and no higher than `side` pixels, as an address that holds it."""
    small, buffer = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((side, side * 4))  # a contact sheet is tall; what must fit is its width
    small.save(buffer, "WEBP", quality=75)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def data(folder: Path, name: str) -> str:
    """A data set: how much of what, and the first triplet of each task."""
    from instructdiffusion.model.data.shards import Manifest, read_triplets

    manifest, first = Manifest.load(folder), dict[str, Strip]()
    if any(shard.name.endswith(".tar") for shard in manifest.shards):  # latents have no pictures
        for triplet in read_triplets(folder):
            if triplet.ask.task not in first:
                caption = f"{triplet.ask.task}: {triplet.ask.instruction}"
                first[triplet.ask.task] = Strip(caption, [small(triplet.source), small(triplet.target)])
            if len(first) == len([task for task, count in manifest.counts.items() if count]):
                break
    facts = {"triplets": manifest.total, "split": manifest.split, "side": f"{manifest.size} px", "seed": manifest.seed}
    counts: Table = [("task", "triplets"), *sorted(manifest.counts.items())]
    kept = [("report", ""), *((key, _plain(value)) for key, value in manifest.report.items() if key != "scores")]
    notes = ["source and target of the first triplet of each task"] if first else []
    tables = [counts, *(table for table in (origins(manifest), kept) if len(table) > 1)]
    return page(name, facts, notes=notes, tables=tables, strips=[*first.values()])


def origins(manifest: Manifest) -> Table:
    """What a data set has of each of its sources."""
    return [
        ("source", "data set", "weight", "offered", "triplets", "left out"),
        *(
            (name, o.dataset, o.weight, o.offered, sum(o.counts.values()), _plain(dict(o.skipped)))
            for name, o in manifest.sources.items()
        ),
    ]


def sources(wanted: Sources, parts: int) -> str:
    """What a data set is to be made of."""
    rows: Table = [("source", "settings"), *((s.name, _plain(_given(s))) for s in wanted.sources)]
    return page("plan", {"split": wanted.split, "parts": parts}, tables=[rows])


def leaks(report: Mapping[str, Any]) -> str:
    """What of the triplets to train on is held out."""
    facts = {"triplets looked at": report["triplets"], "leaks": report["found"], **report["by"]}
    if report["plain"]:
        facts["too plain to tell by their looks"] = report["plain"]
    against: Table = [("held out", "samples"), *report["against"].items()]
    found: Table = [
        ("trained on", "held out", "recognised by", ""),
        *((leak["trained"], leak["held_out"], leak["by"], leak["told"]) for leak in report["leaks"]),
    ]
    return page("leaks", facts, tables=[against, *([found] if len(found) > 1 else [])])


def model(folder: Path, name: str, facts: Mapping[str, object]) -> str:
    """A model: what it edits and how."""
    editor = json.loads((folder / "editor.json").read_text())
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    about = {"resolution": f"{editor['resolution']} px", "size": f"{size / 2**20:.1f} MiB"}
    guidance: Table = [
        ("kind of task", "steps", "text guidance", "image guidance"),
        *((kind, g["steps"], g["text"], g["image"]) for kind, g in editor.get("guidance", {}).items()),
    ]
    return page(name, {**about, **facts}, tables=[guidance] if len(guidance) > 1 else [])


def candidates(folder: Path, name: str, picks: Mapping[str, Collection[str]] | None = None) -> str:
    """Edits of the first prompts beside their source; those in `picks`, by the prompt's key, stand out."""
    from instructdiffusion.model.candidates import load

    prompts, picked = load(folder)["prompts"], picks or {}
    shown = sorted(prompts, key=lambda prompt: not picked.get(prompt["key"]))  # those with a pick first
    strips = [
        Strip(
            f"{prompt['task']}: {prompt['instruction']}",
            [_file(folder / path) for path in (prompt["source"], *(edit["picture"] for edit in prompt["edits"]))],
            [at for at, edit in enumerate(prompt["edits"], 1) if edit["id"] in picked.get(prompt["key"], ())],
        )
        for prompt in _one_a_task(shown)
    ]
    facts = {"prompts": len(prompts), "edits": sum(len(prompt["edits"]) for prompt in prompts)}
    if picks is not None:
        facts["picked"] = sum(map(len, picked.values()))
    notes = ["source, then its edits" + ("; green: picked" if picks is not None else "")]
    return page(name, facts, notes=notes, strips=strips)


def rankings(folder: Path, edits: Path, name: str) -> str:
    """Which edits were picked."""
    from instructdiffusion.labeling.rankings import FILE, read

    picks: dict[str, set[str]] = {}
    for ranking in read(folder / FILE):
        picks.setdefault(ranking.key, set()).update(ranking.edits)
    return candidates(edits, name, picks)


def training(document: Mapping[str, Any], name: str, samples: Sequence[Path] = ()) -> str:
    """A training: its loss over the steps, sheets of samples from the first to the last, speed, mixture, settings."""
    facts = {
        "steps": document["steps"],
        "triplets": document["triplets"],
        "triplets a second": number(document["triplets_per_second"], 1),
        "processes": document["processes"],
        "time": duration(document["seconds"]),
    }
    last = document["curve"][-1] if document["curve"] else {}
    facts |= {words: number(last[key], digits) for key, (words, digits) in GAUGES.items() if key in last}
    strips = [Strip("loss", [curve]) for curve in curves({name: document}).values()]
    strips += [Strip(f"samples: {sheet.stem}", [_file(sheet, SHEET)]) for sheet in _spread(samples)]
    settings: Table = [("setting", "value"), *_flat(document.get("run", {}))]
    mixture = [
        (group, thing, f"{share['declared']:.1%}", f"{share['drawn']:.1%}")
        for group, rows in document.get("mixture", {}).items()
        for thing, share in rows.items()
    ]
    tables = [[("mixture", "", "declared", "drawn"), *mixture], settings] if mixture else [settings]
    notes = ["Samples: source, output of the averaged weights and target, under the same seeds each time."]
    return page(name, facts, notes=notes if samples else [], tables=tables, strips=strips)


def _spread(files: Sequence[Path]) -> list[Path]:
    """Some of the files, from the first to the last."""
    few = min(len(files), SHEETS)
    return [files[at * (len(files) - 1) // max(1, few - 1)] for at in range(few)] if few > 1 else [*files]


def evaluation(folder: Path, name: str) -> str:
    """An evaluation: scores with their intervals, floors and bounds, and a contact sheet of each task."""
    document = json.loads((folder / "evaluation.json").read_text())
    scores: list[Sequence[object]] = [("task", "metric", "score", "95 % interval", "floor", "bound", "samples")]
    for task, s in document["tasks"].items():
        low_to_high = f"{number(s['low'])} to {number(s['high'])}"
        ends = (number(s["floor"]), number(s["bound"]))
        scores.append((task, s["metric"], number(s["value"]), low_to_high, *ends, s["n"]))
    scores += [(task, "", "missing", why, "", "", "") for task, why in document.get("missing", {}).items()]
    sheets = [folder / f"{task}.png" for task in document["tasks"]]
    strips = [Strip(sheet.stem, [_file(sheet, SHEET)]) for sheet in sheets if sheet.is_file()]
    notes = [
        "The floor is the score of doing nothing, the bound that of the target after a pass through the autoencoder.",
        "Contact sheets: source, output and target of each sample.",
    ]
    return page(name, notes=notes, tables=[scores], strips=strips)


def probes(report: Mapping[str, Any], name: str) -> str:
    """What was probed and how it ended; what was left out, too."""
    rows: list[Sequence[object]] = [("probe", "", "what happened")]
    rows += [(p["name"], "passed" if p["passed"] else "failed", p["told"]) for p in report["probes"]]
    rows += [(p["name"], "left out", p["told"]) for p in report["left_out"]]
    return page(name, {"model": report["model"]}, tables=[rows])


def benchmarks(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The values of benchmarks with their intervals, floors and bounds; of a missing one, why."""
    rows: list[Sequence[object]] = [("benchmark", "metric", "value", "95 % interval", "floor", "bound", "n")]
    for name, report in reports.items():
        for metric, v in report["values"].items():
            if v["value"] is None:
                rows.append((name, metric, "missing", v["missing"], "", "", ""))
                continue
            ends = ["unknown" if v[end] is None else number(v[end]) for end in ("floor", "bound")]
            ends[1] += f" (of {v['bound_n']})" if v.get("bound_n") is not None else ""
            low_to_high = f"{number(v['low'])} to {number(v['high'])}"
            rows.append((name, metric, number(v["value"]), low_to_high, *ends, v["n"]))
    notes = [] if reports else ["No benchmark was asked for."]
    return page("benchmarks", notes=notes, tables=[rows] if reports else [])


def comparison(document: Mapping[str, Any]) -> str:
    """What the alignment did beyond chance."""
    names = {"before": "before", "control": "control", "aligned": "aligned", "gain": "aligned over control"}
    rows: Table = [("", "mean truth of edits"), *((text, span(document[key], 4)) for key, text in names.items())]
    raised = "above zero by more than its interval" if document["raised"] else "not distinguishable from zero"
    strips = [Strip("with 95 % intervals", alignment_plots(document))]
    return page("alignment and control", {"prompts": document["n"], "gain": raised}, tables=[rows], strips=strips)


def small(picture: Image) -> str:
    """A picture as small as a page shows it, as a data address."""
    return shrunk(Pillow.fromarray(picture))


def _file(path: Path, side: int = SIDE) -> str:
    with Pillow.open(path) as picture:
        return shrunk(picture, side)


def _one_a_task(prompts: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first prompt of each task, a page's worth."""
    first: dict[str, Mapping[str, Any]] = {}
    for prompt in prompts:
        first.setdefault(prompt["task"], prompt)
    return list(islice(first.values(), SHOWN))


def _flat(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        rows += _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else [(f"{path}{name}", _plain(value))]
    return rows


def _given(source: BaseModel) -> dict[str, Any]:
    return source.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
