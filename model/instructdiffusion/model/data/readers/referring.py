"""Referring expressions: RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO on COCO, and RefClef on SAIAPR TC-12.

An example is one expression and the mask of what it names; in gRefCOCO that may be several objects or none. All
others publish their expressions as Python pickles, which can run any program when they are opened: see `pickled`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from instructdiffusion.model.data.listing import Index, entries, indexes
from instructdiffusion.model.data.outlines import outline
from instructdiffusion.model.data.pictures import coco_picture, load
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.people import numbers, within
from instructdiffusion.model.data.readers.pickled import unpickled
from instructdiffusion.model.data.readers.walk import Skip, Walker, first_folder
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Mask

_BERKELEY = "refs(berkeley).p"  # RefClef's other division, which tells its folder from RefCOCO's
_GOOGLE = "val-google"  # the paper's val(G)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+(?=\S)", re.IGNORECASE)


class Referring(Walker):
    """Expressions in `files` (the first that is there counts) beside the `instances.json` with outlines."""

    task = "referring"
    licence = (
        "no licence stated for the expressions; COCO's outlines CC BY 4.0; pictures under their owners' Flickr licences"
    )
    address = "https://github.com/lichengunc/refer"
    files: ClassVar[tuple[str, ...]]
    parts: ClassVar[tuple[str, ...]] = ("train", "val", "testA", "testB")
    places: ClassVar[tuple[str, ...]] = ("images/mscoco/images/train2014", "images/train2014", "train2014")

    def recognises(self, folder: Path) -> bool:
        return (folder / "instances.json").is_file() and self._file(folder) is not None

    def splits(self, folder: Path) -> tuple[str, ...]:
        return self.parts if self._file(folder) else ()

    def _file(self, folder: Path, split: str = "") -> Path | None:
        """The list that a split's expressions are in."""
        return next((folder / name for name in self.files if (folder / name).is_file()), None)

    def belongs(self, given: Any, split: str) -> bool:
        """Whether a ref whose split is `given` is of a split."""
        return bool(given == split)

    def picture(self, number: Any) -> str:
        """The name of a picture, by its id."""
        return coco_picture(number) if isinstance(number, int) and number >= 0 else f"coco/{number}"

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        path = self._file(folder, split)
        if path is None:
            return
        pictures = first_folder(
            folder, *(f"{up}{place}" for up in ("../", "", "../../", "../coco/") for place in self.places)
        )
        with indexes(3) as (refs, outlines, images):
            for number, ref in enumerate(entries(path) if path.suffix == ".json" else unpickled(path)):
                wanted = isinstance(ref, dict) and self.belongs(ref.get("split"), split)
                if not isinstance(ref, dict):
                    yield Skip("ref: not a mapping", f"{path.name}[{number}]")
                elif wanted and "ref_id" not in ref:
                    yield Skip("ref_id: missing", f"{path.name}[{number}]")
                elif wanted and not refs.add(ref["ref_id"], _plain(ref)):
                    yield Skip("ref_id: given twice", f"{split}-{ref['ref_id']}")
            _keep_outlines(folder / "instances.json", refs, outlines, images)
            for ref in refs.values():
                yield from self._expressions(split, ref, outlines, images, pictures)

    def _expressions(
        self, split: str, ref: dict[str, Any], outlines: Index, images: Index, pictures: Path
    ) -> Iterator[Example | Skip]:
        key = f"{split}-{ref['ref_id']}"
        image = images.get(ref.get("image_id"))
        reason = "image_id: no such picture" if image is None else None
        path = within(pictures, str(image["file_name"])) if image else None
        if image is not None and (path is None or not path.is_file()):
            reason = "picture: missing on disk"
        mask = None
        if image is not None and path is not None and reason is None:
            mask, reason = _union(ref, outlines, (int(image["width"]), int(image["height"])))
        if image is None or path is None or mask is None:
            yield Skip(reason or "picture: missing on disk", key)
            return
        name = self.picture(ref["image_id"])
        source = partial(load, path, size=(int(image["width"]), int(image["height"])))
        said = ref.get("sentences") if isinstance(ref.get("sentences"), list) else []
        seen: set[str] = set()
        for place, sentence in enumerate(said or []):
            text = words(sentence.get("sent") or sentence.get("raw")) if isinstance(sentence, dict) else None
            this = f"{key}-{sentence.get('sent_id', place) if isinstance(sentence, dict) else place}"
            if text is None:
                yield Skip("sentences.sent: empty or not UTF-8", this)
            elif this in seen:
                yield Skip("sentences.sent_id: given twice", this)
            else:
                seen.add(this)
                yield Example(this, self.task, name, source, {"phrase": text, "mask": mask})


