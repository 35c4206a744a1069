"""The curve of a training: a line of metrics for every few steps, in a file that grows while others read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from instructdiffusion.model.files import append_line

CURVE = "curve.jsonl"
Row = dict[str, float]


def append(folder: Path, row: Mapping[str, float]) -> None:
    """Add a line.

    Raises:
        DataError: the disk is full or the folder can't be written.
    """
    append_line(folder / CURVE, json.dumps(row))


def read(folder: Path) -> list[Row]:
    """The metrics by step; of a step that was done twice, after a kill, the later. Half a line is none."""
    path = folder / CURVE
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = {row["step"]: row for line in lines if (row := _row(line))}
    return [rows[step] for step in sorted(rows)]


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None
