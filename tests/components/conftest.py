"""Real servers for the tests of the components: an object store and a tracker, started once, side by side."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import pytest

from instructdiffusion.components.registry import Registry
from instructdiffusion.components.servers import Server, mlflow_server, seaweed
from instructdiffusion.components.settings import Settings
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tracking import Tracker


class Servers:
    """What runs for the whole session; the store does not wait for the slower tracker."""

    def __init__(self, store: Future[Server], tracker: Future[Server]) -> None:
        self._store, self._tracker = store, tracker

    @property
    def store(self) -> Server:
        return self._store.result()

    @property
    def tracker(self) -> Server:
        return self._tracker.result()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    # The threads live as long as the servers: Linux ends a child with the thread that started it.
    folder = tmp_path_factory.mktemp("servers")
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        tracker = pool.submit(stack.enter_context, mlflow_server(folder / "tracker"))
        store = pool.submit(stack.enter_context, seaweed(folder / "store"))
        yield Servers(store, tracker)
        wait([store, tracker])


@pytest.fixture
def settings(servers: Servers) -> Settings:
    """The settings that reach the object store, which has its bucket."""
    found = Settings.from_environment(servers.store.environment, needs=["store"])
    Store.open(found).ensure_bucket()
    return found


@pytest.fixture
def store(settings: Settings) -> Store:
    """The object store with its bucket."""
    return Store.open(settings)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"t-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def tracking_server(servers: Servers) -> Server:
    return servers.tracker


@pytest.fixture
def tracker(servers: Servers) -> Tracker:
    return Tracker(servers.tracker.address, "tests")


@pytest.fixture
def registry(servers: Servers, name: str) -> Registry:
    """A registry of a model that has no version yet."""
    return Registry(servers.tracker.address, name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files, a folder in it, and a hidden file."""
    top = tmp_path / "source"
    (top / "unet").mkdir(parents=True)
    (top / "editor.json").write_text('{"resolution": 64}')
    (top / "unet" / "weights.bin").write_bytes(bytes(range(256)) * 40_960)  # 10 MiB: sent in two parts
    (top / "empty.txt").write_bytes(b"")
    (top / ".hidden").write_text("stays")
    return top