class RefCoco(Referring):
    """RefCOCO: `refs(unc).p` and `instances.json` in a folder without a plus in its name."""

    name = "RefCOCO"
    weight = 0.35  # one expression an object and epoch: 42 404 objects, 120 624 expressions
    files: ClassVar[tuple[str, ...]] = ("refs(unc).p", "refs(google).p")
    plus: ClassVar[bool] = False

    def recognises(self, folder: Path) -> bool:
        named = "+" in folder.resolve().name or "plus" in folder.resolve().name.lower()
        other = (folder / "refs(umd).p").is_file() or _clef(folder)
        return super().recognises(folder) and named == self.plus and not other


class RefCocoPlus(RefCoco):
    """RefCOCO+, whose expressions name no place: the files of RefCOCO, in a folder with a plus in its name."""

    name = "RefCOCO+"
    weight = 0.0  # not in the paper's mixture
    files = ("refs(unc).p",)
    plus = True


class RefCocoG(Referring):
    """RefCOCOg with the division that keeps pictures apart: `refs(umd).p` and `instances.json`.

    Of the other division, `refs(google).p`, there is `val-google` to score on: its pictures may be in any other split.
    """

    name = "RefCOCOg"
    weight = 0.0  # not in the paper's mixture
    files = ("refs(umd).p",)
    parts = ("train", "val", "test")

    def splits(self, folder: Path) -> tuple[str, ...]:
        return (*super().splits(folder), *((_GOOGLE,) if (folder / "refs(google).p").is_file() else ()))

    def belongs(self, given: Any, split: str) -> bool:
        return super().belongs(given, "val" if split == _GOOGLE else split)

    def _file(self, folder: Path, split: str = "") -> Path | None:
        return folder / "refs(google).p" if split == _GOOGLE else super()._file(folder)


class GRefCoco(Referring):
    """gRefCOCO: `grefs(unc).json` and `instances.json`; expressions for many objects or for none."""

    name = "gRefCOCO"
    licence = (
        "no licence stated for the expressions; COCO's outlines CC BY 4.0; pictures under their owners' Flickr licences"
    )
    address = "https://github.com/henghuiding/gRefCOCO"
    weight = 0.38  # one expression an object and epoch: about 79 000 objects, 209 344 expressions
    files = ("grefs(unc).json",)


class RefClef(Referring):
    """RefClef with UNC's division: `refs(unc).p` beside `refs(berkeley).p`, or in a folder with "clef" in its name.

    Its outlines are run lengths of SAIAPR TC-12's regions. A ref may be of several test splits: "testAB" is of two.
    """

    name = "RefClef"
    licence = "no licence stated for the expressions; pictures of IAPR TC-12, without copyright restrictions"
    weight = 0.0  # not in the paper's mixture
    files = ("refs(unc).p",)
    parts = ("train", "val", "testA", "testB", "testC")
    places = ("images/saiapr_tc-12", "saiapr_tc-12")

    def recognises(self, folder: Path) -> bool:
        return super().recognises(folder) and _clef(folder)

    def belongs(self, given: Any, split: str) -> bool:
        tests = given.removeprefix("test") if isinstance(given, str) and given.startswith("test") else ""
        return given == split or split in [f"test{letter}" for letter in tests]

    def picture(self, number: Any) -> str:
        return f"saiapr/{number}"


