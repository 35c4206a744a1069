"""Data of stage 1: pictures with marks painted at random places, and captions that say so (paper, section 3.3).

A text-to-image model has never seen dots and see-through colours laid over photographs. Here it learns to make them
from words, before it is asked to put them where they belong. What a mark covers is chance and nobody's question.

captions and pictures  ->  triplets of the task `adapt`, whose source is empty
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from random import Random

import cv2
import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.colors import MARKS, TINTS
from instructdiffusion.model.data.augment import square_crop
from instructdiffusion.model.data.photos import Split
from instructdiffusion.model.data.readers import PHOTO, Reader, reader_for
from instructdiffusion.model.data.shards import PER_SHARD, Manifest, Shard, Triplet, write_shard_once
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.synthesis.scenes import Scene, Studio
from instructdiffusion.model.synthesis.write import LICENCES
from instructdiffusion.model.task import Ask, Image
from instructdiffusion.model.tasks.keypoint import radius_of
from instructdiffusion.model.tasks.segmentation import OPACITY

log = logging.getLogger(__name__)
TASK = "adapt"
EMPTY = 127  # the source's gray; what a training sees of it is nothing, for every sample loses its source
Cover = NDArray[np.float32]  # height x width, how much of each pixel a mark covers, 0..1

#: What is said of each kind of mark, after the caption.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "dot": (
        "with a few dots of different colors here and there",
        "with {number} colored dots on it",
        "dotted with {colors}",
        "and on top of it dots in {colors}",
    ),
    "patch": (
        "with a see-through {colors} patch over a part of it",
        "partly tinted {colors}",
        "with something in it painted half {colors}",
    ),
    "circle": (
        "with a {colors} circle around a part of it",
        "where a {colors} circle is drawn",
        "and a thin {colors} circle on top",
    ),
}
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Captioned:
    """A picture of any size, loaded when called, and what it shows in words."""

    key: str
    caption: str
    picture: Callable[[], Image]
    facts: Mapping[str, str] = field(default_factory=dict)


def marked(
    out: Path,
    *,
    photos: Sequence[Path] = (),
    scenes: int = 0,
    size: int,
    seed: int,
    split: Split = "train",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write a data set of marked pictures into `out`; called again after an interruption it goes on.

    Args:
        photos: folders of photographs with captions, as docs/data.md shows them.
        scenes: how many composed scenes to add.
        size: side of the pictures in pixels.
        split: which photographs and objects the scenes may show.
        progress: called with (pictures written, 0: how many there will be is not known).

    Raises:
        ConfigError: there is nothing to make it of.
        DataError: a folder holds no captioned photographs, or the disk is full.
    """
    if not photos and scenes < 1:
        raise ConfigError("no pictures to mark: name folders of photographs with captions, or a number of scenes")
    readers = [_photo_reader(folder) for folder in photos]
    offered = chain(
        *(_photographs(r, folder, n) for n, (r, folder) in enumerate(zip(readers, photos, strict=True))),
        _scenes(Studio.open(size, split), scenes, f"{seed}/{split}"),
    )
    shards: list[Shard] = []
    total = 0
    while part := list(islice(offered, PER_SHARD)):
        request = repr((TASK, size, seed, [(p.key, p.caption) for p in part]))
        shards.append(write_shard_once(out / f"marked-{len(shards):05d}.tar", request, _triplets(part, size, seed)))
        total += len(part)
        progress(sum(s.count for s in shards), 0)
    made = sum(s.count for s in shards)
    if not made:
        raise DataError(f"none of the pictures in {', '.join(map(str, photos))} can be read; see the log for each")
    licences = (*dict.fromkeys(r.licence for r in readers), *(LICENCES if scenes else ()))
    report = {"offered": total, "kept": made}
    return Manifest(
        size=size,
        split=split,
        seed=seed,
        counts={TASK: made},
        shards=tuple(shards),
        licences=licences,
        report=report,
        made="adapt",
    ).save(out)


