"""Photographs with captions, as img2dataset writes LAION's: a text beside each picture, or one list of captions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

from instructdiffusion.model.data.listing import Index, indexes
from instructdiffusion.model.data.pictures import load
from instructdiffusion.model.data.readers import PHOTO, Example
from instructdiffusion.model.data.readers.editing import text_of
from instructdiffusion.model.data.readers.folders import PICTURES, folders_in, pictures_in
from instructdiffusion.model.data.readers.people import MISSING, within
from instructdiffusion.model.data.readers.walk import Skip, Walker
from instructdiffusion.model.errors import DataError

LISTS = ("captions.jsonl", "metadata.jsonl")
DEEPEST = 8  # folders within folders
_FILES = ("file_name", "file", "image", "path")
_TEXTS = ("text", "caption")
_FACTS = {"url": "address", "LICENSE": "licence", "license": "licence", "NSFW": "nsfw"}


class Photos(Walker):
    """`<picture>` and `<picture>.txt` in folders of any depth (with `.json`: its address), or `captions.jsonl`."""

    name = "Photo folder"
    task = PHOTO
    licence = "each picture's own; LAION lists addresses and grants nothing"
    address = "https://github.com/rom1504/img2dataset"
    weight = 0.0  # never trained on as they are
    flips = True

    def recognises(self, folder: Path) -> bool:
        if any((folder / name).is_file() for name in LISTS):
            return True
        inner = (p for p in islice(folder.iterdir(), 1000) if p.is_dir())
        return any(_captioned(place) for place in (folder, *islice(inner, 3)))

    def splits(self, folder: Path) -> tuple[str, ...]:
        return ("train",) if self.recognises(folder) else ()

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        listed = next((folder / name for name in LISTS if (folder / name).is_file()), None)
        with indexes(1) as (keys,):
            yield from self._list(folder, listed, keys) if listed else self._below(folder, "", keys, DEEPEST)

    def _list(self, folder: Path, path: Path, keys: Index) -> Iterator[Example | Skip]:
        with indexes(1) as (seen,):
            for number, line in enumerate(lines_of(path), 1):
                where = f"{path.name} line {number}"
                if isinstance(line, str):
                    yield Skip(line, where)
                    continue
                name = next((line[n] for n in _FILES if isinstance(line.get(n), str)), None)
                picture = within(folder, name) if name else None
                text = next((found for n in _TEXTS if (found := text_of(line.get(n)))), None)
                if name is None or picture is None:
                    yield Skip("file_name: missing, or leads out of the folder", where)
                elif text is None:
                    yield Skip("text: empty or not UTF-8", name)
                elif not picture.is_file():
                    yield Skip(MISSING, name)
                elif not seen.add(name):
                    yield Skip("file_name: given twice", name)
                else:
                    yield self._photo(name, picture, text, line, keys)

    def _below(self, folder: Path, inside: str, keys: Index, deep: int) -> Iterator[Example | Skip]:
        for file in pictures_in(folder / inside):
            name = f"{inside}{file}"
            text = (folder / name).with_suffix(".txt")
            if not text.is_file():
                yield Skip("caption: no .txt beside the picture", name)
            elif (caption := text_of(_utf8(text))) is None:
                yield Skip("caption: empty or not UTF-8", name)
            else:
                yield self._photo(name, folder / name, caption, _beside(folder / name), keys)
        if deep:
            for child in folders_in(folder / inside):
                yield from self._below(folder, f"{inside}{child}/", keys, deep - 1)

    def _photo(self, name: str, path: Path, caption: str, known: dict[str, Any], keys: Index) -> Example:
        facts = {ours: str(known[theirs]) for theirs, ours in _FACTS.items() if known.get(theirs) not in (None, "")}
        key = _unique(name.rpartition(".")[0].replace("/", "-").replace(".", "_"), keys)
        return Example(key, self.task, f"photo/{name}", partial(load, path), {"caption": caption}, facts=facts)


def _unique(key: str, keys: Index) -> str:
    """The key, numbered when another picture has it: 1.jpg and 1.png in one folder are two."""
    numbered = (key if number == 1 else f"{key}~{number}" for number in count(1))
    return next(candidate for candidate in numbered if keys.add(candidate))


def _captioned(folder: Path) -> bool:
    """Whether one of a folder's first pictures has a text beside it."""
    some = (p for p in islice(folder.iterdir(), 1000) if p.suffix.lower() in PICTURES)
    return any(p.with_suffix(".txt").is_file() for p in islice(some, 20))


def _utf8(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None


def _beside(picture: Path) -> dict[str, Any]:
    """What img2dataset noted of a picture; nothing when there is no such note, or a broken one."""
    try:
        found = json.loads(picture.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lines_of(path: Path) -> Iterator[dict[str, Any] | str]:
    """Each line of a JSONL file as an object, or as the reason why it is none."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield _parsed(line)
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}); check its permissions") from error


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "line: not UTF-8"
    except ValueError:
        return "line: no JSON"
    return found if isinstance(found, dict) else "line: no object"


READERS = (Photos(),)
