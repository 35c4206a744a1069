"""Keypoints, referring and semantic segmentation (tables 2, 3 and 4 of the paper).

People are cut out by their true boxes, as for every method of table 2; joints are put back into the picture that the
person was cut from, and asked for five at a time. Segmentation asks for one class or one phrase a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np

from instructdiffusion.model.benchmark import (
    Benchmark,
    Case,
    Measure,
    Order,
    Row,
    Sample,
    Tools,
    each,
    held_out,
    scenes,
)
from instructdiffusion.model.data.augment import person_crop, uncropped
from instructdiffusion.model.data.readers import Example, reader_for
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.metrics import coco
from instructdiffusion.model.metrics.joints import AREA, AS_COCO, FAR, PCK, keypoints, pck, sigma
from instructdiffusion.model.metrics.regions import (
    CIOU,
    GIOU,
    MCIOU,
    N_ACC,
    T_ACC,
    Overlap,
    ciou,
    giou,
    mciou,
    n_acc,
    overlap,
    t_acc,
)
from instructdiffusion.model.metrics.value import Indices, Statistic, mean
from instructdiffusion.model.task import Image
from instructdiffusion.model.tasks import segmentation as painting
from instructdiffusion.model.tasks.keypoint import MOST_JOINTS, Keypoint
from instructdiffusion.model.tasks.segmentation import VOID, Tint

KEYPOINT = Keypoint()


class Keypoints(Benchmark):
    """Joints of people, animals or drawn things, by COCO's measure with true boxes."""

    name = "keypoints"
    about = "joints by COCO's OKS with true boxes, and PCK (table 2): COCO, CrowdPose, MPII, AIC, Human-Art, AP-10K"
    tasks = ("keypoint",)
    cuts = True

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        shared = AS_COCO if reader_for(data).name == "AP-10K" else None  # only these are compared, as in the paper
        people = 0
        for example in held_out(order, data, self.tasks):
            if order.samples and people >= order.samples:
                return
            names = [name for name in example.label["joints"] if shared is None or name in shared]
            if not names:
                continue
            people += 1
            for start in range(0, len(names), MOST_JOINTS):
                part = names[start : start + MOST_JOINTS]
                yield Case(f"{example.key}-{start}", _person(example, names, part, order.size, start))

    def composed(self, order: Order) -> Iterator[Case]:
        for key, load in scenes(order, self.tasks, self.count):
            yield Case(key, partial(_thing, key, load))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        label = sample.label
        read = KEYPOINT.read(outputs[-1], sample.source, sample.asks[-1])["joints"]
        found = {name: (j["x"], j["y"]) for name, j in read.items() if j["confidence"] > 0}
        back = uncropped(found, label["cut"], sample.source.shape[0]) if "cut" in label else found
        confidence = [read[name]["confidence"] for name in back]
        truth = {"joints": label["wanted"], "box": label["box"], "area": label["size"]}
        return {"person": label["person"], "truth": truth, "found": back, "confidence": confidence}

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        return (
            Measure(coco.OKS_AP, _objects, _oks(coco.precision)),
            Measure(coco.OKS_AR, _objects, _oks(coco.recall)),
            Measure(PCK, _hits, mean),
        )


def _person(example: Example, names: Sequence[str], part: Sequence[str], size: int, start: int) -> Callable[[], Sample]:
    def load() -> Sample:
        source, _, label = example.loaded()
        crop, cut = person_crop(source, label, Random(0), size=size, train=False)
        ask = KEYPOINT.asking(label, part, Random(example.key + str(start)))
        left, top, right, bottom = label["box"]
        area = label.get("area") or AREA * (right - left) * (bottom - top)
        joints = {name: label["joints"][name] for name in names}
        known = {"person": example.key, "wanted": joints, "box": label["box"], "size": area, "cut": label["box"]}
        inside = set(part) <= set(cut["joints"])
        target = KEYPOINT.paint(crop, cut, ask) if inside else None  # a joint outside the crop can't be painted
        return Sample(f"{example.key}-{start}", crop, (ask,), (target,), known, example.picture)

    return load


def _thing(key: str, load: Callable[[], Triplet]) -> Sample:
    triplet = load()
    label = triplet.label
    ys, xs = np.nonzero(label["instances"] == label["index"])
    box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
    wanted = {joint: label["joints"][joint] for joint, _ in triplet.ask.marks}
    known = {"person": key, "wanted": wanted, "box": box, "size": len(xs)}
    return Sample(key, triplet.source, (triplet.ask,), (triplet.target,), known, key)


