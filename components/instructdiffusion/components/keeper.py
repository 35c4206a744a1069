"""Keeps a training's checkpoints in the store, so that it goes on when the disk they were written to is gone.

The step that follows a training does this beside it: nodes need no key of the store, and never wait for it.

    NAME/step-0000500/...    a checkpoint as it lies on the disk
    NAME/LATEST              the checkpoints that are whole, newest first, each with its digest; written last
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import DataError, ServiceError
from instructdiffusion.model.files import digest_of, share, write_atomic
from instructdiffusion.model.latest import LATEST, Mark, marks, newest_whole

log = logging.getLogger(__name__)
SENDING = ".sending"  # second names of the files on their way: the training prunes the first


def to_keep(steps: list[int], last: int, every: int) -> set[int]:
    """The checkpoints that stay: the newest `last`, and all after a multiple of `every` steps; 0: only those."""
    return {*sorted(steps)[-last:], *(step for step in steps if every and step % every == 0)}


class Keeper:
    """The checkpoints of one training, on the disk in `folder` and in the store under `name`."""

    def __init__(self, store: Store, name: str, folder: Path, *, last: int, every: int = 0, pause: float = 5.0) -> None:
        """Nothing is sent until `fetch` or `keeping`.

        Args:
            last, every: see `to_keep`.
            pause: seconds between looks for a new checkpoint, and between tries when the store is away.
        """
        self._store, self._name, self._folder = store, name, folder
        self._last, self._every, self._pause = last, every, pause
        self._sent, self._away = "", False

    def fetch(self) -> None:
        """Bring the newest whole checkpoint to the disk, unless one as new is there.

        Raises:
            ServiceError: the store does not answer, and there is nothing on the disk to go on from.
            DataError: there are checkpoints in the store, all are damaged, and there is nothing on the disk.
        """
        here = newest_whole(self._folder)
        step = here["step"] if isinstance(here, dict) else -1
        try:
            there = [mark for mark in self._marks() if mark["step"] > step]
            if not there or any(self._brought(mark) for mark in there):
                return
            raise DataError(f"all checkpoints in {self._store.uri(self._name)} are damaged; delete them to start over")
        except (ServiceError, DataError) as error:
            if step < 0:
                raise
            log.warning("%s; the training goes on from the checkpoint on the disk, of step %d", error, step)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Send every checkpoint that is written in this block; what the store misses is sent when it is back.

        The block never fails for it, and it ends when the newest is sent, or could not be.
        """
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(self._pause):
                self.send()

        watcher = threading.Thread(target=watch, name="keeper", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            self.send()

    def send(self) -> bool:
        """Send the newest checkpoint unless it was, and prune; returns whether the store has it."""
        mark = next(iter(marks(self._folder)), None)
        if mark is None or mark["digest"] == self._sent:
            return mark is not None
        try:
            self._send(mark)
        except (ServiceError, DataError) as error:
            if not self._away:
                log.warning("checkpoint %s is not in the store yet (%s); trying again", mark["tag"], error)
            self._away = True
            return False
        self._sent, self._away = mark["digest"], False
        return True

    def _send(self, mark: Mark) -> None:
        linked = self._folder / SENDING
        shutil.rmtree(linked, ignore_errors=True)
        try:
            for path in sorted((self._folder / mark["tag"]).iterdir()):
                share(path, linked / mark["tag"] / path.name)
            self._store.put_directory(linked / mark["tag"], f"{self._name}/{mark['tag']}")
            marks = [mark, *(old for old in self._marks() if old["step"] < mark["step"])]
            kept = to_keep([one["step"] for one in marks], self._last, self._every)
            marks = [one for one in marks if one["step"] in kept]
            write_atomic(linked / LATEST, json.dumps(marks, indent=1))
            self._store.put_file(linked / LATEST, f"{self._name}/{LATEST}")
            self._store.keep_only(self._name, {LATEST, *(one["tag"] for one in marks)})
        except FileNotFoundError as error:
            raise DataError(f"{mark['tag']} was pruned before it could be sent") from error
        finally:
            shutil.rmtree(linked, ignore_errors=True)

    def _marks(self) -> list[Mark]:
        """What the store's list says, newest first."""
        address = self._store.uri(f"{self._name}/{LATEST}")
        if not self._store.exists(address):
            return []
        with TemporaryDirectory() as folder:
            self._store.get_file(address, Path(folder, LATEST))
            return marks(Path(folder))

    def _brought(self, mark: Mark) -> bool:
        """Whether a checkpoint came whole from the store; it is then the newest on the disk."""
        address = self._store.uri(f"{self._name}/{mark['tag']}")
        try:
            got = self._store.get_directory(address, self._folder / mark["tag"])
            if digest_of(got) != mark["digest"]:
                raise DataError(f"{address} is not what was saved")
        except DataError as error:
            log.warning("%s; the checkpoint before it is taken", error)
            return False
        older = [one for one in marks(self._folder) if one["step"] < mark["step"]]
        write_atomic(self._folder / LATEST, json.dumps([mark, *older], indent=1))
        log.warning("the training goes on from %s", address)
        return True
