"""Score a model on every task, with the do-nothing floor and the autoencoder bound beside each number.

The floor is the score of handing the source back; the bound is the score of the true target after the autoencoder,
which no edit through it can be expected to beat by much. Intervals are 95 % bootstrap intervals of the mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from instructdiffusion.model import sheet
from instructdiffusion.model.data.shards import MANIFEST, Triplet, read_triplets
from instructdiffusion.model.data.workers import spread
from instructdiffusion.model.device import best
from instructdiffusion.model.editor import Editor
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.interval import interval
from instructdiffusion.model.metrics import Spec
from instructdiffusion.model.metrics.value import NO_SAMPLES
from instructdiffusion.model.network import Guidance
from instructdiffusion.model.seeds import seed_of
from instructdiffusion.model.slices import sliced
from instructdiffusion.model.task import Image, Metric, psnr
from instructdiffusion.model.tasks import EVERY, TASKS
from instructdiffusion.model.weights import BASE, model_digest

Progress = Callable[[int, int], None]
REPORT = "evaluation.json"
SHEET = "sheet.png"  # the first samples of every task, one row each
SHOWN = 12  # samples on a contact sheet
SPREAD = 2000  # samples from which on several processes are worth their start
MOST = 4  # processes, each with a gigabyte of its own; what is left of the threads is shared among them
LARGE = 500e6  # bytes of weights from which on there is one process: each reads them anew


class Measure(BaseModel):
    """A mean with its 95 % interval over `n` samples, beside the `bar` that its lower end should reach.

    `floor` is what doing nothing scores and `bound` the truth after the autoencoder, on the same samples. Evaluations
    of older versions lack both beside the tasks' further measures, and specs and scores.
    """

    model_config = ConfigDict(frozen=True)
    spec: Spec | None = None
    unit: str
    bar: float
    value: float
    low: float
    high: float
    n: int
    floor: float | None = None
    bound: float | None = None
    scores: Sequence[float | None] = ()  # of every sample, in the data set's order; None where it does not apply
    slices: dict[str, tuple[float, float, float]]  # the same of parts of the data, by what they share


class TaskScore(Measure):
    """What a model scores on one task."""

    metric: str
    floor: float
    bound: float
    scores: list[float]
    also: dict[str, Measure]  # what else the task is held to


class Evaluation(BaseModel):
    """Every task's score, of which model on which data; tasks without one are `missing`, with the reason."""

    model_config = ConfigDict(frozen=True)
    tasks: dict[str, TaskScore]
    missing: dict[str, str] = {}
    autoencoder: tuple[float, float, float]
    guidance: dict[str, dict[str, float]]
    seconds: float
    model: str
    data: str


