"""Edits that a vision model judges, in the manner of ImgEdit and GEdit: does it follow, and does it look right.

A judge gives 0 to 10 points for each; overall is the root of their product (G_O of GEdit). ImgEdit's own files are
read, and any folder with a `samples.jsonl`. Beside the points stands the background's PSNR, where what may change is
known: a model that pleases judges while it wrecks the rest is found out by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from instructdiffusion.model.benchmark import UNJUDGED, Case, Measure, Order, Row, Sample, Tools, each
from instructdiffusion.model.benchmarks.editing import Objects, ask_of
from instructdiffusion.model.data.pictures import load
from instructdiffusion.model.data.readers.people import within
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.metrics import Spec
from instructdiffusion.model.metrics.pixels import BACKGROUND, background
from instructdiffusion.model.metrics.value import mean
from instructdiffusion.model.task import Image

FOLLOWS = Spec(name="follows", unit="points of the judge, 0 to 10")
QUALITY = Spec(name="quality", unit="points of the judge, 0 to 10")
OVERALL = Spec(name="overall", unit="root of follows x quality, 0 to 10")
IMGEDIT = "basic_edit.json"


class Judged(Objects):
    """Edits before a judge."""

    name = "judged"
    about = "edits before a vision model as judge: ImgEdit's singleturn folder, or any folder of samples"

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        if not (data / IMGEDIT).is_file():
            yield from super().read(order, data)
            return
        for number, (key, line) in enumerate(sorted(_imgedit(data / IMGEDIT).items())):
            if order.samples and number >= order.samples:
                return
            yield Case(key, partial(_sample, data, key, line))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        row: Row = {}
        if "mask" in sample.label:
            row["background"] = background(outputs[-1], sample.source, np.asarray(sample.label["mask"]))
        if tools.judge is None:
            return row
        points = tools.judge(sample.source, outputs[-1], sample.asks[-1].instruction)
        if isinstance(points, str):
            return {**row, UNJUDGED: points}
        row |= {name: points[name] for name in ("follows", "quality")}
        return {**row, "overall": sqrt(points["follows"] * points["quality"])}

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        why = "" if tools.judge else "no judge was named; give --judge"
        update = {"model": tools.judge.spec_model} if tools.judge else {}
        points = [spec.model_copy(update=update) for spec in (OVERALL, FOLLOWS, QUALITY)]
        judged = [Measure(spec, each(spec.name), mean, why) for spec in points]
        return (*judged, Measure(BACKGROUND, each("background"), mean))


def _imgedit(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all({"id", "prompt"} <= line.keys() for line in found.values()):
            return dict(found)
    except (ValueError, AttributeError):
        pass
    raise DataError(f"{path} is no list of edits by number, each with id and prompt; download it again")


def _sample(data: Path, key: str, line: dict[str, Any]) -> Sample:
    path = within(data, str(line["id"]))
    if path is None:
        raise DataError(f"{data / IMGEDIT}: {line['id']!r} leads out of its folder; download it again")
    ask = ask_of(str(line["prompt"]))
    return Sample(key, load(path), (ask,), (None,), {}, key, str(line.get("edit_type", "")))


BENCHMARKS = (Judged(),)
