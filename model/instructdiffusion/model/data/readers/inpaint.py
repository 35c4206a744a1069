"""GQA-Inpaint: objects of photographs painted out, with the words that name them from the photographs' scene graphs.

Which of several objects is meant must be clear: of two alike the instruction says the side they are on, more than two
alike are left out, as the authors do. The test split comes with fixed instructions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from instructdiffusion.model.data.listing import Index, indexes, members
from instructdiffusion.model.data.pictures import load
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.editing import text_of
from instructdiffusion.model.data.readers.people import MISSING, within
from instructdiffusion.model.data.readers.walk import Skip, Walker
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Mask

PLACES = {"to the left": "at the left", "to the center": "at the center", "to the right": "at the right"}


class GqaInpaint(Walker):
    """`<split>_scenes.json`, `images/<image>.jpg` of GQA, `images_inpainted/<image>/<object>.jpg` and `masks/...`."""

    name = "GQA-Inpaint"
    task = "remove"
    licence = "no licence stated; GQA's annotations CC BY 4.0; pictures of Visual Genome under their Flickr licences"
    address = "https://github.com/abyildirim/inst-inpaint"

    def recognises(self, folder: Path) -> bool:
        return (folder / "images_inpainted").is_dir() and bool(self.splits(folder))

    def splits(self, folder: Path) -> tuple[str, ...]:
        return tuple(s for s in ("train", "test") if (folder / f"{s}_scenes.json").is_file())

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        fixed = folder / "test_instructions.json"
        with indexes(2) as (said, seen):
            if split == "test" and fixed.is_file():
                for name, text in members(fixed):
                    said.add(name, text)
            for image, scene in members(folder / f"{split}_scenes.json"):
                if not isinstance(scene, dict) or not isinstance(scene.get("objects"), dict):
                    yield Skip("objects: missing", f"{split}-{image}")
                elif not seen.add(image):
                    yield Skip("image: given twice", f"{split}-{image}")
                else:
                    yield from self._objects(folder, split, image, scene, said if len(said) else None)

    def _objects(
        self, folder: Path, split: str, image: str, scene: Mapping[str, Any], said: Index | None
    ) -> Iterator[Example | Skip]:
        for number, thing in sorted(scene["objects"].items()):
            if not isinstance(thing, dict) or not thing.get("bidirected"):
                continue  # an object that others are described by, not one that was painted out
            key = f"{split}-{image}-{number}"
            phrase = removed(scene, number) if said is None else _named(said.get(f"i{image}-o{number}"))
            if not isinstance(phrase, str):
                yield Skip(phrase[0], key)
                continue
            names = (f"images/{image}.jpg", *(f"{f}/{image}/{number}.jpg" for f in ("images_inpainted", "masks")))
            paths = [path for name in names if (path := within(folder, name)) is not None and path.is_file()]
            if len(paths) < len(names):
                yield Skip(MISSING, key)
                continue
            target = partial(load, paths[1])
            yield Example(
                key,
                self.task,
                f"visual-genome/{image}",
                partial(load, paths[0]),
                {"words": {"phrase": phrase}, "held_out": False},
                target,
                (f"remove the {phrase}",),
                lazy={"target": target, "mask": partial(white, paths[2])},
            )


def removed(scene: Mapping[str, Any], number: str) -> str | tuple[str]:
    """The words for one object of a scene; or the reason, alone in a tuple, why there are none."""
    names = {n: text_of(o.get("name")) for n, o in scene["objects"].items() if isinstance(o, dict)}
    name, alike = names.get(number), Counter(names.values())
    if name is None:
        return ("name: empty or not UTF-8",)
    if alike[name] == 1:
        return name
    if alike[name] > 2:
        return ("name: more than two alike in the picture",)
    given = scene.get("image_relative_positions")
    positions = given if isinstance(given, dict) else {}
    sides = [positions.get(n) for n, other in names.items() if other == name]
    side = PLACES.get(str(positions.get(number)), positions.get(number))
    if sides[0] == sides[1] or not isinstance(side, str):
        return ("image_relative_positions: two alike on one side",)
    return f"{name} {side}"


def white(path: Path) -> Mask:
    """A mask from a picture of it.

    Raises:
        DataError: it is missing, broken or empty; names it.
    """
    mask = load(path)[..., 0] > 127
    if not mask.any():
        raise DataError(f"mask {path} is empty; leave its object out")
    return np.asarray(mask)


def _named(instruction: Any) -> str | tuple[str]:
    """What a fixed instruction asks to remove."""
    text = text_of(instruction)
    if text is None:
        return ("test_instructions.json: no instruction",)
    return text.removeprefix("remove the ")


READERS = (GqaInpaint(),)
