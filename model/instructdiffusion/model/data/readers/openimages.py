"""Open Images V5 to V7: one object of a known class a region, with its box and, where it was outlined, its mask.

Where a split has `*-annotations-object-segmentation.csv`, its rows are the examples; else those of the boxes are,
without masks. Masks are PNG files, in folders or in the zip files as published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from instructdiffusion.model.data.listing import Index, indexes
from instructdiffusion.model.data.pictures import decode, load
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.editing import text_of
from instructdiffusion.model.data.readers.folders import archive
from instructdiffusion.model.data.readers.people import MISSING, within
from instructdiffusion.model.data.readers.regions import BROKEN, Regions, Size, clipped, sized
from instructdiffusion.model.data.readers.tables import records
from instructdiffusion.model.data.readers.walk import Skip
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image, Mask

_OUTLINED = "-annotations-object-segmentation.csv"
_BOXED = "-annotations-bbox.csv"
_FLAGS = {"IsGroupOf": "a group, not one object", "IsDepiction": "a drawing", "IsInside": "seen from inside"}


class OpenImages(Regions):
    """`*class-descriptions*.csv`, `*<split>-annotations-*.csv` and pictures in `<split>/` or `<split>_0/` to `_f/`."""

    name = "Open Images"
    licence = "annotations CC BY 4.0; pictures listed as CC BY 2.0, one by one"
    address = "https://storage.googleapis.com/openimages/web/download_v7.html"

    def splits(self, folder: Path) -> tuple[str, ...]:
        if _only(folder, "*class-descriptions*.csv") is None:
            return ()
        return tuple(s for s in ("train", "validation", "test") if self._table(folder, s))

    def _table(self, folder: Path, split: str) -> Path | None:
        return _only(folder, f"*{split}{_OUTLINED}") or _only(folder, f"*{split}{_BOXED}")

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        table, described = self._table(folder, split), _only(folder, "*class-descriptions*.csv")
        if table is None or described is None:
            return
        classes, outlined = _classes(described), table.name.endswith(_OUTLINED)
        before = "Box" if outlined else ""
        sides = tuple(f"{before}{side}" for side in ("XMin", "YMin", "XMax", "YMax"))
        columns = ("ImageID", "LabelName", *sides, *(("MaskPath",) if outlined else ()))
        with indexes(2) as (licences, seen):
            _keep_licences(folder, split, licences)
            for number, row in enumerate(records(table, columns)):
                key = f"{split}-{Path(row['MaskPath']).stem}" if outlined else f"{split}-{row['ImageID']}-{number}"
                yield self._region(folder, split, key, row, sides, classes, licences, seen)

    def _region(
        self, folder: Path, split: str, key: str, row: Mapping[str, str], sides: tuple[str, ...],
        classes: Mapping[str, str], licences: Index, seen: Index,
    ) -> Example | Skip:  # fmt: skip
        if flag := next((name for name in _FLAGS if row.get(name) == "1"), None):
            return Skip(f"{flag}: {_FLAGS[flag]}", key)
        phrase = classes.get(row["LabelName"])
        if phrase is None:
            return Skip("LabelName: no such class", key)
        path = _picture(folder, split, row["ImageID"])
        if path is None:
            return Skip(MISSING, key)
        size = sized(path)
        if size is None:
            return Skip(BROKEN, key)
        try:
            left, top, right, bottom = (float(row[side]) * size[i % 2] for i, side in enumerate(sides))
        except ValueError:
            return Skip(f"{sides[0]} to {sides[3]}: not numbers", key)
        box = clipped((left, top, right, bottom), size)
        if box is None:
            return Skip(f"{sides[0]} to {sides[3]}: not finite, empty or outside the picture", key)
        mask = _mask(folder, split, row["MaskPath"]) if "MaskPath" in row else None
        if "MaskPath" in row and mask is None:
            return Skip("MaskPath: missing on disk", key)
        if not seen.add(key):
            return Skip("MaskPath: given twice", key)
        lazy = {"mask": partial(scaled, mask[0], mask[1], size)} if mask else {}
        picture, label = f"open-images/{row['ImageID']}", {"phrase": phrase, "box": list(box)}
        facts = licences.get(row["ImageID"]) or {}
        return Example(key, self.task, picture, partial(load, path, size=size), label, facts=facts, lazy=lazy)


def scaled(path: Path, member: str | None, size: Size) -> Mask:
    """A mask from a PNG file or an archive's member, brought to a picture's size: the authors keep them apart.

    Raises:
        DataError: it is missing, broken or empty; names it.
    """
    name = f"{member} of {path}" if member else str(path)
    values: Image = decode(archive(path).read(member), name) if member else load(path)
    found = cv2.resize(values[..., 0], size, interpolation=cv2.INTER_NEAREST) > 127
    if not found.any():
        raise DataError(f"mask {name} is empty; leave its row out")
    return np.asarray(found)


def _mask(folder: Path, split: str, name: str) -> tuple[Path, str | None] | None:
    """Where a mask lies: its file, or archive and member."""
    if not name or within(folder, name) is None or "/" in name:
        return None
    first = name[0]
    for place in (f"{split}-masks", f"{split}-masks-{first}", f"masks/{first.upper()}", "masks", f"{split}_masks"):
        if (folder / place / name).is_file():
            return folder / place / name, None
    packed = folder / f"{split}-masks-{first}.zip"
    if packed.is_file() and name in archive(packed).names:
        return packed, name
    return None


def _picture(folder: Path, split: str, image: str) -> Path | None:
    places = (split, f"{split}_{image[:1]}", f"images/{split}", "images", "data")
    paths = (within(folder, f"{place}/{image}.jpg") for place in places)
    return next((path for path in paths if path is not None and path.is_file()), None) if image else None


def _only(folder: Path, pattern: str) -> Path | None:
    return next(iter(sorted(folder.glob(pattern))), None)


def _classes(path: Path) -> dict[str, str]:
    """Names by label; the list of later versions has a head, that of earlier ones has none."""
    rows = records(path, ("LabelName", "DisplayName"), head=False)
    found = {row["LabelName"]: text_of(row["DisplayName"]) for row in rows if row["LabelName"].startswith("/")}
    if not found:
        raise DataError(f"{path}: no row like '/m/0bt9lr,Dog'; download it again")
    return {label: name.lower() for label, name in found.items() if name}


def _keep_licences(folder: Path, split: str, kept: Index) -> None:
    """Keep licence and address of each picture, where the list of pictures is there."""
    for place in (f"*{split}-images-boxable-with-rotation.csv", f"*{split}-images-with-rotation.csv"):
        if (path := _only(folder, place)) is not None:
            for row in records(path, ("ImageID", "License", "OriginalLandingURL")):
                known = {
                    "licence": row["License"],
                    "address": row["OriginalLandingURL"],
                    "author": row.get("Author", ""),
                }
                kept.add(row["ImageID"], {name: value for name, value in known.items() if value})
            return


READERS = (OpenImages(),)
