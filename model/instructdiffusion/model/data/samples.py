"""From an example of a public data set to triplets: crop, ask, paint.

Everything is drawn from one generator, which derives from the seed, the data set, the example and the number of the
copy: a triplet is the same whichever worker makes it, in whatever order.

example  ->  source and label, cropped as its task needs (spec of the paper, sections 3.1 and 4)  ->  ask  ->  target
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image as Pillow

from instructdiffusion.model.data.augment import Sample, generator, person_crop, short_side_crop, square_crop, whole
from instructdiffusion.model.data.looks import LOOK, LOOK_AFTER, looked
from instructdiffusion.model.data.readers import Example, Reader
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Ask, Image, Label, Task
from instructdiffusion.model.tasks import EVERY
from instructdiffusion.model.tasks.segmentation import VOID

LONGEST = 100  # letters of a key
NARROW = 50  # times as long as wide: to bring the short side of such a picture to a crop's would take gigabytes
ALIKE = 0.02  # how much the proportions of two pictures of one shape differ at most


class Unusable(DataError):
    """An example that no triplet can be made of; `reason` is one of a few."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def trainable(reader: Reader) -> bool:
    """Whether a data set's examples are of a task; regions and photographs are what triplets are synthesised from."""
    return reader.task in EVERY


def triplets_of(
    example: Example, reader: Reader, *, source: str, size: int, seed: int, train: bool = True, copies: int = 1
) -> Iterator[Triplet]:
    """The triplets of an example, pictures of `size` x `size` pixels.

    Args:
        source: name that keys begin with and that the provenance holds.
        train: crops at random and mirrored as the data set allows; off: from the middle.
        copies: how many, each with a crop, an instruction and colours of its own.

    Raises:
        Unusable: see `loaded`; or the label does not fit the picture, or nothing to ask for is left in the crop.
    """
    task = EVERY[example.task]
    picture, label = loaded(example)
    if task.family == "editing":
        label = fitted(picture, label)
    if misfit := _misfit(picture, label):
        raise Unusable("label: of another size than its picture", f"{example.key}: {misfit}")
    after = label.get("target", label.get("clean"))
    seen = {LOOK: looked(picture), **({LOOK_AFTER: looked(after)} if isinstance(after, np.ndarray) else {})}
    for copy in range(copies):
        rng = generator(f"{reader.name}/{example.key}", seed=seed, epoch=copy)
        said = {"instruction": rng.choice(example.instructions)} if example.instructions else {}
        try:
            # The instruction is in the label so that a mirror turns its words too, or is not held up.
            cropped, changed = crop(picture, {**label, **said}, rng, task=task, reader=reader, size=size, train=train)
            ask = asked(task, changed, rng)
            target = task.paint(cropped, changed, ask)
        except DataError as error:
            raise Unusable("label: nothing to ask for in the crop", f"{example.key}: {error}") from error
        key = safe_key(source, example.key, copy if copies > 1 else None)
        facts = {**origin(example, reader, source, copy, seed), **seen}
        yield Triplet(key, ask, cropped, target, changed, facts)


def loaded(example: Example) -> tuple[Image, Label]:
    """The picture of an example, and its whole label but for what only scoring needs.

    Raises:
        Unusable: a picture is missing or broken, or it is hardly more than a line.
    """
    try:
        picture, _, label = example.loaded()
    except DataError as error:
        raise Unusable("picture: missing or broken", str(error)) from error
    height, width = picture.shape[:2]
    if max(height, width) > NARROW * min(height, width):
        raise Unusable("picture: too narrow", f"{example.key} is {width} x {height} pixels; crop it, or leave it out")
    return picture, {name: value for name, value in label.items() if name != VOID}


def fitted(picture: Image, label: Label) -> Label:
    """The label with its pictures as large as `picture`, where they have its shape: edits are posted in any size."""
    height, width = picture.shape[:2]

    def fit(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.ndim != 3 or value.shape == picture.shape:
            return value
        if abs(value.shape[0] * width / (value.shape[1] * height) - 1) > ALIKE:
            return value
        return np.array(Pillow.fromarray(value).resize((width, height), Pillow.Resampling.LANCZOS))

    return {name: fit(value) for name, value in label.items()}


def _misfit(picture: Image, label: Label) -> str | None:
    """What is wrong with the size of a picture, mask or map in a label."""
    for name, value in label.items():
        if isinstance(value, np.ndarray) and value.ndim >= 2 and value.shape[:2] != picture.shape[:2]:
            return f"label.{name} is {value.shape[:2]} where its picture is {picture.shape[:2]}; make them fit"
    return None


def crop(picture: Image, label: Label, rng: Random, *, task: Task, reader: Reader, size: int, train: bool) -> Sample:
    """Crop, resize and mirror as the task allows: what is asked about stays in the picture."""
    if task.name == "keypoint":
        half = reader.half_body
        return person_crop(picture, label, rng, size=size, train=train, mirror=reader.flips, half=half)
    if task.family == "restoration":
        # Resizing takes noise away; blur and watermarks survive it.
        shrink = task.name != "denoise"
        return short_side_crop(picture, label, rng, size=size, train=train, mirror=reader.flips, shrink=shrink)
    if task.family == "perception":
        one = task.name == "referring"
        return square_crop(picture, label, rng, size=size, train=train, mirror=reader.flips, whole=one)
    return whole(picture, label, rng, size=size, train=train, mirror=reader.flips)


def asked(task: Task, label: Label, rng: Random) -> Ask:
    """The data set's own words where the label has them, else the task's."""
    ask = task.ask(label, rng)
    return replace(ask, instruction=label["instruction"]) if "instruction" in label else ask


def origin(example: Example, reader: Reader, source: str, copy: int, seed: int) -> dict[str, object]:
    """Where a triplet comes from: data set, annotation, picture and licence, and all else that is known."""
    own = {"dataset": reader.name, "source": source, "example": example.key, "picture": example.picture}
    return {**example.facts, **own, "licence": licence_of(example, reader), "copy": copy, "seed": seed}


def licence_of(example: Example, reader: Reader) -> str:
    """The licence of an example's picture, or else what the data set's authors state."""
    return example.facts.get("licence") or reader.licence


def safe_key(source: str, key: str, copy: int | None = None) -> str:
    """A name that a shard can hold: letters, digits, _ and -; no two examples of a source share one."""
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", key)[:LONGEST]
    unique = clean if clean == key else f"{clean}-{crc32(key.encode()):08x}"
    return f"{source}-{unique}" if copy is None else f"{source}-{unique}-{copy}"
