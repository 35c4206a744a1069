"""The local backend: real Bentos of tiny models behind one port, while the alias moves and processes are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from components.promoting_page import (
    CLUSTER,
    COMPARE,
    ONCE,
    PROMOTE,
    ROLLBACK,
    SIGNED,
    STOP,
    WATCH,
    WEBHOOK,
    blocks,
    run,
    started,
)

from instructdiffusion.components import deploy, front
from instructdiffusion.components.process import free_ports, port_is_free
from instructdiffusion.components.reconcile import Served
from instructdiffusion.components.registry import CHAMPION, Registry, Version
from instructdiffusion.components.serving_local import Local
from instructdiffusion.components.settings import Settings
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.model.errors import ConfigError, DataError, InstructDiffusionError, ServiceError
from instructdiffusion.model.weights import model_digest
from instructdiffusion.serving.client import Client

PATIENCE = 900  # seconds: a machine that is busy elsewhere takes many times what an idle one does


def test_the_page_names_the_commands_that_are_run_here() -> None:
    assert blocks("sh") == [COMPARE, PROMOTE, SIGNED, ROLLBACK, ONCE, WATCH, STOP, WEBHOOK, CLUSTER]


@dataclass
class Clients:
    """Callers that each ask for one edit after the other, over a connection of their own.

    They draw breath between two, or a service that starts beside them gets no processor.
    """

    address: str
    count: int = 4
    answered: Counter[str] = field(default_factory=Counter)  # by the version that answered
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def calling(self) -> Iterator[Clients]:
        threads = [threading.Thread(target=self._call, args=(seed,)) for seed in range(self.count)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def wait_for(self, version: str, more: int = 4) -> None:
        """Wait until a version has answered so many times more."""
        wanted = self.answered[version] + more
        wait(lambda: self.answered[version] >= wanted, f"answers of version {version}")

    def _call(self, seed: int) -> None:
        picture = np.zeros((32, 32, 3), np.uint8)
        with Client(self.address, timeout=PATIENCE) as client:
            while not self._over.is_set():
                try:
                    answer = client.edit(picture, "Remove the red ball.", seed=seed, steps=2)
                    self.answered[answer.model_version] += 1
                except InstructDiffusionError as error:
                    self.failures.append(str(error))
                time.sleep(0.25)


def wait(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.1)


def services(folder: Path) -> set[int]:
    """The processes that serve from a folder, without the workers of one that lives: one for each service."""
    found = {}
    for process in psutil.process_iter(["cmdline", "ppid"]):
        if "bentoml" not in " ".join(process.info["cmdline"] or ()):
            continue
        with contextlib.suppress(psutil.Error, FileNotFoundError):  # it ended since it was listed
            if Path(process.cwd()).is_relative_to(folder / "out"):
                found[process.pid] = process.info["ppid"]
    return {pid for pid, parent in found.items() if parent not in found}


@dataclass
class Release:
    """A registry with two versions whose weights are in the store, and a folder to serve them from."""

    registry: Registry
    folder: Path
    port: int
    variables: dict[str, str]

    @property
    def home(self) -> Path:
        return self.folder / "out" / "work" / "bento"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, line: str) -> str:
        """Run a line of the page; returns what it printed."""
        ended = run(line, self.folder, self.variables)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()


@pytest.fixture
def release(
    registry: Registry, store: Store, settings: Settings, tracker: Tracker, tmp_path: Path, name: str
) -> Iterator[Release]:
    from instructdiffusion.model import network
    from instructdiffusion.model.config import Diffusion, Network

    run_of = tracker.open_run(name)
    sizes = Network.model_validate({"widths": (16, 32), "heads": 2, "text_width": 16, "text_layers": 1})
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    for seed in (1, 2):
        networks = network.create(sizes, Diffusion.model_validate({}), noise, seed)
        model = network.save(networks, tmp_path / f"model-{seed}")
        source = store.put_directory(model, f"{name}/{seed}")
        registry.register(source, digest=model_digest(model), run_id=run_of.run_id, tags={"gate": "passed"})
    port = free_ports(1)[0]
    variables = {
        **settings.environment(),
        "MLFLOW_TRACKING_URI": registry.uri,
        "INSTRUCTDIFFUSION_REGISTERED_MODEL": name,
        "INSTRUCTDIFFUSION_SERVING_PORT": str(port),
    }
    found = Release(registry, tmp_path, port, variables)
    yield found
    front.stop(found.home)
    deploy.stop(found.home)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_request_fails_while_the_alias_moves_to_and_fro_or_the_service_dies(release: Release) -> None:
    release.registry.set_alias(CHAMPION, "1")
    assert release.command(ONCE) == f"version 1 serves at {release.address}"
    with (
        Clients(release.address).calling() as clients,
        started(f"{WATCH} --every 2", release.folder, release.variables) as watching,
    ):
        clients.wait_for("1")
        refused = run(ONCE, release.folder, release.variables)
        assert (refused.returncode, refused.stderr.count("\n")) == (ServiceError.exit_code, 1)
        assert "another reconciler works in out/work; stop that one" in refused.stderr
        for line, version in ((PROMOTE, "2"), (ROLLBACK, "1")):
            release.command(line)
            clients.wait_for(version)
        os.kill(watching.pid, signal.SIGINT)
        assert watching.wait(PATIENCE) == 0
        clients.wait_for("1")  # what is served stays up without it
        dead = deploy.current(release.home)
        assert dead is not None
        os.killpg(dead.pid, signal.SIGKILL)
        assert release.command(ONCE) == f"version 1 serves at {release.address}"
        clients.wait_for("1")
    assert clients.failures == []
    assert set(clients.answered) == {"1", "2"}
    assert len(services(release.folder)) == 1
    assert release.command(STOP) == "nothing is served"
    assert services(release.folder) == set()
    assert port_is_free(release.port)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_reconciler_that_is_killed_while_a_service_starts_leaves_none_beside_the_next(release: Release) -> None:
    release.registry.set_alias(CHAMPION, "1")
    with started(ONCE, release.folder, release.variables) as first:
        wait(lambda: bool(services(release.folder)), "the service to start")
        os.kill(first.pid, signal.SIGKILL)
    (orphan,) = services(release.folder)
    assert deploy.current(release.home) is None  # nobody has written it down
    assert release.command(ONCE) == f"version 1 serves at {release.address}"
    (serving,) = services(release.folder)
    assert serving != orphan
    assert [v.number for v in release.registry.versions() if "served_at" in v.tags] == ["1"]


@pytest.fixture
def local(tmp_path: Path, store: Store) -> Local:
    return Local(tmp_path / "work", free_ports(1)[0], store, "m")


def version(source: str, **tags: str) -> Version:
    return Version(number="1", source=source, run_id="", tags=tags, aliases=())


def test_a_version_without_weights_in_the_store_is_refused_with_the_way_out(local: Local, folder: Path) -> None:
    with pytest.raises(ConfigError, match="its weights are at runs:/x/model, not in the object store; register it"):
        local.prepare(version("runs:/x/model"))
    with pytest.raises(ServiceError, match=r"is not in the store .* upload it again"):
        local.prepare(version(local.store.uri("none")))
    other = local.store.put_directory(folder, "other")
    with pytest.raises(DataError, match="not those that were registered"):
        local.prepare(version(other, digest="sha256:else"))
    assert local.served() == Served()


def test_a_port_that_something_else_uses_is_named(local: Local, tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", local.port))
        taken.listen()
        with pytest.raises(ServiceError, match=f"port {local.port} for the service is in use; .* --port"):
            front.start(tmp_path, local.port)


def test_requests_wait_for_a_service_and_are_told_when_none_comes(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    with TestClient(front.app(tmp_path, patience=0.3)) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"error": "no service runs at the moment; try again later"}
