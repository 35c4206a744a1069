"""The model that KServe mounts is served in place of the Bento's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from instructdiffusion.components import deploy
from instructdiffusion.components.deploy import Deployment
from instructdiffusion.components.package import Packaged
from instructdiffusion.model import network
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.task import Image
from instructdiffusion.serving.client import Client
from instructdiffusion.serving.service import mounted


@pytest.fixture(scope="module")
def other(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the storage initializer leaves it, with a model that differs from the Bento's."""
    nets = network.load(model)
    nets.unet.conv_out.bias.data.fill_(0.3)
    return network.save(nets, tmp_path_factory.mktemp("mnt") / "models" / "other").parent


@pytest.fixture(scope="module")
def service(other: Path, packaged: Packaged, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    mine = tmp_path_factory.mktemp("mounted") / "home"
    shutil.copytree(home, mine, ignore=shutil.ignore_patterns("serving*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTRUCTDIFFUSION_SERVING_MODELS", str(other))
        patch.setenv("INSTRUCTDIFFUSION_SERVING_VERSION", "9")
        running = deploy.run(packaged["tag"], mine, timeout=500)
    with Client(running.address, timeout=60) as client:
        yield client
    deploy.stop(mine)


def test_the_mounted_model_answers_under_its_own_version(
    service: Client, client: Client, deployment: Deployment, picture: Image
) -> None:
    theirs, ours = (one.edit(picture, "Remove the noise.", steps=2) for one in (client, service))
    assert (theirs.model_version, ours.model_version) == ("7", "9")
    assert not np.array_equal(np.asarray(theirs.picture), np.asarray(ours.picture))
    assert httpx.get(f"{deployment.address}/v2/models/instructdiffusion").json()["versions"] == ["7"]


def test_where_nothing_is_mounted_the_bentos_own_answers(tmp_path: Path) -> None:
    assert mounted(tmp_path) is None
    assert mounted(tmp_path / "none") is None


def test_a_model_is_found_in_the_folder_or_directly_below(other: Path) -> None:
    assert mounted(other) == mounted(other / "other") == other / "other"


def test_a_folder_without_a_model_or_with_two_is_refused(other: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds no model: no editor\.json there or directly below"):
        mounted(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(other / "other", tmp_path / name)
    with pytest.raises(ConfigError, match=r"holds 2 models \(a, b\)"):
        mounted(tmp_path)