def _clef(folder: Path) -> bool:
    return (folder / _BERKELEY).is_file() or "clef" in folder.resolve().name.lower()


def words(text: Any) -> str | None:
    """An expression as it fits into an instruction: no article in front, no full stop; None when nothing is left."""
    if not isinstance(text, str) or any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        return None
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split()).strip(" .,;:!?")
    return _ARTICLE.sub("", plain) or None


def _wanted(ref: dict[str, Any]) -> list[Any]:
    """The annotations a ref names; none for an expression that names nothing."""
    given = ref.get("ann_id")
    listed = given if isinstance(given, list) else [given]
    return [] if ref.get("no_target") else [number for number in listed if number != -1]


def _union(ref: dict[str, Any], outlines: Index, size: tuple[int, int]) -> tuple[Mask | None, str | None]:
    """What a ref names as one mask, or the reason why there is none."""
    mask = np.zeros((size[1], size[0]), bool)
    wanted = _wanted(ref)
    for number in wanted:
        kept = outlines.get(number)
        if kept is None:
            return None, "ann_id: no such annotation"
        if kept["image_id"] != ref.get("image_id"):
            return None, "ann_id: of another picture"
        part = outline(kept["segmentation"], size)
        if part is None:
            return None, "segmentation: no polygons or run lengths of this picture"
        mask |= part
    return (mask, None) if mask.any() or not wanted else (None, "segmentation: empty")


def _keep_outlines(path: Path, refs: Index, outlines: Index, images: Index) -> None:
    """Keep the outlines and pictures that the refs name.

    Raises:
        DataError: two annotations or pictures have one id, or there are no pictures; names the file and the field.
    """
    with indexes(2) as (annotations, pictures):
        for ref in refs.values():
            pictures.add(ref.get("image_id"))
            for number in _wanted(ref):
                annotations.add(number)
        for number, entry in enumerate(entries(path, "images")):
            if isinstance(entry, dict) and entry.get("id") in pictures:
                size = numbers([entry.get("width"), entry.get("height")], 2)
                if size is None or min(size) < 1 or not isinstance(entry.get("file_name"), str):
                    raise DataError(f"{path}: images[{number}]: file_name, width or height is missing or no such value")
                kept = {"file_name": entry["file_name"], "width": int(size[0]), "height": int(size[1])}
                if not images.add(entry["id"], kept) and images.get(entry["id"]) != kept:
                    raise DataError(f"{path}: images[{number}].id is {entry['id']}, which another picture has")
        for number, entry in enumerate(entries(path, "annotations")):
            if isinstance(entry, dict) and entry.get("id") in annotations and not entry.get("iscrowd"):
                kept = {"image_id": entry.get("image_id"), "segmentation": entry.get("segmentation")}
                if not outlines.add(entry["id"], kept) and outlines.get(entry["id"]) != kept:
                    raise DataError(f"{path}: annotations[{number}].id is {entry['id']}, which another annotation has")
    if len(refs) and not len(images):
        raise DataError(f"{path}: images: none of the pictures that the expressions name; is it another data set's?")


def _plain(ref: dict[Any, Any]) -> dict[str, Any]:
    """What is used of a ref, so that the rest need not fit into JSON."""
    kept = {name: ref.get(name) for name in ("ref_id", "image_id", "ann_id", "no_target")}
    said = ref.get("sentences")
    fields = ("sent", "raw", "sent_id")
    sentences = [{f: s.get(f) for f in fields} for s in said if isinstance(s, dict)] if isinstance(said, list) else []
    return {**kept, "sentences": sentences}


READERS = (RefCoco(), RefCocoPlus(), RefCocoG(), GRefCoco(), RefClef())
