"""Edits with instructions of their own: InstructPix2Pix and GIER, and what they share with MagicBrush.

Their instructions are in people's or a language model's words and fit no template, so their task is `edit`; one that
certainly asks to remove, add or replace an object says so in its facts. GQA-Inpaint is in `inpaint`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from instructdiffusion.model.data.listing import Index, entries, indexes
from instructdiffusion.model.data.pictures import decode, load
from instructdiffusion.model.data.readers import EDIT, Example
from instructdiffusion.model.data.readers.folders import Archive, archive, folders_in, names
from instructdiffusion.model.data.readers.parquet import columns_of, rows
from instructdiffusion.model.data.readers.people import MISSING, within
from instructdiffusion.model.data.readers.walk import Skip, Walker
from instructdiffusion.model.task import Image

Picture = Callable[[], Image]
EMPTY = "instruction: empty or not UTF-8"
TWICE = "key: given twice"
NO_BYTES = "picture: no bytes in the table"

_OBJECTS: dict[str, re.Pattern[str]] = {
    kind: re.compile(rf"(?:please |can you |could you )?(?:{verbs}) {rest}", re.IGNORECASE)
    for kind, verbs, rest in (
        ("replace", "replace|swap|exchange", "(?:the|an?|his|her|their|its) .+ (?:with|for|by) "),
        ("remove", "remove|delete|erase|get rid of|take away", "(?:the|an?|his|her|their|all) "),
        ("add", "add|insert", "(?:an?|some|another|one|two|three) "),
    )
}
_LOOKS = re.compile(  # what is changed everywhere rather than at an object
    r"\b(?:contrast|bright\w*|dark\w*|saturat\w*|light\w*|shadows?|colou?rs?|hue|tones?|tint|filters?|effects?|blur\w*|"
    r"nois\w*|grain\w*|sharp\w*|exposure|warmth|vignett\w*|style|glare|background|bit|depth|border|frame)\b",
    re.IGNORECASE,
)


def kind_of(instruction: str) -> str | None:
    """What an instruction certainly asks for: remove, add or replace an object; None for anything else."""
    text = instruction.strip()
    if _LOOKS.search(text):
        return None
    return next((kind for kind, pattern in _OBJECTS.items() if pattern.match(text)), None)


def text_of(value: Any) -> str | None:
    """A text on one line, None when there is none or it was no UTF-8."""
    if not isinstance(value, str) or any(0xD800 <= ord(c) <= 0xDFFF or c == "\ufffd" for c in value):
        return None
    return " ".join(value.split()) or None


class Edits(Walker):
    """What the data sets of edits have in common."""

    task = EDIT

    def edit(
        self, key: str, picture: str, source: Picture, target: Picture, said: list[str], facts: Mapping[str, Any]
    ) -> Example:
        """An edit as an example; `facts` that are None are left out."""
        kinds = {kind_of(text) for text in said}
        kind = kinds.pop() if len(kinds) == 1 else None
        known = {name: str(value) for name, value in {"kind": kind, **facts}.items() if value is not None}
        return Example(
            key, self.task, picture, source, {"held_out": False}, target, tuple(said), known, {"target": target}
        )


class InstructPix2Pix(Edits):
    """InstructPix2Pix, filtered by CLIP: `shard-*.zip` as published, or what is in them unpacked.

    A prompt is a folder with `prompt.json`, `metadata.jsonl` and for each seed `<seed>_0.jpg` and `<seed>_1.jpg`. The
    Hub's copy, `data/*.parquet`, is read too.
    """

    name = "InstructPix2Pix"
    licence = "no licence stated; pictures made with Stable Diffusion, captions from LAION"
    address = "https://github.com/timothybrooks/instruct-pix2pix"
    weight = 0.2
    flips = True
    pictures: ClassVar[tuple[str, str]] = ("original_image", "edited_image")
    texts: ClassVar[tuple[str, ...]] = ("original_prompt", "edit_prompt", "edited_prompt")

    def recognises(self, folder: Path) -> bool:
        return bool(self._zips(folder)) or _prompts(folder) or has_table(folder, self.pictures)

    def splits(self, folder: Path) -> tuple[str, ...]:
        return ("train",) if self.recognises(folder) else ()

    def _zips(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("shard-*.zip"))

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        if has_table(folder, self.pictures):
            yield from self._rows(folder, split, wanted=True)
            return
        for path in self._zips(folder):
            yield from self._zipped(path, split)
        if not self._zips(folder):
            yield from self._unpacked(folder, split)

    def outline(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        if has_table(folder, self.pictures):
            return self._rows(folder, split, wanted=False)
        return self.walk(folder, split)

    def _zipped(self, path: Path, split: str) -> Iterator[Example | Skip]:
        inside = archive(path)
        prompts: dict[str, list[str]] = {}
        for name in sorted(inside.names):
            prompts.setdefault(name.rpartition("/")[0], []).append(name)
        for prompt, files in prompts.items():
            if f"{prompt}/prompt.json" in inside.names:
                key = f"{split}-{path.stem}-{Path(prompt).name}"
                read = partial(_text_in, inside)
                yield from self._prompt(key, prompt, files, read, lambda name: partial(picture_in, path, name))

    def _unpacked(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        for shard in _shards(folder):
            for prompt in folders_in(folder / shard):
                inside = folder / shard / prompt
                files = [f"{shard}{prompt}/{name}" for name in names(inside, lambda entry: entry.is_file())]
                if (inside / "prompt.json").is_file():
                    key = "-".join(part for part in (split, shard.strip("/"), prompt) if part)
                    read = partial(_text_of_file, folder)
                    yield from self._prompt(key, f"{shard}{prompt}", files, read, lambda n: partial(load, folder / n))

    def _prompt(
        self, key: str, prompt: str, files: list[str], read: Callable[[str], str | None],
        picture: Callable[[str], Picture],
    ) -> Iterator[Example | Skip]:  # fmt: skip
        asked = _object(read(f"{prompt}/prompt.json"))
        said = text_of(asked.get("edit"))
        scores = _scores(read(f"{prompt}/metadata.jsonl") if f"{prompt}/metadata.jsonl" in files else None)
        for name in files:
            if not name.endswith("_0.jpg"):
                continue
            seed = Path(name).name.removesuffix("_0.jpg")
            after = f"{prompt}/{seed}_1.jpg"
            if said is None:
                yield Skip("prompt.json edit: empty or not UTF-8", f"{key}-{seed}")
            elif after not in files:
                yield Skip(MISSING, f"{key}-{seed}")
            else:
                facts = {"caption": text_of(asked.get("input")), "caption_after": text_of(asked.get("output"))}
                number = f"{Path(prompt).name}/{seed}"
                made = f"instructpix2pix/{number}"
                known = {**facts, **scores.get(seed, {})}
                yield self.edit(f"{key}-{seed}", made, picture(name), picture(after), [said], known)

    def _rows(self, folder: Path, split: str, wanted: bool) -> Iterator[Example | Skip]:
        for path in sorted((folder / "data").glob("*.parquet")):
            for number, row in enumerate(rows(path, self.texts, self.pictures, decode=wanted)):
                key, said = f"{split}-{path.stem}-{number}", text_of(row["edit_prompt"])
                before, after = (row[name] for name in self.pictures)
                if said is None:
                    yield Skip(EMPTY, key)
                elif before is None or after is None:
                    yield Skip(NO_BYTES, key)
                else:
                    where = f"{path} row {number}"
                    facts = {"caption": row["original_prompt"], "caption_after": row["edited_prompt"]}
                    source, target = partial(decode, before, where), partial(decode, after, where)
                    yield self.edit(key, f"instructpix2pix/{path.stem}/{number}", source, target, [said], facts)


class Gier(Edits):
    """GIER: `GIER.json` and `images/*`; with the authors' `splits/<split>_sess_*.json`, their division.

    An example is a pair of pictures with all that experts and amateurs said of it.
    """

    name = "GIER"
    licence = "no licence stated; pictures posted by their owners on Zhopped and Reddit"
    address = "https://sites.google.com/view/gierdataset"
    weight = 2.0

    def recognises(self, folder: Path) -> bool:
        return (folder / "images").is_dir() and bool(self._lists(folder))

    def splits(self, folder: Path) -> tuple[str, ...]:
        return tuple(self._lists(folder))

    def _lists(self, folder: Path) -> dict[str, Path]:
        divided = {s: sorted((folder / "splits").glob(f"{s}_sess_*.json")) for s in ("train", "val", "test")}
        if any(divided.values()):
            return {split: paths[-1] for split, paths in divided.items() if paths}
        return {"train": folder / "GIER.json"} if (folder / "GIER.json").is_file() else {}

    def walk(self, folder: Path, split: str) -> Iterator[Example | Skip]:
        with indexes(1) as (seen,):
            for number, entry in enumerate(entries(self._lists(folder)[split])):
                yield self._pair(folder / "images", split, number, entry, seen)

    def _pair(self, pictures: Path, split: str, number: int, entry: Any, seen: Index) -> Example | Skip:
        files = [text_of(entry.get(name)) if isinstance(entry, dict) else None for name in ("input", "output")]
        paths = [within(pictures, name) if name else None for name in files]
        if paths[0] is None or paths[1] is None:
            return Skip("input, output: no names of files", f"{split}-{number}")
        key = f"{split}-{paths[1].stem.replace('.', '_')}"
        given = [*_texts(entry.get("expert_summary")), *_texts(entry.get("amateur_summary"))]
        said = list(dict.fromkeys(text for text in map(text_of, given) if text))
        if not said:
            return Skip("expert_summary, amateur_summary: empty or not UTF-8", key)
        if not paths[0].is_file() or not paths[1].is_file():
            return Skip(MISSING, key)
        if not seen.add(key):
            return Skip(TWICE, key)
        source, target = partial(load, paths[0]), partial(load, paths[1])
        return self.edit(key, f"gier/{paths[0].stem}", source, target, said, {"from": entry.get("dataset")})


def _prompts(folder: Path) -> bool:
    """Whether a folder holds InstructPix2Pix unpacked, judged by the first of its folders."""
    first = next((p for p in (folder.iterdir() if folder.is_dir() else ()) if p.is_dir()), None)
    if first is None:
        return False
    inner = next((p for p in first.iterdir() if p.is_dir()), first)
    return any((p / "prompt.json").is_file() for p in (first, inner))


def _shards(folder: Path) -> Iterator[str]:
    """Where prompts lie: in the folder itself, and in `shard-*/`."""
    yield ""
    for name in folders_in(folder):
        if name.startswith("shard-"):
            yield f"{name}/"


def has_table(folder: Path, columns: tuple[str, ...]) -> bool:
    """Whether `data/` holds tables with such columns, judged by the first."""
    first = next(iter(sorted((folder / "data").glob("*.parquet"))), None)
    return first is not None and columns_of(first).issuperset(columns)


def _text_in(inside: Archive, name: str) -> str | None:
    return _utf8(inside.read(name))


def _text_of_file(folder: Path, name: str) -> str | None:
    return _utf8((folder / name).read_bytes())


def _utf8(data: bytes) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def picture_in(path: Path, name: str, password: bytes | None = None) -> Image:
    """A picture from an archive."""
    return decode(archive(path, password).read(name), f"{name} of {path}")


def _object(text: str | None) -> dict[str, Any]:
    """A JSON object, empty when it is none: what is missing in it is noticed where it is used."""
    try:
        value = json.loads(text or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _scores(text: str | None) -> dict[str, dict[str, Any]]:
    """Similarities by seed, as the authors' filter measured them."""
    lines = [_object(line) for line in (text or "").splitlines()]
    wanted = ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
    return {str(line["seed"]): {n: line[n] for n in wanted if n in line} for line in lines if "seed" in line}


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


READERS = (InstructPix2Pix(), Gier())