def _people(rows: Sequence[Row]) -> list[Row]:
    """The people of a picture; several rows may tell of one."""
    people: dict[str, Row] = {}
    for row in rows:
        kept = people.setdefault(row["person"], {"truth": row["truth"], "found": {}, "confidence": []})
        kept["found"] = kept["found"] | row["found"]
        kept["confidence"] = kept["confidence"] + row["confidence"]
    return list(people.values())


def _objects(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The people there, and those of whom something was found."""
    people = _people(rows)
    return [p["truth"] for p in people], [p for p in people if p["found"]]


def _oks(kind: Callable[..., Statistic]) -> Statistic:
    """COCO's measure of the units that `_objects` makes, over all joints that are named anywhere."""

    def statistic(units: Sequence[Any]) -> Callable[[Indices], float]:
        names = sorted({name for there, _ in units for truth in there for name in truth["joints"]})
        made = [([_coco(t, t["joints"], names) for t in there], [_found(p, names) for p in ps]) for there, ps in units]
        return kind("keypoints", [sigma(name) for name in names])(made)

    return statistic


def _coco(truth: Row, joints: Mapping[str, Sequence[float]], names: Sequence[str]) -> Row:
    left, top, right, bottom = truth["box"]
    whole = {"category_id": 1, "bbox": [left, top, right - left, bottom - top], "area": truth["area"]}
    return {**whole, "keypoints": keypoints(joints, names)}


def _found(person: Row, names: Sequence[str]) -> Row:
    return {**_coco(person["truth"], person["found"], names), "score": float(np.mean(person["confidence"]))}


def _hits(rows: Sequence[Row]) -> list[float]:
    hits: list[float] = []
    for person in _people(rows):
        left, top, right, bottom = person["truth"]["box"]
        hits += pck(person["found"], person["truth"]["joints"], max(right - left, bottom - top), FAR)
    return hits


class Segmentation(Benchmark):
    """What the two segmentation benchmarks share: a query is painted over, and the region read back."""

    task: ClassVar[Tint]

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        for number, example in enumerate(held_out(order, data, self.tasks)):
            if order.samples and number >= order.samples:
                return
            yield Case(example.key, partial(self._sample, example))

    def composed(self, order: Order) -> Iterator[Case]:
        for key, load in scenes(order, self.tasks, self.count):
            yield Case(key, partial(_composed, key, load))

    def _sample(self, example: Example) -> Sample:
        source, _, label = example.loaded()
        ask = self.task.ask(label, Random(example.key))
        target = self.task.paint(source, label, ask)
        return _query(example.key, example.picture, Triplet(example.key, ask, source, target, label))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        found = self.task.region(outputs[-1], sample.source, sample.asks[-1])
        if VOID in sample.label:
            found &= ~sample.label[VOID]
        o = overlap(found, np.asarray(sample.label["mask"]))
        name = str(sample.label.get("class", sample.label["phrase"]))
        return {"overlap": [[name, *o]], "giou": giou(o), "n": n_acc([o]), "t": t_acc([o])}


def _composed(key: str, load: Callable[[], Triplet]) -> Sample:
    return _query(key, key, load())


def _query(key: str, group: str, triplet: Triplet) -> Sample:
    return Sample(key, triplet.source, (triplet.ask,), (triplet.target,), triplet.label, group)


def _overlaps(rows: Sequence[Row]) -> list[Overlap]:
    return [Overlap(*rest) for row in rows for _, *rest in row["overlap"]]


def _named(rows: Sequence[Row]) -> list[tuple[str, Overlap]]:
    return [(name, Overlap(*rest)) for row in rows for name, *rest in row["overlap"]]


class Referring(Segmentation):
    """The one object that a phrase names, or none."""

    name = "referring"
    about = "regions of phrases by cIoU, gIoU, N-acc, T-acc (table 3): RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO, RefClef"
    tasks = ("referring",)
    task = painting.Referring()

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        return (
            Measure(CIOU, _overlaps, ciou),
            Measure(GIOU, each("giou"), mean),
            Measure(N_ACC, each("n"), mean),
            Measure(T_ACC, each("t"), mean),
        )


class Semantic(Segmentation):
    """All of a class; one query a class and picture. Version 2 of its metrics leaves out what nobody labelled."""

    name = "semantic"
    about = "regions of classes by mcIoU, one query a class (table 4): ADE20K, PASCAL-Context, PASCAL VOC, COCO-Stuff"
    tasks = ("segmentation",)
    task = painting.Segmentation()

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        overall, absent = (spec.model_copy(update={"version": MCIOU.version}) for spec in (CIOU, N_ACC))
        return (Measure(MCIOU, _named, mciou), Measure(overall, _overlaps, ciou), Measure(absent, each("n"), mean))


BENCHMARKS = (Keypoints(), Referring(), Semantic())
