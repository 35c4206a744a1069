"""The command: quick to help, readable by machines, one line and a code for whatever is wrong."""

from __future__ import annotations

import contextlib
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

from instructdiffusion.model.errors import DataError
from instructdiffusion.pipelines.work import encoded, format_of

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
    assert "set --serving-port to another port (0: any)" in line


def test_a_demo_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "--out" in failed(command("demo", "--out", str(tmp_path / "file" / "demo")), 3)


def test_a_service_on_a_port_in_use_is_one_line_with_the_option() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = refused(f"instructdiffusion serve --port {taken.getsockname()[1]}", 4)
    assert "set --port to another port (0: any)" in line
    assert "0: any free one" in command("serve", "--help").stdout


@pytest.mark.parametrize("ending", [".mpg", ".blp", ".xyz", ""])
def test_a_format_that_no_picture_is_written_in_is_one_line_that_names_it(ending: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    line = refused(f"instructdiffusion edit photo.png 'remove the ball' --out out{ending}", 3, tmp_path)
    assert line == f"error: out{ending}: a picture can't be written in a format of that ending; use .png or .jpg"


def test_every_ending_that_is_taken_can_be_written() -> None:
    Image.init()
    for ending in Image.EXTENSION:
        with contextlib.suppress(DataError):
            assert encoded(Image.new("RGB", (96, 80)), format_of(Path(f"out{ending}")))
    assert {format_of(Path(f"out{ending}")) for ending in (".png", ".JPG", ".webp")} == {"PNG", "JPEG", "WEBP"}


def faulty(what: str) -> str:
    """The one line of a command in which something raises that nobody expected."""
    program = (
        f"from instructdiffusion.pipelines.cli import app, main\n@app.command()\ndef boom() -> None: {what}\nmain()"
    )
    return failed(subprocess.run([sys.executable, "-c", program, "boom"], capture_output=True, text=True), 1)


def test_what_nobody_expected_is_one_line_with_a_log() -> None:
    line = faulty("raise KeyError('x')")
    assert line.startswith("error: KeyError: 'x'; the details are in ")
    log = Path(line.split(" in ")[1].removesuffix(", please report them"))
    assert "Traceback" in log.read_text()
    log.unlink()


def test_an_error_of_the_network_that_has_no_number_is_one_line_too() -> None:
    line = faulty("import requests; raise requests.ConnectionError('it refused')")
    assert line.startswith("error: ConnectionError: it refused; the details are in ")
    Path(line.split(" in ")[1].removesuffix(", please report them")).unlink()


def test_where_no_log_can_be_written_it_is_one_line_too() -> None:
    line = faulty("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); raise KeyError('x')")
    assert line.startswith("error: KeyError: 'x'; its details could not be kept (")
    assert "set TMPDIR to a folder with space" in line


@pytest.mark.parametrize("library", ["typer", "pydantic"])  # needed for the commands, and for their arguments
def test_ctrl_c_while_the_command_is_still_imported_is_one_line(library: str) -> None:
    program = (
        "import signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == '{library}': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from instructdiffusion.pipelines.entry import main\n"
        "main()"
    )
    line = failed(subprocess.run([sys.executable, "-c", program, "recipes"], capture_output=True, text=True), 130)
    assert "run the same command again" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # Ctrl-C, and a terminal that is closed
def test_a_command_that_is_stopped_says_in_one_line_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    arguments = ("synthesize", str(tmp_path / "data"), "--triplets", "200000")
    child = subprocess.Popen(
        [sys.executable, "-m", "instructdiffusion.pipelines", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
    )
    for _ in range(1200):  # until the first file: it is at work then
        if (tmp_path / "data").exists() or child.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(child.pid, number)  # as the terminal does: to all that belong to the command
    _, error = child.communicate(timeout=120)
    assert child.returncode == 130, error
    assert "run the same command again" in error
    assert "Traceback" not in error