def evaluate(
    model: Path | None,
    shards: Path,
    out: Path,
    *,
    limit: int | None = None,
    guidance: Mapping[str, Guidance] | None = None,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Score a model folder (None: the embedded base) on `shards`; writes evaluation.json and contact sheets.

    Args:
        limit: triplets per task; all when None.
        guidance: per task family, instead of the model's own.
        workers: processes that tasks are spread over, each with the model in its memory; see `hands`. The scores are
            the same whatever their number.

    Raises:
        DataError: model or shards are broken, or of different resolutions.
    """
    began = time.monotonic()
    editor = _editor(model, guidance)
    groups = _by_task(shards, limit)
    total = sum(map(len, groups.values()))
    threads = max(1, torch.get_num_threads() // workers)
    work = partial(_scored, editor, out) if workers == 1 else partial(_scored_apart, model, guidance, out, threads)
    done, tasks, fidelity, first = 0, {}, list[float](), list[tuple[Triplet, Image]]()
    for (name, triplets), scored in zip(groups.items(), spread(work, list(groups.values()), workers), strict=True):
        tasks[name] = scored.score
        first += zip(triplets, scored.first, strict=False)
        fidelity += scored.fidelity
        done += len(triplets)
        progress(done, total)
    write_atomic(out / SHEET, sheet.contact_sheet([t for t, _ in first], [o for _, o in first]))
    used = {family: vars(g) for family, g in editor.model.guidance.items()}
    evaluation = Evaluation(
        tasks=tasks,
        missing={name: NO_SAMPLES for name in TASKS if name not in tasks},
        autoencoder=interval(fidelity),
        guidance=used,
        seconds=time.monotonic() - began,
        model=model_digest(model),
        data=digest_of(shards / MANIFEST),
    )
    write_atomic(out / REPORT, evaluation.model_dump_json(indent=1))
    return evaluation


def hands(model: Path | None, samples: int) -> int:
    """How many processes to spread so many samples over: one where a GPU works, or starting more would not pay."""
    if samples < SPREAD or best().type != "cpu" or _bytes(model) > LARGE:
        return 1
    return min(MOST, torch.get_num_threads())


def _bytes(model: Path | None) -> int:
    return sum(file.stat().st_size for file in (model or BASE).rglob("*.safetensors"))


def _editor(model: Path | None, guidance: Mapping[str, Guidance] | None) -> Editor:
    editor = Editor.load(model)
    editor.model.guidance.update(guidance or {})  # type: ignore[arg-type]
    return editor


@dataclass(frozen=True)
class _Scored:
    """What came of a task: its score, the first outputs, and what the autoencoder keeps of each target in dB."""

    score: TaskScore
    first: list[Image]
    fidelity: list[float]


def _scored(editor: Editor, out: Path, triplets: Sequence[Triplet]) -> _Scored:
    """Score one task, and write its contact sheet."""
    name, outputs = triplets[0].ask.task, edited(editor, triplets)
    rebuilt = editor.model.decode(editor.model.encode(t.target for t in triplets))
    score = _task_score(name, triplets, outputs, rebuilt, editor.resolution)
    write_atomic(out / f"{name}.png", sheet.contact_sheet(triplets[:SHOWN], outputs[:SHOWN]))
    fidelity = [psnr(r, t.target) for r, t in zip(rebuilt, triplets, strict=True)]
    return _Scored(score, outputs[: sheet.COLUMNS], fidelity)


_apart: list[Editor] = []  # in a process of its own: the model, read once for all of its tasks


def _scored_apart(
    model: Path | None,
    guidance: Mapping[str, Guidance] | None,
    out: Path,
    threads: int,
    triplets: Sequence[Triplet],
) -> _Scored:
    """The same in a process of its own."""
    if not _apart:
        torch.set_num_threads(threads)
        _apart.append(_editor(model, guidance))
    return _scored(_apart[0], out, triplets)


def _by_task(shards: Path, limit: int | None) -> dict[str, list[Triplet]]:
    groups: dict[str, list[Triplet]] = {name: [] for name in EVERY}
    for triplet in read_triplets(shards):
        group = groups.setdefault(triplet.ask.task, [])
        if limit is None or len(group) < limit:
            group.append(triplet)
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        raise DataError(f"{shards} holds no triplets; synthesize again with more of them")
    return groups


def edited(editor: Editor, triplets: Sequence[Triplet], seed: int = 0) -> list[Image]:
    """The model's output for each triplet, with its own guidance for the task; seeds derive from the keys."""
    sides = {t.source.shape[0] for t in triplets}
    if sides - {editor.resolution}:
        raise DataError(
            f"pictures of {max(sides)} pixels don't fit a model of {editor.resolution}; "
            f"synthesize with size={editor.resolution}"
        )
    seeds = [seed_of(t.key, seed) for t in triplets]
    guidance = editor.guidance(triplets[0].ask)
    return editor.outputs([t.source for t in triplets], [t.ask.instruction for t in triplets], seeds, guidance)


def _task_score(
    name: str, triplets: Sequence[Triplet], outputs: Sequence[Image], rebuilt: Sequence[Image], resolution: int
) -> TaskScore:
    task = EVERY[name]

    def scored(pictures: Sequence[Image]) -> list[dict[str, float]]:
        return [task.score(p, t.source, t.label, t.ask) for p, t in zip(pictures, triplets, strict=True)]

    rows = scored(outputs)
    ends = {"floor": scored([t.source for t in triplets]), "bound": scored(rebuilt)}

    def measure(wanted: Metric) -> dict[str, Any]:
        having = [(t, row[wanted.name]) for t, row in zip(triplets, rows, strict=True) if wanted.name in row]
        value, low, high = interval([score for _, score in having])
        there = {end: [row[wanted.name] for row in some if wanted.name in row] for end, some in ends.items()}
        return {
            "spec": spec(name, wanted, resolution),
            "unit": wanted.unit,
            "bar": wanted.bar,
            "value": value,
            "low": low,
            "high": high,
            "n": len(having),
            **{end: float(np.mean(some)) if some else None for end, some in there.items()},
            "scores": [row.get(wanted.name) for row in rows],
            "slices": sliced(having),
        }

    also = [other for other in task.also if any(other.name in row for row in rows)]
    return TaskScore(
        **measure(task.metric),
        metric=task.metric.name,
        also={other.name: Measure(**measure(other)) for other in also},
    )


def spec(task: str, metric: Metric, resolution: int, seed: int = 0) -> Spec:
    """What exactly a task's number is; `seed` is that of the edits and of the interval."""
    return Spec(
        name=f"{task}/{metric.name}", version=metric.version, unit=metric.unit, resolution=resolution, seed=seed
    )


def summary(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Per task: metric, value, interval, floor, bound and count."""
    keys = ("metric", "value", "low", "high", "floor", "bound", "n")
    return {name: {key: getattr(score, key) for key in keys} for name, score in evaluation.tasks.items()}