def mark(picture: Image, rng: Random) -> tuple[Image, str, tuple[tuple[str, str], ...]]:
    """Paint marks of one kind at random places; returns the picture, what to say of it, and (kind, colour) pairs.

    Dots are those of keypoints, patches those of masks, in shape and opacity; circles are outlines.
    """
    kind = rng.choice(sorted(SUFFIXES))
    palette = TINTS if kind == "patch" else MARKS
    colors = rng.sample(sorted(palette), rng.choice(sorted(_NUMBERS)) if kind == "dot" else 1)
    painted = picture.astype(np.float32)
    for color in colors:
        cover = _COVERS[kind](picture.shape[0], rng)[..., None]
        painted = painted * (1 - cover) + cover * np.array(palette[color], np.float32)
    said = rng.choice(SUFFIXES[kind]).format(number=_NUMBERS.get(len(colors)), colors=" and ".join(colors))
    return painted.round().astype(np.uint8), said, tuple((kind, color) for color in colors)


def caption_of(scene: Scene) -> str:
    """What a scene shows, in words."""
    names = [f"{thing.color} {thing.kind}" for thing in scene.things]
    return " and ".join(f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names)


def _triplets(pictures: Iterable[Captioned], size: int, seed: int) -> Iterator[Triplet]:
    """Marked pictures; one that can't be read is left out."""
    empty: Image = np.full((size, size, 3), EMPTY, np.uint8)
    for one in pictures:
        rng = Random(f"{seed}/{TASK}/{one.key}")
        try:
            picture, _ = square_crop(one.picture(), {}, rng, size=size)
        except DataError as error:
            log.warning("left out: %s", error)
            continue
        target, said, marks = mark(picture, rng)
        ask = Ask(TASK, f"{one.caption.rstrip(' .,')}, {said}", marks)
        origin = {"recipe": TASK, "seed": seed, **one.facts}
        yield Triplet(one.key, ask, empty, target, {"caption": one.caption}, origin)


def _photo_reader(folder: Path) -> Reader:
    reader = reader_for(folder)
    if reader.task != PHOTO:
        raise DataError(f"{folder} holds {reader.name}, not photographs with captions; docs/data.md shows how they lie")
    return reader


def _photographs(reader: Reader, folder: Path, number: int) -> Iterator[Captioned]:
    for split in reader.splits(folder):
        for example in reader.examples(folder, split):
            facts = {"picture": example.picture, **example.facts}
            yield Captioned(f"photo-{number}-{example.key}", example.label["caption"], example.source, facts)


def _scenes(studio: Studio, count: int, seed: str) -> Iterator[Captioned]:
    for number in range(count):
        scene = studio.scene(Random(f"{seed}/{TASK}/scene/{number}"))
        yield Captioned(f"scene-{number:07d}", caption_of(scene), scene.render)


def _dot(side: int, rng: Random) -> Cover:
    """A filled disc."""
    return _near(side, rng, 0.0, radius_of(side))


def _circle(side: int, rng: Random) -> Cover:
    """The outline of a circle that is mostly inside the picture."""
    return _near(side, rng, side * rng.uniform(0.12, 0.35), max(0.75, side / 128))


def _near(side: int, rng: Random, radius: float, width: float) -> Cover:
    """What is nearer than `width` to a circle around a random point."""
    x, y = rng.uniform(0.1, 0.9) * side, rng.uniform(0.1, 0.9) * side
    ys, xs = np.mgrid[:side, :side]
    return np.asarray(np.clip(width + 0.5 - np.abs(np.hypot(xs - x, ys - y) - radius), 0, 1), np.float32)


def _patch(side: int, rng: Random) -> Cover:
    """A see-through shape with a wavy edge, as large as an object may be."""
    corners, reach = 12, side * rng.uniform(0.1, 0.3)
    x, y = rng.uniform(0.2, 0.8) * side, rng.uniform(0.2, 0.8) * side
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radii = reach * np.array([rng.uniform(0.6, 1.4) for _ in range(corners)])
    outline = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1).round().astype(np.int32)
    cover = np.zeros((side, side), np.uint8)
    cv2.fillPoly(cover, [outline], 1)
    return cover.astype(np.float32) * OPACITY


_COVERS: dict[str, Callable[[int, Random], Cover]] = {"dot": _dot, "patch": _patch, "circle": _circle}
