"""Local servers: started, found busy, ended, and started again over the same folder."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from instructdiffusion.components.process import LOOPBACK, Process, claim_port, free_ports, port_is_free
from instructdiffusion.components.servers import TABLES_MADE, Server, mlflow_server, remove_half_made, seaweed
from instructdiffusion.components.settings import Settings
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ServiceError

Start = Callable[[Path, int], AbstractContextManager[Server]]


class Servers(Protocol):
    """What conftest.py starts for the whole session."""

    store: Server


def test_a_store_keeps_its_objects_and_keys_from_start_to_start(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    with seaweed(place) as first:
        store = Store.open(reached(first))
        store.ensure_bucket()
        uri = store.put_directory(folder, "kept")
        with pytest.raises(ServiceError, match="already uses"), seaweed(place):
            pass
    assert oct((place / "s3.json").stat().st_mode & 0o777) == "0o600"
    keys = (place / "s3.json").read_bytes()
    with seaweed(place) as second:
        assert Store.open(reached(second)).exists(uri)
    assert (place / "s3.json").read_bytes() == keys
    assert not psutil.pid_exists(second.process.pid)


def test_the_store_listens_on_this_machine_alone_and_shows_nothing_without_a_key(servers: Servers) -> None:
    server = servers.store
    process = psutil.Process(server.process.pid)
    listening = [c.laddr for c in process.connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert {address.ip for address in listening} == {LOOPBACK}
    assert len(listening) >= 9
    assert {status(a.port, "/instructdiffusion/?list-type=2") for a in listening}.isdisjoint({200})
    secret = server.environment["INSTRUCTDIFFUSION_STORE_SECRET_KEY"]
    assert secret not in repr(server)
    assert secret not in " ".join(process.cmdline())


@pytest.mark.parametrize(
    ("server", "setting"),
    [(seaweed, "INSTRUCTDIFFUSION_STORE_PORT"), (mlflow_server, "INSTRUCTDIFFUSION_TRACKING_PORT")],
)
def test_a_port_in_use_is_told_with_the_setting(server: Start, setting: str, tmp_path: Path) -> None:
    with busy_port() as port, pytest.raises(ServiceError) as caught, server(tmp_path, port):
        pass
    assert str(port) in str(caught.value)
    assert setting in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_at_start_tells_why(tmp_path: Path) -> None:
    keys = {"credentials": [{"accessKey": "a", "secretKey": "b"}], "actions": "no list"}
    (tmp_path / "s3.json").write_text(json.dumps({"identities": [keys]}))
    with (
        pytest.raises(ServiceError, match=r"object store ended at start .*fail to load config file"),
        seaweed(tmp_path),
    ):
        pass


def test_a_tracker_whose_first_start_was_cut_off_starts_again(tmp_path: Path) -> None:
    def cut_off(name: str, seconds: float) -> None:
        if tables(tmp_path):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), mlflow_server(tmp_path, waiting=cut_off):
        pytest.fail("it was not stopped before its first answer")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("DROP TABLE IF EXISTS alembic_version")  # of all moments to stop it at, one that is no good
    with mlflow_server(tmp_path):
        pass
    assert {"runs", "model_versions", "alembic_version"} <= tables(tmp_path)
    assert (tmp_path / TABLES_MADE).exists()


@pytest.mark.parametrize("marked", [True, False])
def test_of_a_tracker_nothing_is_removed_once_it_has_answered_or_has_runs(marked: bool, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE runs (run_uuid)")
        database.executemany("INSERT INTO runs VALUES (?)", [] if marked else [("a",)])
        database.commit()
    if marked:
        (tmp_path / TABLES_MADE).touch()
    before = (tmp_path / "mlflow.db").read_bytes()
    remove_half_made(tmp_path)
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_of_a_log_the_exception_is_told(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import json, atexit; atexit.register(print, 'bye'); json.loads('[')"]
    with (
        pytest.raises(ServiceError, match=r"it ended at start with exit code 1: JSONDecodeError: Expecting value"),
        Process("it", program, log_file=tmp_path / "log") as process,
    ):
        process.wait_healthy(lambda: False, timeout=120)


def test_a_process_that_never_answers_is_given_up(tmp_path: Path) -> None:
    told: list[str] = []
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    with (
        pytest.raises(ServiceError, match=r"did not answer within 3 s.*sleeper\.log"),
        Process("the sleeper", sleeper, log_file=tmp_path / "sleeper.log") as process,
    ):
        process.wait_healthy(lambda: False, timeout=3, waiting=lambda name, seconds: told.append(name))
    assert set(told) == {"the sleeper"}
    assert not psutil.pid_exists(process.pid)


def test_a_program_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no-such-program"):
        Process("it", ["no-such-program"], log_file=tmp_path / "log").start()


def test_a_stubborn_process_and_its_children_are_killed(tmp_path: Path) -> None:
    with Process("it", stubborn(tmp_path), log_file=tmp_path / "log", grace=0.3) as process:
        process.wait_healthy(lambda: (tmp_path / "child").exists(), timeout=120)
        child = int((tmp_path / "child").read_text())
    wait_gone(process.pid, child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_server_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from instructdiffusion.components.process import Process\n"
        "folder = Path(sys.argv[1])\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = Process('it', sleeper, log_file=folder / 'log')\n"
        "child.start(); (folder / 'pid').write_text(str(child.pid)); time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment)
    wait_for(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_gone(int((tmp_path / "pid").read_text()))


def test_free_ports_differ_and_are_free() -> None:
    found = free_ports(8)
    assert len(set(found)) == 8
    assert all(port_is_free(port) for port in found)
    assert claim_port(found[0], "SETTING", "it") == found[0]


def tables(folder: Path) -> set[str]:
    """Those that the tracker's database has by now."""
    if not (folder / "mlflow.db").exists():
        return set()
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def reached(server: Server) -> Settings:
    return Settings.from_environment(server.environment, needs=["store"])


def status(port: int, path: str) -> int:
    """HTTP status that a port answers, 0 where it speaks no HTTP."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path)
        return int(connection.getresponse().status)
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def stubborn(folder: Path) -> list[str]:
    """A program that ignores SIGTERM and has a child in a session of its own."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    program = (
        f"{deaf} import subprocess, sys\n"
        f"sleeper = [sys.executable, '-c', '{deaf} time.sleep(600)']\n"
        "child = subprocess.Popen(sleeper, start_new_session=True)\n"
        f"open({str(folder / 'child')!r}, 'w').write(str(child.pid)); time.sleep(600)\n"
    )
    return [sys.executable, "-c", program]


@contextmanager
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        yield int(taken.getsockname()[1])


def wait_gone(*pids: int) -> None:
    wait_for(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited for two minutes in vain"
        time.sleep(0.05)
