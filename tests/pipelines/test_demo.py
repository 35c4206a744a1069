"""The demo's folder and servers, as far as no pipeline needs to run."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest
from commands import ran

from instructdiffusion.components.process import held
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.pipelines import machine
from instructdiffusion.pipelines.demo import clear


def test_fresh_leaves_the_folder_of_a_running_demo_alone(tmp_path: Path) -> None:
    (tmp_path / "demo" / "store").mkdir(parents=True)
    (tmp_path / "demo" / "store" / "data").write_text("of the demo that runs")
    with held(tmp_path / "demo" / ".lock", "demo"):
        ended = ran("instructdiffusion demo --fresh --out demo", tmp_path)
    assert ended.exit_code == 4, ended.stderr
    (line,) = ended.stderr.strip().splitlines()
    assert "another demo already uses" in line
    assert "stop it first, or choose another folder" in line
    assert (tmp_path / "demo" / "store" / "data").read_text() == "of the demo that runs"


def test_fresh_removes_what_a_demo_left_and_nothing_where_none_ran(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("important")
    clear(tmp_path)
    assert (tmp_path / "work" / "thesis.txt").exists()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".lock").touch()
    (tmp_path / "summary.json").touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_machine_that_has_what_a_run_needs_is_let_through(tmp_path: Path) -> None:
    machine.check(tmp_path / "demo", {"store_port": 0}, need=0.001)
    assert list((tmp_path / "demo").iterdir()) == []


def test_a_disk_that_is_too_full_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has [\d.]+ GiB free and a run needs 1e\+09; free some, or choose another"):
        machine.check(tmp_path, {}, need=1e9)


def test_a_package_with_photographs_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as one that can't be imported
    with pytest.raises(ConfigError, match=r"not installed: scikit-learn; run make setup, or pip install scikit-learn"):
        machine.check(tmp_path, {})


def test_a_package_without_its_photographs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"photograph \S+ is missing; run: pip install --force-reinstall scikit-learn"):
        machine.check(tmp_path, {}, need=0.001)


def test_two_servers_on_one_port_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each server needs its own"):
        machine.check(tmp_path, {"store_port": 23456, "tracking_port": 23456})


def test_kept_servers_have_their_addresses_printed_and_answer_until_ctrl_c(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rich.console import Console\n"
        "from instructdiffusion.components.servers import seaweed\n"
        "from instructdiffusion.pipelines.demo import hold\n"
        "with seaweed(Path(sys.argv[1])) as store:\n"
        "    hold(Console(), {'object store': store.address})\n"
    )
    command = [sys.executable, "-u", "-c", program, str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    name, address = child.stdout.readline().rsplit(maxsplit=1)
    assert name == "object store"
    assert child.stdout.readline() == "Ctrl-C stops them\n"
    assert urllib.request.urlopen(f"{address}/healthz").status == 200
    (server,) = psutil.Process(child.pid).children()
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60)[0] == "stopping\n"
    assert child.returncode == 0
    assert not server.is_running()
