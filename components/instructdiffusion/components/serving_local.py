"""The local backend of the reconciler: Bentos on this machine, behind one fixed port.

Nothing is remembered but what `deploy` writes down: which processes run is asked of the machine, so that what a
reconciler started before it was killed is found again, or ended.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.components import deploy, front, package
from instructdiffusion.components.process import LOOPBACK
from instructdiffusion.components.reconcile import Canary, Served
from instructdiffusion.components.registry import DIGEST, Version
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ConfigError, DataError, InstructDiffusionError, ServiceError
from instructdiffusion.model.weights import model_digest

if TYPE_CHECKING:
    import psutil

log = logging.getLogger(__name__)

BENTO = "bento"  # version tag: the Bento that was made of it


class Local:
    """Serves a version as a Bento; `opened` makes sure that there is only one of it."""

    canary = Canary()

    def __init__(self, work: Path, port: int, store: Store, model: str, *, timeout: float = 600.0) -> None:
        """Nothing is started yet.

        Args:
            work: folder below which weights (`releases/`) and Bento's stores (`bento/`) lie, as for the pipeline.
            port: where the service answers, whichever version it is.
            store: holds the weights.
            model: the registered model's name, kept with the Bento.
            timeout: seconds that a service may take to load its weights.
        """
        self.work, self.home, self.port, self.store = work, (work / "bento").absolute(), port, store
        self.model, self.timeout = model, timeout

    @contextmanager
    def opened(self) -> Iterator[Local]:
        """Hold the folder, and end what a reconciler that was killed left; released with the block or the process.

        Raises:
            ServiceError: another reconciler holds it.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / ".reconciler").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                line = f"another reconciler works in {self.work}; stop that one, or choose another folder with --work"
                raise ServiceError(line) from None
            self._end_strays()
            yield self

    @property
    def address(self) -> str:
        """Where the service answers."""
        return f"http://{LOOPBACK}:{self.port}"

    def served(self) -> Served:
        """The version whose Bento runs, if it can be reached."""
        from instructdiffusion.serving.client import Client

        found = deploy.current(self.home)
        if found is None or front.running(self.home) != [self.port]:
            return Served()
        with Client(found.address) as client:
            ready = client.ready()
        why = "" if ready else f"{found.tag} does not answer at {found.address}; see the logs in {self.home}"
        return Served(_version(found.tag), ready, why=why, address=self.address)

    def prepare(self, version: Version) -> Mapping[str, str]:
        """Fetch the weights and make the Bento, unless it is there."""
        from instructdiffusion.serving.bento import check

        known = version.tags.get(BENTO, "")
        try:
            check(known, self.home)
            return {}
        except InstructDiffusionError:
            pass  # made on another machine, damaged, or never: it is made here
        if not version.source.startswith("s3://"):
            raise ConfigError(
                f"its weights are at {version.source or 'no address'}, not in the object store; "
                "register it with the pipeline's promote step"
            )
        model = self.store.get_directory(version.source, self.work / "releases" / version.number)
        registered = version.tags.get(DIGEST)
        if registered and model_digest(model) != registered:
            raise DataError(f"the weights at {version.source} are not those that were registered; register them anew")
        facts = {"model": self.model, "run_id": version.run_id}
        return {BENTO: package.run(model, version.number, self.home, facts)["tag"]}

    def serve(self, version: Version) -> None:
        """Start the Bento, hand the port to it once it is ready, and end the one before."""
        self._end_strays()
        deployment = deploy.run(version.tags[BENTO], self.home, timeout=self.timeout)
        log.info("%s runs at %s", deployment.tag, deployment.address)
        front.start(self.home, self.port)

    def give_share(self, version: Version) -> None:
        """Serve it: one machine has no traffic to share out."""
        self.serve(version)

    def end_share(self) -> None:
        """There is none."""

    def stop(self) -> None:
        """End service and front."""
        front.stop(self.home)
        self._end_strays()
        deploy.stop(self.home)

    def _end_strays(self) -> None:
        """End services of ours that no one knows of: their reconciler was killed while they started, or just after."""
        import psutil

        known = deploy.current(self.home)
        strays = _services(self.home, but=known.pid if known else 0)
        for process in strays:
            log.warning("ending process %d, a service that was left half-started or half-stopped", process.pid)
            process.terminate()
        _, alive = psutil.wait_procs(strays, timeout=10)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)


def _services(home: Path, but: int) -> list[psutil.Process]:
    """Processes that `deploy` started for `home`, and their children, but one and its own.

    A service's workers have sessions of their own, and live on when it is killed.
    """
    import psutil

    kept, found = {but, os.getpid()}, []
    with suppress(psutil.Error):  # it has just ended
        kept |= {child.pid for child in psutil.Process(but).children(recursive=True)} if but else set()
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("BENTOML_HOME") == str(home) and "bentoml" in " ".join(process.cmdline())
            if ours and process.pid not in kept:
                found.append(process)
        except (psutil.Error, OSError):  # it ended, or is somebody else's
            continue
    return found


def _version(tag: str) -> str:
    """The version in a Bento's tag, `NAME:VERSION-DIGEST`."""
    return tag.partition(":")[2].rpartition("-")[0]
