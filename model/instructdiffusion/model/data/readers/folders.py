"""Folders, archives and lists of files: walked in order, in the same memory however many files there are.

Archives are read where they lie: nothing is unpacked, and one that names files outside of itself is refused.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from instructdiffusion.model.data.listing import indexes
from instructdiffusion.model.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MOST_BYTES = 256_000_000  # of one file in an archive when unpacked; beyond it, the archive is taken for a bomb
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


def names(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> Iterator[str]:
    """The names of some entries of a folder, sorted; hidden ones are left out.

    Raises:
        DataError: there is no such folder, or it can't be read.
    """
    with indexes(1) as (found,):
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and wanted(entry):
                        found.add(entry.name)
        except OSError as error:
            raise DataError(
                f"{folder} can't be read ({error.strerror}); docs/data.md shows what belongs there"
            ) from error
        yield from found.keys()


def pictures_in(folder: Path) -> Iterator[str]:
    """The names of the pictures of a folder, by their endings."""
    return names(folder, lambda entry: entry.name.lower().endswith(PICTURES) and entry.is_file())


def folders_in(folder: Path) -> Iterator[str]:
    """The names of the folders of a folder."""
    return names(folder, lambda entry: entry.is_dir())


class Archive:
    """A zip file that is open for reading, with its names checked."""

    def __init__(self, path: Path, password: bytes | None = None) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (*_DAMAGE, OSError) as error:
            raise DataError(f"{path} is no zip file, or was cut short ({_reason(error)}); download it again") from error
        if password is not None:
            self._zip.setpassword(password)
        self.names: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            if not _inside(member.filename):
                raise DataError(f"{path} names a file outside of itself, {member.filename!r}; don't trust its origin")
            if not member.is_dir():
                self.names[member.filename] = member

    def read(self, name: str) -> bytes:
        """The content of a file in the archive.

        Raises:
            DataError: it is missing, damaged or far too large; names archive and file.
        """
        member = self.names.get(name)
        if member is None:
            raise DataError(f"{self.path} lacks {name}; download it again")
        if member.file_size > MOST_BYTES:
            raise DataError(f"{self.path}: {name} has {member.file_size} bytes when unpacked; leave it out")
        try:
            return self._zip.read(member)
        except (*_DAMAGE, OSError) as error:
            raise DataError(f"{self.path}: {name} is damaged ({_reason(error)}); download it again") from error


def archive(path: Path, password: bytes | None = None) -> Archive:
    """The archive at `path`, kept open between calls: its list of files is read once in each process."""
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path} is missing; download it again") from error
    return _kept(path, password, state.st_mtime_ns, state.st_size, os.getpid())


@lru_cache(maxsize=2)
def _kept(path: Path, password: bytes | None, changed: int, size: int, process: int) -> Archive:
    return Archive(path, password)


def _inside(name: str) -> bool:
    """Whether a name in an archive stays inside the folder that it would be unpacked to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and not (path.parts and path.parts[0].endswith(":"))


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
