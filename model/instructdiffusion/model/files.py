"""Files that are there whole or not at all, and names that derive from content."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from errno import ENOSPC
from functools import lru_cache
from pathlib import Path
from typing import IO

from instructdiffusion.model.errors import DataError


def write_atomic(path: Path, content: bytes | str, *, sync: bool = True, mode: int = 0o644) -> Path:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part.

    Args:
        sync: wait until the disk has it; False where a file written later vouches for this one.
        mode: who may read it; 0o600 for secrets.

    Raises:
        DataError: the disk is full or the folder can't be written; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise DataError(f"can't write {path}: {error.strerror}; free space or choose another folder") from error
    return path


def append_line(path: Path, line: str) -> Path:
    """Add a line to a file that grows line by line; what a stop left of a line is taken away first.

    Raises:
        DataError: the disk is full or the folder can't be written; the lines before are untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("a+b", buffering=0) as file:
            whole = _whole_lines(file)
            file.truncate(whole)
            try:
                data = f"{line}\n".encode()
                if file.write(data) != len(data):
                    raise OSError(ENOSPC, os.strerror(ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)
                raise
    except OSError as error:
        raise DataError(f"can't write {path}: {error.strerror}; free space or choose another folder") from error
    return path


def share(source: Path, target: Path) -> Path:
    """Give a file that never changes a second name: a link where the disk can, else a copy, whole or not at all.

    Raises:
        DataError: the disk is full or the folder can't be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.unlink(missing_ok=True)  # two names of one file can't replace each other
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, temporary)
            os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"can't write {target}: {error.strerror}; free space or choose another folder") from error
    return target


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Fill a temporary sibling of `path`; it takes the name `path` only when the block ends well.

    An existing `path` is replaced. What a failed block leaves behind is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        put_in_place(temporary, path)
    except OSError as error:
        raise DataError(
            f"can't write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(folder: Path, path: Path) -> Path:
    """Give a whole folder beside `path` that name; what was there before is removed."""
    old = folder.with_name(f"{folder.name}.old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a process that was killed here
        path.rename(old)
    folder.rename(path)
    shutil.rmtree(old, ignore_errors=True)
    return path


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Keep other threads, and other processes of this machine, out; `lock` is a file that is left behind."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest_of(path: Path, only: Collection[str] = ()) -> str:
    """`sha256:...` of a file, or of a folder's relative names and contents in sorted order (hidden files left out).

    Args:
        only: names of what counts in the folder; empty: everything.

    Raises:
        DataError: there is no such file or folder.
    """
    if path.is_file():
        return f"sha256:{_file_hash(path).hexdigest()}"
    if not path.is_dir():
        raise DataError(f"{path} does not exist; nothing to take a digest of")
    whole = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        name = file.relative_to(path)
        if not only or name.parts[0] in only:
            whole.update(f"{name.as_posix()}\0{_file_hash(file).hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def digest_once(path: Path) -> str:
    """The same, taken once in this process while size and time of every file stay as they are.

    Raises:
        DataError: there is no such file or folder.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
    stats = [(str(file), file.stat()) for file in files]
    return _known_digest(path, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


@lru_cache(maxsize=64)
def _known_digest(path: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    return digest_of(path)


def _whole_lines(file: IO[bytes]) -> int:
    """How many bytes of a file are lines that end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        if found := file.read(end - start).rfind(b"\n") + 1:
            return start + found
        end = start
    return 0


def _file_hash(path: Path) -> hashlib._Hash:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")
