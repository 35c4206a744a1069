"""Tables in CSV files, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from instructdiffusion.model.errors import DataError


def records(path: Path, columns: Sequence[str], *, head: bool = True) -> Iterator[dict[str, str]]:
    """Each row of a CSV file by column; rows that are too short have empty texts.

    Args:
        columns: that the file must have; all of them, in order, where it has no `head`.

    Raises:
        DataError: the file is missing, not UTF-8 or lacks a column; names path and line or column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, None if head else columns, restval="")
            if missing := [name for name in columns if name not in (table.fieldnames or ())]:
                raise DataError(f"{path}: no column {missing[0]!r}; download it again")
            yield from table
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start} of a part of it); download it again") from error
    except csv.Error as error:
        raise DataError(f"{path} line {table.line_num}: {error}; download it again") from error
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}); docs/data.md shows what belongs there") from error
