"""Pairs of captions, and the instruction that leads from one to the other: what InstructPix2Pix was painted of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from instructdiffusion.model.data.readers import PROMPT, Example
from instructdiffusion.model.data.readers.editing import text_of
from instructdiffusion.model.data.readers.photos import lines_of
from instructdiffusion.model.data.readers.walk import Skip, Walker
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image

LISTS = ("prompts.jsonl", "gpt-generated-prompts.jsonl", "human-written-prompts.jsonl")
_BEFORE = ("input", "caption")


class Prompts(Walker):
    """One of the lists, in each line `input` (or `caption`), `edit` and `output`, and perhaps `url`."""

    name = "InstructPix2Pix prompts"
    task = PROMPT
    licence = "no licence stated; captions from LAION, edits by GPT-3"
    address = "http://instruct-pix2pix.eecs.berkeley.edu"
    weight = 0.0  # never trained on as they are

    def recognises(self, folder: Path) -> bool:
        return self._list(folder) is not None

    def splits(self, folder: Path) -> tuple[str, ...]:
        return ("train",) if self.recognises(folder) else ()

    def _list(self, folder: Path) -> Path | None:
        return next((folder / name for name in LISTS if (folder / name).is_file()), None)

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        path = self._list(folder)
        for number, line in enumerate(lines_of(path) if path else (), 1):
            key = f"line-{number}"
            if isinstance(line, str):
                yield Skip(line, key)
                continue
            before = next((text for name in _BEFORE if (text := text_of(line.get(name)))), None)
            edit, after = text_of(line.get("edit")), text_of(line.get("output"))
            if before is None or edit is None or after is None:
                yield Skip("input, edit, output: one is empty or not UTF-8", key)
                continue
            label = {"instruction": edit, "caption": before, "caption_after": after}
            facts = {"address": str(line["url"])} if line.get("url") else {}
            yield Example(key, self.task, "", _none, label, facts=facts)


def _none() -> Image:
    raise DataError("a pair of captions has no picture; make: [edit] paints it")


READERS = (Prompts(),)
