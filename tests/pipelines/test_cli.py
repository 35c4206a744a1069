"""The command: quick to help, readable by machines, one line and a code for whatever is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ran
from PIL import Image

HELP = 0.3  # seconds of CPU
COMMANDS = (
    *("demo", "base", "train", "evaluate", "synthesize", "edit", "serve"),
    *("promote", "rollback", "recipes", "version"),
)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "instructdiffusion.pipelines", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=300,
    )


def failed(ended: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of a command that failed with `code`."""
    assert ended.returncode == code, ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    return lines[0]


def refused(line: str, code: int, folder: Path = Path()) -> str:
    """The same, of a command that has much to import before it finds out."""
    ended = ran(line, folder)
    assert ended.exit_code == code, ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_help_lists_every_command_and_the_exit_codes() -> None:
    text = command("--help").stdout
    assert [name for name in COMMANDS if f"  {name} " not in text] == []
    assert "130 interrupted" in text


def test_help_takes_less_than_a_third_of_a_second() -> None:
    def cost() -> float:
        before = os.times()
        assert command("--help").returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(cost() for _ in range(8)) < HELP  # of CPU: the wall clock is shared with whatever else runs


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(name: str) -> None:
    ended = command(name, "--help")
    assert ended.returncode == 0, ended.stderr
    assert f"{name} [OPTIONS]" in ended.stdout


def test_recipes_are_printed_for_machines() -> None:
    recipes = json.loads(command("recipes", "--json").stdout)
    assert recipes["align"]["optim"]["steps"] > 0


def test_the_version_is_printed_for_machines() -> None:
    found = json.loads(command("version", "--json").stdout)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "torch" in found


def test_an_unknown_option_ends_with_two() -> None:
    ended = command("demo", "--no-such-option")
    assert ended.returncode == 2
    assert "--no-such-option" in ended.stderr


def test_an_unknown_recipe_is_one_line_that_lists_the_recipes(tmp_path: Path) -> None:
    line = failed(command("train", "nonsense", "--data", str(tmp_path), "--out", str(tmp_path)), 2)
    assert "nonsense" in line
    assert "smoke" in line


def test_a_setting_that_is_not_there_is_one_line_that_names_it(tmp_path: Path) -> None:
    folders = ("--data", str(tmp_path), "--out", str(tmp_path / "out"))
    line = failed(command("train", "smoke", *folders, "--set", "optim.stepz=3"), 2)
    assert "optim.stepz" in line


def test_a_training_on_a_cluster_asks_for_what_the_settings_say_and_names_its_folder_whole(tmp_path: Path) -> None:
    """On a cluster that is not there, so that it ends when all is ready."""
    cluster = {
        "INSTRUCTDIFFUSION_BACKEND": "cluster",
        "INSTRUCTDIFFUSION_TRAINING": '{"nodes": 3, "processes": 8}',
        "KUBECONFIG": "none",
    }
    assert ran("instructdiffusion synthesize data --triplets 7", tmp_path).exit_code == 0
    ended = ran("instructdiffusion train train --data data --out out", tmp_path, **cluster)
    assert "set KUBECONFIG" in ended.stderr
    (file,) = (tmp_path / "out").glob("*/job.json")
    trainer = json.loads(file.read_text())["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 8)
    assert trainer["args"][trainer["args"].index("--out") + 1] == str(file.parent)


def test_a_file_that_is_no_picture_is_one_line_that_names_it(tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    picture.write_text("not a picture")
    line = refused("instructdiffusion edit photo.png 'remove the ball' --out out.png", 3, tmp_path)
    assert "photo.png" in line


def test_a_folder_that_is_no_model_is_one_line_that_names_it(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    (tmp_path / "weights").mkdir()
    line = refused("instructdiffusion edit photo.png 'remove the ball' --model weights --out out.png", 3, tmp_path)
    assert "weights is no model" in line


def test_no_registry_is_one_line_that_names_the_setting() -> None:
    assert "MLFLOW_TRACKING_URI" in failed(command("promote", "3", MLFLOW_TRACKING_URI=""), 2)


def test_a_registry_that_does_not_answer_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    line = refused("instructdiffusion rollback", 4)
    assert "127.0.0.1:9" in line


def test_a_demo_on_a_port_in_use_is_one_line_with_the_setting(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = failed(command("demo", "--out", str(tmp_path), "--serving-port", port), 4)
    assert port in line
    assert "INSTRUCTDIFFUSION_SERVING_PORT" in line


def test_a_demo_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "--out" in failed(command("demo", "--out", str(tmp_path / "file" / "demo")), 3)


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = ("synthesize", str(tmp_path / "data"), "--triplets", "200000")
    child = subprocess.Popen(
        [sys.executable, "-m", "instructdiffusion.pipelines", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(1200):  # until the first file: it is at work then
        if (tmp_path / "data").exists() or child.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)  # as the terminal does: to all that belong to the command
    _, error = child.communicate(timeout=120)
    assert child.returncode == 130, error
    assert "run the same command again" in error
    assert "Traceback" not in error
