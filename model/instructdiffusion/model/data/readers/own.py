"""Triplets of one's own: pictures in a folder, and a list of who becomes what, and by which instruction."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from instructdiffusion.model.data.listing import Index, indexes
from instructdiffusion.model.data.pictures import load
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.readers.editing import EMPTY, Edits, text_of
from instructdiffusion.model.data.readers.people import MISSING, within
from instructdiffusion.model.data.readers.photos import lines_of
from instructdiffusion.model.data.readers.walk import Skip

LIST = "triplets.jsonl"
_FACTS = ("licence", "address", "author")


class Own(Edits):
    """`triplets.jsonl`: in each line `source`, `target`, `instruction` (or several), perhaps `split` and facts."""

    name = "Triplet folder"
    licence = "each triplet's own"
    address = "#triplet-folder"  # in docs/data.md
    flips = False  # nothing is known of what their words say of sides

    def recognises(self, folder: Path) -> bool:
        return (folder / LIST).is_file()

    def splits(self, folder: Path) -> tuple[str, ...]:
        if not self.recognises(folder):
            return ()
        return tuple(sorted({_split(line) for line in lines_of(folder / LIST) if isinstance(line, dict)}))

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        with indexes(1) as (keys,):
            for number, line in enumerate(lines_of(folder / LIST), 1):
                if isinstance(line, str):
                    yield Skip(line, f"{LIST} line {number}")
                elif _split(line) == split:
                    yield self._one(folder, line, f"{LIST} line {number}", keys)

    def _one(self, folder: Path, line: dict[str, Any], where: str, keys: Index) -> Example | Skip:
        said = line.get("instruction")
        texts = [text for one in (said if isinstance(said, list) else [said]) if (text := text_of(one))]
        if not texts:
            return Skip(EMPTY, where)
        paths = []
        for field in ("source", "target"):
            name = line.get(field)
            path = within(folder, name) if isinstance(name, str) else None
            if path is None:
                return Skip(f"{field}: missing, or leads out of the folder", where)
            if not path.is_file():
                return Skip(MISSING, str(name))
            paths.append(path)
        key = Path(str(line["target"])).with_suffix("").as_posix().replace("/", "-").replace(".", "_")
        if not keys.add(key):
            return Skip("target: given twice", str(line["target"]))
        facts = {name: line.get(name) for name in _FACTS}
        source, target = (partial(load, path) for path in paths)
        return self.edit(key, f"own/{line['source']}", source, target, texts, facts)


def _split(line: dict[str, Any]) -> str:
    return str(line.get("split") or "train")


READERS = (Own(),)
