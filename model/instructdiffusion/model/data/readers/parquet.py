"""Tables in Parquet files with pictures inside: read a few rows at a time, in the memory of one group of rows.

Parquet can't be read in smaller parts than the pages it was written in, and writers fill one with a whole group's
pictures: a hundred rows in the files of the Hugging Face Hub, which keeps a picture as a struct of `bytes` and `path`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from instructdiffusion.model.errors import DataError

AT_ONCE = 4  # rows in memory; one of MagicBrush's has three pictures, of about a megabyte each


def columns_of(path: Path) -> frozenset[str]:
    """The names of a table's columns.

    Raises:
        DataError: the file is no Parquet file, or was cut short.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        return frozenset(parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken(path, error) from error


def rows(path: Path, texts: Sequence[str], pictures: Sequence[str], *, decode: bool = True) -> Iterator[dict[str, Any]]:
    """Each row of a table: its `texts` as they are, its `pictures` as bytes, None where there are none.

    Args:
        decode: whether the bytes are wanted; else any bytes at all stand for them, and nothing of them is read.

    Raises:
        DataError: the file is broken or lacks a column; names both.
    """
    import pyarrow
    from pyarrow import parquet

    if missing := sorted({*texts, *pictures} - columns_of(path)):
        raise DataError(f"{path}: no column {missing[0]!r}; download it again")
    try:
        with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            skim = not decode and _all_there(file, pictures)
            columns = [*texts, *(f"{name}.path" if skim else name for name in pictures)]
            for batch in file.iter_batches(batch_size=AT_ONCE, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    found = {name: _bytes(row[name], skim) for name in pictures}
                    yield {**{name: row[name] for name in texts}, **found}
    except (pyarrow.ArrowException, OSError) as error:
        raise _broken(path, error) from error


def _bytes(value: Any, skim: bool) -> bytes | None:
    if not isinstance(value, dict):
        return None
    return b"" if skim else value.get("bytes")


def _all_there(file: Any, pictures: Sequence[str]) -> bool:
    """Whether the file's statistics vouch for every picture's bytes."""
    wanted = {f"{name}.bytes" for name in pictures}
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            if column.path_in_schema in wanted and (column.statistics is None or column.statistics.null_count != 0):
                return False
    return True


def _broken(path: Path, error: BaseException) -> DataError:
    return DataError(
        f"{path} is no Parquet file, or was cut short ({' '.join(str(error).split())[:120]}); get it again"
    )
