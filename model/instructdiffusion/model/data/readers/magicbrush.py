"""MagicBrush: edits in turns, each of what the turn before it made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from instructdiffusion.model.data.listing import Index, entries, indexes
from instructdiffusion.model.data.pictures import coco_picture, decode, load
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.editing import (
    EMPTY,
    NO_BYTES,
    TWICE,
    Edits,
    Picture,
    has_table,
    picture_in,
    text_of,
)
from instructdiffusion.model.data.readers.folders import Archive, archive
from instructdiffusion.model.data.readers.parquet import rows
from instructdiffusion.model.data.readers.people import MISSING, within
from instructdiffusion.model.data.readers.walk import Skip
from instructdiffusion.model.errors import DataError


class MagicBrush(Edits):
    """MagicBrush: `data/<split>-*.parquet` of the Hub, and for the test split `test.zip` or its content.

    A turn edits what the turn before it made; each is an example. The masks are not needed: nothing is inpainted.
    """

    name = "MagicBrush"
    licence = "CC BY 4.0; source pictures from COCO under their owners' Flickr licences"
    address = "https://osu-nlp-group.github.io/MagicBrush/"
    flips = True
    pictures: ClassVar[tuple[str, str]] = ("source_img", "target_img")
    password: ClassVar[bytes] = b"MagicBrush"  # given on the authors' page, against crawlers

    def recognises(self, folder: Path) -> bool:
        return self._test(folder) is not None or has_table(folder, self.pictures)

    def splits(self, folder: Path) -> tuple[str, ...]:
        tables = {p.name.split("-")[0] for p in self._tables(folder)}
        return tuple(s for s in ("train", "dev") if s in tables) + (("test",) if self._test(folder) else ())

    def _tables(self, folder: Path) -> list[Path]:
        return sorted((folder / "data").glob("*-*.parquet")) if has_table(folder, self.pictures) else []

    def _test(self, folder: Path) -> Path | None:
        """The list of turns, or the archive that has it."""
        places = ("edit_turns.json", "test/edit_turns.json", "test.zip", "MagicBrush_test.zip")
        return next(
            (folder / p for p in places if (folder / p).is_file() and _has_turns(folder / p, self.password)), None
        )

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        return self._turns(folder) if split == "test" else self._rows(folder, split, wanted=True)

    def outline(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        return self._turns(folder) if split == "test" else self._rows(folder, split, wanted=False)

    def _rows(self, folder: Path, split: str, wanted: bool) -> Iterator[Example | Skip]:
        with indexes(1) as (seen,):
            for path in self._tables(folder):
                if path.name.startswith(f"{split}-"):
                    texts = ("img_id", "turn_index", "instruction")
                    for number, row in enumerate(rows(path, texts, self.pictures, decode=wanted)):
                        yield self._row(f"{path} row {number}", split, row, seen)

    def _row(self, where: str, split: str, row: dict[str, Any], seen: Index) -> Example | Skip:
        key, said = f"{split}-{row['img_id']}-{row['turn_index']}", text_of(row["instruction"])
        before, after = (row[name] for name in self.pictures)
        if said is None:
            return Skip(EMPTY, key)
        if before is None or after is None:
            return Skip(NO_BYTES, key)
        if not seen.add(key):
            return Skip(TWICE, key)
        source, target = partial(decode, before, where), partial(decode, after, where)
        return self.edit(key, _coco(row["img_id"]), source, target, [said], {"turn": row["turn_index"]})

    def _turns(self, folder: Path) -> Iterator[Example | Skip]:
        path = self._test(folder)
        if path is None:
            return
        inside = archive(path, self.password) if path.suffix == ".zip" else None
        turns = _list(inside.read(_turns_in(inside)), path) if inside else entries(path)
        with indexes(2) as (seen, counted):
            for number, turn in enumerate(turns):
                yield self._turn(path, inside, number, turn, seen, counted)

    def _turn(
        self, path: Path, inside: Archive | None, number: int, turn: Any, seen: Index, counted: Index
    ) -> Example | Skip:
        fields = [text_of(turn.get(name)) if isinstance(turn, dict) else None for name in ("input", "output")]
        said = text_of(turn.get("instruction")) if isinstance(turn, dict) else None
        before, after = fields
        if before is None or after is None:
            return Skip("input, output: missing", f"test-{number}")
        key, image = f"test-{Path(after).stem}", before.partition("-")[0]
        if said is None:
            return Skip(EMPTY, key)
        if not seen.add(key):
            return Skip(TWICE, key)
        place = next(n for n in range(1, 1000) if counted.add(f"{image} {n}"))
        sides = [_turn_picture(path, inside, f"images/{image}/{name}", self.password) for name in (before, after)]
        if sides[0] is None or sides[1] is None:
            return Skip(MISSING, key)
        return self.edit(key, _coco(image), sides[0], sides[1], [said], {"turn": place})


def _has_turns(path: Path, password: bytes) -> bool:
    return path.suffix == ".json" or any(n.endswith("edit_turns.json") for n in archive(path, password).names)


def _turns_in(inside: Archive) -> str:
    return next(name for name in inside.names if name.endswith("edit_turns.json"))


def _turn_picture(path: Path, inside: Archive | None, name: str, password: bytes) -> Picture | None:
    """A picture of a turn, beside the list of turns; None when it is missing."""
    if inside is None:
        file = within(path.parent, name)
        return partial(load, file) if file is not None and file.is_file() else None
    there = _turns_in(inside).removesuffix("edit_turns.json") + name
    return partial(picture_in, path, there, password) if there in inside.names else None


def _list(data: bytes, path: Path) -> list[Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DataError(f"{path}: edit_turns.json is no JSON in UTF-8; download it again") from error
    if not isinstance(value, list):
        raise DataError(f"{path}: edit_turns.json is no list; download it again")
    return value


def _coco(image: Any) -> str:
    return coco_picture(int(image)) if str(image).isdecimal() else f"magicbrush/{image}"


READERS = (MagicBrush(),)
