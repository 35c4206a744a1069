"""Step: score a model on every task, and show the scores in the tracker."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tracking import TrackedRun
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.weights import model_digest

HELD_OUT = "held-out"  # where an evaluation keeps the manifest of what it scored on


def run(
    model: Path | None,
    shards: Path,
    out: Path,
    *,
    limit: int | None = None,
    store: Store | None = None,
    tracked: TrackedRun | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Write `evaluation.json` and a grid of pictures per task; facts: the evaluation.

    Args:
        model: folder of a model; None: the embedded base.
        shards: held-out data.
        out: folder for the results.
        limit: triplets per task; None: all.
        store: where to upload the results; None: nowhere.
        tracked: run that gets the scores, the grids and the data set; None: none.
        progress: told the triplets done and in all.
    """
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.evaluate import evaluate, hands

    inputs = {"model": model_digest(model), "shards": data_digest(shards), "limit": limit}

    def work() -> None:
        counts = Manifest.load(shards).counts.values()
        workers = hands(model, sum(min(count, limit or count) for count in counts))
        evaluate(model, shards, out, limit=limit, workers=workers, progress=progress)
        write_atomic(out / HELD_OUT / "manifest.json", (shards / "manifest.json").read_bytes())

    digest = once(out, inputs, work)
    evaluation = json.loads((out / "evaluation.json").read_text())
    result = made(out, "evaluations", digest, store, evaluation)
    if tracked is not None:
        _track(tracked, evaluation, shards, out, store)
    return result


def scores(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation by the tracker's names, as in `segmentation/iou` and `.../iou_low`."""
    values: dict[str, float] = {}
    for task, row in evaluation["tasks"].items():
        name = f"{task}/{row['metric']}"
        values[name] = float(row["value"])
        values |= {f"{name}_{bound}": float(row[bound]) for bound in ("low", "high", "floor", "bound")}
        for also, measure in row.get("also", {}).items():
            values[f"{task}/{also}"] = float(measure["value"])
        for part, span in row.get("slices", {}).items():
            values[f"{name}/{part}"] = float(span[0])
    return values


def specs(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What each of these numbers is, by the same names."""
    found = {}
    for task, row in evaluation["tasks"].items():
        for name, measure in {row["metric"]: row, **row.get("also", {})}.items():
            found[f"{task}/{name}"] = measure.get("spec")
    return found


def samples(evaluation: Mapping[str, Any], shards: Path, out: Path) -> dict[str, list[Any]]:
    """The first sample of each task as the columns of a table, with source, output and target as pictures."""
    from instructdiffusion.model.data.shards import read_triplets
    from instructdiffusion.model.sheet import first_output

    rows: dict[str, list[Any]] = {name: [] for name in ("task", "instruction", "source", "output", "target", "score")}
    for triplet in read_triplets(shards):
        task = triplet.ask.task
        if task in evaluation["tasks"] and task not in rows["task"]:
            output = first_output((out / f"{task}.png").read_bytes(), triplet.source.shape[0])
            score = evaluation["tasks"][task]["scores"][0]
            cells = (task, triplet.ask.instruction, triplet.source, output, triplet.target, score)
            for column, cell in zip(rows.values(), cells, strict=True):
                column.append(cell)
    return rows


def _track(tracked: TrackedRun, evaluation: Mapping[str, Any], shards: Path, out: Path, store: Store | None) -> None:
    from instructdiffusion.model.data.shards import Manifest

    manifest = Manifest.load(shards)
    tracked.dataset(
        f"{manifest.split}-{manifest.size}px",
        digest=data_digest(shards),
        source=str(shards),
        context="evaluation",
        counts=manifest.counts,
    )
    name = f"model-{evaluation['model'].removeprefix('sha256:')[:12]}"
    params = {"digest": evaluation["model"], "data": evaluation["data"]}
    model = tracked.model(name, digest=evaluation["model"], params=params)
    tracked.metrics(scores(evaluation), step=0, model=model)
    tracked.document("evaluation/specs.json", specs(evaluation))
    tracked.table("evaluation/samples", samples(evaluation, shards, out))
    tracked.artifacts(out, "evaluation")
