"""Long lists in JSON files: read entry by entry and joined by key on disk, in the same memory at any length.

Annotation files list pictures and annotations apart, in any order, in hundreds of megabytes. Entries are parsed one at
a time; what has to be looked up later goes into a temporary database, which the disk takes once it outgrows 8 MB.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from instructdiffusion.model.errors import DataError

_CACHE = -8000  # SQLite's unit: negative is KiB of memory


def entries(path: Path, field: str = "") -> Iterator[Any]:
    """Each entry of the list under `field` of a JSON file, or of the file itself when that is a list.

    Raises:
        DataError: the file is missing, cut short, no JSON or not UTF-8; names it.
    """
    with _json(path) as file:
        yield from ijson.items(file, f"{field}.item" if field else "item", use_float=True)


def members(path: Path, field: str = "") -> Iterator[tuple[str, Any]]:
    """Each name and value of the object under `field` of a JSON file, or of the file itself when that is an object.

    Raises:
        DataError: as `entries`.
    """
    with _json(path) as file:
        yield from ijson.kvitems(file, field, use_float=True)


@contextmanager
def _json(path: Path) -> Iterator[BinaryIO]:
    """An open JSON file; what goes wrong while it is parsed names it."""
    try:
        with path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":  # the mark that some editors put before UTF-8
                file.seek(0)
            yield file
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path} is no JSON in UTF-8, or was cut short ({reason}); download it again") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; docs/data.md shows how the data set must lie on disk") from error


class Index:
    """Values by key on disk, in the order they were added; gone when closed.

    Values are anything JSON can hold. A key is added once.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in (f"cache_size={_CACHE}", "journal_mode=OFF", "synchronous=OFF", "temp_store=FILE"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE entry (place INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, value TEXT)")

    def add(self, key: object, value: Any = None) -> bool:
        """Keep a value; False, and the old value stays, when the key is there already.

        Raises:
            DataError: the folder for temporary files is full.
        """
        try:
            rows = self._database.execute(
                "INSERT OR IGNORE INTO entry (key, value) VALUES (?, ?)", (str(key), json.dumps(value))
            ).rowcount
        except sqlite3.OperationalError as error:
            raise DataError(
                f"no room for temporary files ({error}); free space or set TMPDIR to another disk"
            ) from error
        return rows == 1

    def get(self, key: object) -> Any:
        """The value of a key; None when it isn't there."""
        row = self._database.execute("SELECT value FROM entry WHERE key = ?", (str(key),)).fetchone()
        return None if row is None else json.loads(row[0])

    def __contains__(self, key: object) -> bool:
        return self._database.execute("SELECT 1 FROM entry WHERE key = ?", (str(key),)).fetchone() is not None

    def __len__(self) -> int:
        return int(self._database.execute("SELECT COUNT(*) FROM entry").fetchone()[0])

    def values(self) -> Iterator[Any]:
        """Every value, in the order they were added."""
        for (value,) in self._database.execute("SELECT value FROM entry ORDER BY place"):
            yield json.loads(value)

    def keys(self) -> Iterator[str]:
        """Every key, sorted."""
        for (key,) in self._database.execute("SELECT key FROM entry ORDER BY key"):
            yield key

    def close(self) -> None:
        self._database.close()


@contextmanager
def indexes(count: int) -> Iterator[tuple[Index, ...]]:
    """Some indexes, closed when the block ends."""
    made = tuple(Index() for _ in range(count))
    try:
        yield made
    finally:
        for index in made:
            index.close()
