"""The account of a training: which triplets each optimizer step took, as each process wrote it down.

A step that a kill undid is struck out when the training goes on, so that the account tells what the weights have seen.
"""

from __future__ import annotations

import json
from pathlib import Path

from instructdiffusion.model.files import append_line, write_atomic

FILE = "account-{rank}.jsonl"


class Account:
    """What one process writes down; nothing when `folder` is None."""

    def __init__(self, folder: Path | None, rank: int) -> None:
        """Begin or go on; see `strike_out`."""
        self._path = None if folder is None else folder / FILE.format(rank=rank)

    def add(self, step: int, numbers: list[int]) -> None:
        """A step, counted from 1, was done on the triplets of these numbers; on none if it was left out.

        Raises:
            DataError: the disk is full or the folder can't be written.
        """
        if self._path is not None:
            append_line(self._path, json.dumps({"step": step, "numbers": numbers}))


def strike_out(folder: Path, after: int) -> None:
    """Forget all steps after that one, of all processes that there ever were.

    One process calls it, before any writes: the last line of a process that was killed may have no end.
    """
    for path in files(folder):
        lines = [line for line in _lines(path) if json.loads(line)["step"] <= after]
        write_atomic(path, "".join(f"{line}\n" for line in lines))


def files(folder: Path) -> list[Path]:
    """Those of all processes that there ever were, in the order of their ranks."""
    return sorted(folder.glob(FILE.format(rank="*")), key=lambda path: int(path.stem.rpartition("-")[2]))


def read(folder: Path) -> dict[int, list[int]]:
    """The numbers of the triplets of each step, those of all processes, in the order of their ranks."""
    found: dict[int, list[int]] = {}
    for path in files(folder):
        for entry in map(json.loads, _lines(path)):
            found.setdefault(entry["step"], []).extend(entry["numbers"])
    return dict(sorted(found.items()))


def _lines(path: Path) -> list[str]:
    """The lines that were written to their end."""
    return [line for line in path.read_text().splitlines() if line.endswith("}")]
