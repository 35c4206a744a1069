"""The files of a part of a benchmark: a row for each sample that is done, and a head that says how rows were made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instructdiffusion.model.benchmark import UNJUDGED, Row
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.metrics import Spec

LISTS = (".json", ".jsonl", ".pts", ".txt", ".csv")  # what tells of pictures: files whose content is in a data's digest
PICTURES = ("output", "floor", "bound")  # what each sample is measured on


class Head(BaseModel):
    """What the rows of a part depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    benchmark: str
    editor: str
    data: str = Field(description="name of the folder and what is in it, see `data_named`; or that it is composed")
    split: str
    samples: int
    size: int
    seed: int
    parts: int
    specs: dict[str, Spec]
    missing: dict[str, str] = Field(description="metrics that can't be had, and why")


def data_named(data: Path, out: Path, name: str = "") -> str:
    """A folder's name with a digest of what is in it: the same wherever it lies, another when something changed.

    `name` is the folder's where this is a copy of it.
    Of its files names and sizes count; of lists, and of the manifest of triplets, the content too. Reading gigabytes
    of pictures would take longer than to measure a part. What lies in `out`, which may be below it, is left out.
    """
    data, out, whole = data.resolve(), out.resolve(), hashlib.sha256()
    for file in sorted(p for p in data.rglob("*") if p.is_file() and not p.name.startswith(".")):
        if not file.is_relative_to(out):
            told = digest_of(file) if file.suffix in LISTS else file.stat().st_size
            whole.update(f"{file.relative_to(data).as_posix()}\0{told}\n".encode())
    return f"{name or data.name}@sha256:{whole.hexdigest()}"


def hold(path: Path, wanted: Head) -> None:
    """Write the head of a part, or refuse to go on with one that was made otherwise."""
    if not path.is_file():
        write_atomic(path, wanted.model_dump_json(indent=1))
        return
    found = read_head(path)
    if found != wanted:
        other = next(name for name in Head.model_fields if getattr(found, name) != getattr(wanted, name))
        raise DataError(f"{path} was made with another {other}; choose another folder with --out, or delete this one")


def read_head(path: Path) -> Head:
    """The head of a part; DataError if it is broken."""
    try:
        return Head.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"{path} is broken ({str(error).splitlines()[0]}); delete {path.parent} and run again"
        ) from None


def files(out: Path, number: int, parts: int) -> tuple[Path, Path]:
    """Where the rows of a part are, and its head."""
    stem = out / f"part-{number}-of-{parts}"
    return stem.with_suffix(".jsonl"), stem.with_suffix(".json")


def finished(out: Path, number: int, parts: int) -> Path:
    """The file that is there when all rows of a part are."""
    return out / f"part-{number}-of-{parts}.done"


def keys_done(path: Path) -> Iterator[str]:
    """The keys of the rows in a file that are done: not those that a judge who was away has yet to see.

    A last line that was cut off with its run is cut away.
    """
    if not path.is_file():
        return
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        write_atomic(path, whole[:end])
    yield from (row["key"] for row in read_rows(path) if not any(UNJUDGED in row[of] for of in PICTURES))


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a part; DataError names a broken line."""
    if not path.is_file():  # a part without samples
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number} is broken ({error}); delete the file and run again") from None


def append(path: Path, rows: Iterator[Row]) -> None:
    """Write rows at the end of a part's, all or none; DataError names a sample whose measure is no number."""
    lines = []
    for row in rows:
        try:
            lines.append(json.dumps(row, allow_nan=False) + "\n")
        except ValueError:
            raise DataError(f"sample {row['key']}: a measure is no finite number; look at its pictures") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))
        file.flush()
        os.fsync(file.fileno())
