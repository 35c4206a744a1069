"""A packaged model and the real service over it, started once for all tests here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from instructdiffusion.components import deploy, package
from instructdiffusion.model.task import Image
from instructdiffusion.serving.client import Client

# Limits lower than the defaults: they are reached sooner, and it shows that the service reads them.
LIMITS = {"MAX_STEPS": "50", "MAX_WAITING": "4", "MAX_PICTURES": "2", "MAX_PIXELS": "1000000"}
IDLE = [sys.executable, "-c", "import time; time.sleep(600)"]


def record(process: subprocess.Popen[bytes], home: Path, started: float | None = None) -> None:
    """Write down a process as the service that runs under `home`."""
    deployment = deploy.Deployment(
        address="http://127.0.0.1:9",
        pid=process.pid,
        started=psutil.Process(process.pid).create_time() if started is None else started,
        tag="instructdiffusion:6-000000000000",
        seconds=1,
    )
    (home / "serving.json").write_text(deployment.model_dump_json())


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that was never trained."""
    from instructdiffusion.model import network
    from instructdiffusion.model.config import Diffusion, Network

    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    sizes = Network.model_validate({"widths": (16, 32), "heads": 2, "text_width": 16, "text_layers": 1})
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return network.save(network.create(sizes, Diffusion.model_validate({}), noise), folder)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Bentos are kept."""
    return tmp_path_factory.mktemp("bento")


@pytest.fixture(scope="session")
def packaged(model: Path, home: Path) -> package.Packaged:
    return package.run(model, "7", home, {"registry": "models:/instructdiffusion/7"})


@pytest.fixture(scope="session")
def predecessor(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that `home` knows as the service of an older Bento."""
    with subprocess.Popen(IDLE) as process:
        record(process, home)
        yield process
        process.kill()


@pytest.fixture(scope="session")
def deployment(
    packaged: package.Packaged, home: Path, predecessor: subprocess.Popen[bytes]
) -> Iterator[deploy.Deployment]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LIMITS.items():
            patch.setenv(f"INSTRUCTDIFFUSION_SERVING_{name}", value)
        running = deploy.run(packaged["tag"], home, timeout=500)
    yield running
    deploy.stop(home)


@pytest.fixture(scope="session")
def client(deployment: deploy.Deployment) -> Iterator[Client]:
    with Client(deployment.address, timeout=60) as client:
        yield client


@pytest.fixture
def picture() -> Image:
    """A picture that is neither square nor of the model's size: 48 pixels high, 80 wide."""
    rows, columns = np.mgrid[:48, :80]
    return np.stack([rows * 5, columns * 3, 255 - columns], axis=-1).astype(np.uint8)
