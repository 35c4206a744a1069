"""A backend that serves nothing but keeps its books on disk as the local one does: what runs, and what is known.

Run as a program it starts a reconciler as a process of its own whenever it is told to, so that tests may kill it.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructdiffusion.components.reconcile import Canary, Reconciler, Served
from instructdiffusion.components.registry import Registry, Version
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.files import atomic_directory, write_atomic


class OnDisk:
    """Services are files in `running/`; the one that answers is named in `served.json`."""

    canary = Canary()

    def __init__(self, folder: Path, broken: str = "") -> None:
        self.folder = folder
        (folder / "running").mkdir(exist_ok=True)
        if broken:
            (folder / f"broken-{broken}").touch()

    def opened(self) -> OnDisk:
        """End what a reconciler that was killed left, as `serving_local` does when it begins."""
        known = self._known().get("id")
        for service in (self.folder / "running").iterdir():
            if service.name != known:
                service.unlink()
        return self

    def served(self) -> Served:
        known = self._known()
        there = (self.folder / "running" / known.get("id", "none")).exists()
        return Served(known["version"], True, address="disk") if there else Served()

    def prepare(self, version: Version) -> Mapping[str, str]:
        if (self.folder / f"broken-{version.number}").exists():
            raise ConfigError("it has no weights; register it again")
        bento = self.folder / "bentos" / version.number
        if not bento.is_dir():
            with atomic_directory(bento) as new:
                time.sleep(0.05)
                (new / "weights").write_text(version.source)
        return {"bento": f"m:{version.number}"} if "bento" not in version.tags else {}

    def serve(self, version: Version) -> None:
        known = self._known().get("id")
        identity = uuid.uuid4().hex
        (self.folder / "running" / identity).write_text(version.number)
        time.sleep(0.05)
        known_now = {"version": version.number, "id": identity, "history": [*self.history(), version.number]}
        write_atomic(self.folder / "served.json", json.dumps(known_now))
        if known:
            (self.folder / "running" / known).unlink(missing_ok=True)

    def give_share(self, version: Version) -> None:
        raise NotImplementedError

    def end_share(self) -> None:
        raise NotImplementedError

    def mended(self) -> None:
        for mark in self.folder.glob("broken-*"):
            mark.unlink()

    def running(self) -> list[str]:
        return [path.read_text() for path in (self.folder / "running").iterdir()]

    def history(self) -> list[str]:
        """Every version that took over, in order."""
        return list(self._known().get("history", []))

    def _known(self) -> dict[str, Any]:
        path = self.folder / "served.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}


def main(uri: str, model: str, folder: str) -> None:
    """For each `run` start a reconciler and print its process id; for each `wait` print how it ended."""
    registry, child = Registry(uri, model), 0
    for line in sys.stdin:
        if line == "wait\n":
            sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        elif child := os.fork():
            sys.stdout.write(f"{child}\n")
        else:
            Reconciler(registry, OnDisk(Path(folder)).opened()).once()
            os._exit(0)
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
