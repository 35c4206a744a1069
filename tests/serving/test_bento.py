"""Packaging and deploying: tags that derive from content, damage noticed, a service that takes over."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from serving.conftest import IDLE, record

from instructdiffusion.components import deploy, package
from instructdiffusion.components.deploy import Deployment
from instructdiffusion.components.package import Packaged
from instructdiffusion.components.process import port_is_free
from instructdiffusion.model.errors import ConfigError, DataError, ServiceError
from instructdiffusion.serving import bento


def test_a_package_is_named_by_its_version_and_its_content(packaged: Packaged, model: Path, home: Path) -> None:
    assert packaged["tag"].startswith("instructdiffusion:7-")
    assert bento.tags(home) == [packaged["tag"]]
    assert package.run(model, "7", home) == packaged


def test_an_interrupted_or_damaged_package_is_made_again(
    model: Path, home: Path, packaged: Packaged, tmp_path: Path
) -> None:
    mine = tmp_path / "home"
    shutil.copytree(home, mine)
    weights = next(path for path in (mine / "models").rglob("editor.json"))
    weights.write_text("{}")
    with pytest.raises(DataError, match="damaged; package the model again"):
        bento.check(packaged["tag"], mine)
    (mine / "built" / f"{packaged['tag'].partition(':')[2]}.json").unlink()
    with pytest.raises(ConfigError, match="no Bento"):
        bento.check(packaged["tag"], mine)
    assert bento.build(model, "7", mine) == packaged["tag"]
    assert bento.check(packaged["tag"], mine).metadata == {}


@pytest.mark.parametrize("version", ["", "A/3", "-1", "x" * 41])
def test_a_version_that_fits_no_tag_is_refused(version: str, model: Path, home: Path) -> None:
    with pytest.raises(ConfigError, match=r"^version "):
        bento.build(model, version, home)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no editor\.json"):
        package.run(tmp_path, "1", tmp_path / "home")
    with pytest.raises(DataError, match="not a folder"):
        package.run(tmp_path / "none", "1", tmp_path / "home")


def test_the_command_says_in_one_line_what_is_missing(home: Path, packaged: Packaged) -> None:
    command = [sys.executable, "-m", "instructdiffusion.serving.bento", "serve", "instructdiffusion:9"]
    ended = subprocess.run([*command, "--home", str(home)], capture_output=True, text=True, check=False)
    assert ended.returncode == ConfigError.exit_code
    assert ended.stderr.strip() == (
        f"no Bento instructdiffusion:9 under {home} (there: {packaged['tag']}); package the model first"
    )


def test_a_rerun_finds_the_service_that_runs(deployment: Deployment, home: Path) -> None:
    assert deploy.run(deployment.tag, home) == deployment


def test_a_port_in_use_is_named(packaged: Packaged, deployment: Deployment, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {port} .*INSTRUCTDIFFUSION_SERVING_PORT"):
            deploy.run(packaged["tag"], home, port)


def test_the_service_before_is_ended_once_the_new_one_is_ready(
    predecessor: subprocess.Popen[bytes], deployment: Deployment, home: Path
) -> None:
    assert predecessor.poll() is not None
    assert deploy.current(home) == deployment


def test_stop_ends_what_runs_and_may_be_called_again(tmp_path: Path) -> None:
    with subprocess.Popen(IDLE) as process:
        record(process, tmp_path)
        deploy.stop(tmp_path)
        deploy.stop(tmp_path)
        assert process.poll() is not None
    assert deploy.current(tmp_path) is None


def test_a_process_that_only_has_the_same_number_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(IDLE) as process:
        record(process, tmp_path, started=1.0)
        deploy.stop(tmp_path)
        assert process.poll() is None
        process.kill()


def test_a_service_that_is_not_ready_in_time_is_not_left_behind(packaged: Packaged, home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "home"
    shutil.copytree(home, mine, ignore=shutil.ignore_patterns("serving*"))
    with pytest.raises(ServiceError, match=r"not ready in 0\.1 s"):
        deploy.run(packaged["tag"], mine, timeout=0.1)
    assert deploy.current(mine) is None
    (log_file,) = mine.glob("serving-*.log")
    assert port_is_free(int(log_file.stem.partition("-")[2]))
