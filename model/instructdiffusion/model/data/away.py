"""Where the shards of a data set come from: a folder, or somewhere else, from where they come while they are read.

From elsewhere a few are on this machine at a time. What will be read next is known beforehand, so it is fetched before
it is asked for. All processes of a machine that read the same data set share what is there: one fetches a shard, the
others find it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Protocol

from instructdiffusion.model.data.shards import MANIFEST, Manifest, Shard, checked
from instructdiffusion.model.errors import DataError, InstructDiffusionError
from instructdiffusion.model.files import alone, digest_of

log = logging.getLogger(__name__)

FETCHES = 4  # shards that come at the same time
PATIENCE = 600.0  # seconds without a byte before whoever waits for a shard gives up


class Fetch(Protocol):
    """What brings a file of a data set."""

    def __call__(self, name: str, to: Path, *, patience: float) -> None:
        """Append to `to` what it lacks of the file `name`; what came before an error stays.

        Raises:
            ServiceError: there is no such file, or nothing came for `patience` seconds.
        """


class Shards(Protocol):
    """The shards of a data set, wherever they are."""

    near: bool  # whether all of them are on this machine

    def manifest(self) -> Manifest:
        """The version."""

    def path(self, shard: Shard) -> Path:
        """The file of a shard, with the manifest's digest; DataError if it is missing or damaged."""

    def beside(self, name: str, folder: Path) -> Path | None:
        """A file that lies beside the shards; it comes into `folder` unless it is on this machine. None: there is none.

        Raises:
            ServiceError: it does not come from elsewhere, or is not there either.
        """

    def ahead(self, shards: Sequence[Shard]) -> None:
        """Told which are needed next, the first one first."""

    def close(self) -> None:
        """Told that nothing more is read."""


@dataclass(frozen=True)
class Here:
    """A data set in a folder."""

    folder: Path
    near = True

    def __str__(self) -> str:
        return str(self.folder)

    def manifest(self) -> Manifest:
        """The manifest in the folder."""
        return Manifest.load(self.folder)

    def path(self, shard: Shard) -> Path:
        """The file in the folder."""
        return checked(self.folder, shard)

    def beside(self, name: str, folder: Path) -> Path | None:
        """The file in the data set's own folder."""
        path = self.folder / name
        return path if path.is_file() else None

    def ahead(self, shards: Sequence[Shard]) -> None:
        """They are there."""

    def close(self) -> None:
        """They stay there."""


@dataclass
class Away:
    """A data set that is not on this machine: `cache` holds a few of its shards, `room` bytes of them.

    A shard that is asked for comes even if there is no room; otherwise it would take turns with others for good.
    """

    address: str
    fetch: Fetch
    cache: Path
    room: int
    patience: float = PATIENCE
    near = False
    _sizes: dict[str, int] = field(default_factory=dict)  # bytes of the shards that are there
    _checked: set[str] = field(default_factory=set)
    _dropped: set[str] = field(default_factory=set)  # for want of room
    _coming: dict[str, Thread] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.address

    def manifest(self) -> Manifest:
        """Fetch the manifest, and see what an earlier run left of its shards.

        Raises:
            ServiceError: there is none, or the store does not answer.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.cache) as folder:
            self.beside(MANIFEST, Path(folder))
            manifest = Manifest.load(Path(folder))
        there = [path for shard in manifest.shards if (path := self.cache / shard.name).is_file()]
        self._sizes = {path.name: path.stat().st_size for path in there}
        return manifest

    def path(self, shard: Shard) -> Path:
        """The file of a shard, fetched now unless it is there or on its way.

        Raises:
            ServiceError: it is gone, or the store is.
            DataError: its digest is not the manifest's, or the disk is full.
        """
        if shard.name in self._dropped:
            self._dropped.clear()
            log.warning(
                "shards of %s that are drawn together take more than %.1f GiB, so they are fetched again and again; "
                "give them more room",
                *(self.address, self.room / 2**30),
            )
        return self._got(shard, self.patience)

    def beside(self, name: str, folder: Path) -> Path:
        """Fetch a file; of an outage one hears at once.

        Raises:
            ServiceError: there is no such file, or the store does not answer.
        """
        self.fetch(name, folder / name, patience=0)
        return folder / name

    def ahead(self, shards: Sequence[Shard]) -> None:
        """Begin to fetch what is needed next as far as there is room, and make room."""
        wanted = {shard.name: shard for shard in shards}
        sizes = self._sizes.copy()  # while we look through it, shards come
        fitting = within({**wanted, **sizes}, sizes, self.room)
        for name in [name for name in sizes if name not in fitting]:
            self._drop(name)
            self._dropped |= {name} & wanted.keys()
        self._coming = {name: thread for name, thread in self._coming.items() if thread.is_alive()}
        missing = [name for name in wanted if name in fitting and name not in self._checked | self._coming.keys()]
        for name in missing[: FETCHES - len(self._coming)]:
            # As a daemon it keeps no process alive that has something better to do, like to end.
            self._coming[name] = Thread(target=self._come, args=(wanted[name],), daemon=True)
            self._coming[name].start()

    def close(self) -> None:
        """Remove what was fetched."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def _come(self, shard: Shard) -> None:
        try:
            self._got(shard, 0)
        except (InstructDiffusionError, OSError) as error:  # whoever needs it tries again, and says so
            log.info("%s did not come yet: %s", shard.name, error)

    def _got(self, shard: Shard, patience: float) -> Path:
        path, part = self.cache / shard.name, self.cache / f".{shard.name}.part"
        if shard.name in self._checked and path.is_file():
            return path
        with alone(self.cache / f".{shard.name}.lock"):
            if self._is_whole(path, shard):
                return path
            for _ in range(2):  # the part may be one of an earlier run
                self.fetch(shard.name, part, patience=patience)
                if self._is_whole(part, shard):
                    return part.replace(path)
                part.unlink()
        raise DataError(f"{self.address}/{shard.name} is damaged: its digest is not the manifest's; upload it again")

    def _is_whole(self, path: Path, shard: Shard) -> bool:
        if not path.is_file() or digest_of(path) != shard.digest:
            return False
        self._sizes[shard.name] = path.stat().st_size
        self._checked.add(shard.name)
        return True

    def _drop(self, name: str) -> None:
        del self._sizes[name]
        self._checked.discard(name)
        (self.cache / name).unlink(missing_ok=True)  # another process of this machine may have been first


def within(names: Iterable[str], sizes: Mapping[str, int], room: int) -> set[str]:
    """The names, from the first on, whose files fit into `room` bytes; a file of unknown size is like the largest."""
    largest, fitting = max(sizes.values(), default=0), set[str]()
    for name in names:
        room -= sizes.get(name, largest)
        if room < 0:
            break
        fitting.add(name)
    return fitting
