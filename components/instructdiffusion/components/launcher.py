"""The local launcher: a TrainJob object's nodes as torchrun processes on this machine.

It sets what the operator sets in a pod, so that a training can't tell the difference; where there is no GPU, gloo and
the CPU stand in for NCCL and GPUs. A line of rank 0 that is a JSON object is an event, such as
`{"progress": 3, "total": 10, "text": "..."}`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from instructdiffusion.components.process import LOOPBACK, Process, exit_words, free_ports, last_words
from instructdiffusion.model.errors import ConfigError, ServiceError

log = logging.getLogger(__name__)

Line = Callable[[str], None]
Event = Callable[[dict[str, Any]], None]

MARK = "<rank 0> "  # torchrun puts it before what rank 0 says
GRACE = 10  # seconds a training has to end after SIGTERM, unless torchrun's own variable says otherwise
TOLD = "PET_SHUTDOWN_TIMEOUT"
FAILED = re.compile(r"^\s+rank\s+: (\d+) \(local_rank: (\d+)\)$\n^\s+exitcode\s+: (-?\d+)", re.MULTILINE)
CAUSE = "Root Cause"
GPUS = ("nvidia[0-9]*", "dxg")  # files in /dev: one of each GPU, or the one of all in WSL


class Killed(ServiceError):
    """Something from outside ended a process of the training, which was at no fault: worth another launch."""


def launch(
    job: Mapping[str, Any],
    *,
    logs: Path,
    on_line: Line | None = None,
    on_event: Event | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a TrainJob to its end. On failure, Ctrl-C or any other exception nothing of it is left running.

    Args:
        job: what `train_job` makes; image and resources mean nothing here.
        logs: folder for the logs: `node-N.log`, and every rank's own below `node-N/`.
        on_line: gets rank 0's lines that are no events, as they come.
        on_event: gets rank 0's events, as they come.
        cwd: working directory of the processes; None: ours.

    Raises:
        ServiceError: a process failed; the message names its rank and the last line it wrote. `Killed`, if a signal
            ended it. Or another launch still writes to `logs`.
        ConfigError: the object needs a variable that our environment lacks, or `PET_SHUTDOWN_TIMEOUT` is no number.
    """
    nodes = int(job["spec"]["trainer"].get("numNodes", 1))
    port = free_ports(1)[0]
    with ExitStack() as stack:
        processes = [_node(job, rank, port, logs, cwd) for rank in range(nodes)]
        for process in processes:
            stack.enter_context(process)
        _follow(job, processes, logs, Follower(logs / "node-0.log", on_line, on_event))


class Follower:
    """Reads a log while it grows and hands on what rank 0 says, a line at a time."""

    def __init__(self, path: Path, on_line: Line | None, on_event: Event | None) -> None:
        """Nothing is read until `read`."""
        self._path, self._on_line, self._on_event = path, on_line, on_event
        self._at, self._rest = 0, b""

    def read(self) -> None:
        """Hand on every whole line since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        self._at += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            self._hand_on(line.decode(errors="replace").rstrip("\r"))

    def _hand_on(self, line: str) -> None:
        if not line.startswith(MARK):
            return
        text = line.removeprefix(MARK)
        event = parse_event(text)
        if event is not None and self._on_event is not None:
            self._on_event(event)
        elif event is None and self._on_line is not None:
            self._on_line(text)


def parse_event(text: str) -> dict[str, Any] | None:
    """The JSON object that a line is, or None."""
    if not text.startswith("{"):
        return None
    try:
        event = json.loads(text)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def sees_gpu(environment: Mapping[str, str], devices: Path = Path("/dev")) -> bool:
    """Whether a process of this environment finds a GPU, by the machine's files: to ask torch takes seconds.

    What is found may be of no use to this torch; DeepSpeed, which is then told nothing, finds that out by itself.
    """
    hidden = environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(found for pattern in GPUS for found in devices.glob(pattern))


def _node(job: Mapping[str, Any], rank: int, port: int, logs: Path, cwd: Path | None) -> Process:
    trainer = job["spec"]["trainer"]
    command = [*trainer.get("command", ()), *trainer.get("args", ())]
    if command[:1] == ["python"]:
        command[0] = sys.executable  # the image's python is this one
    return Process(
        f"node {rank} of {job['metadata']['name']}",
        command,
        log_file=logs / f"node-{rank}.log",
        environment=_environment(job, rank, port, logs),
        cwd=cwd,
        lock=logs / f"node-{rank}.lock",  # two launches would write the same checkpoints
        grace=_grace(),
    )


def _environment(job: Mapping[str, Any], rank: int, port: int, logs: Path) -> dict[str, str]:
    """The variables of one node: what suits this machine, over it what our environment says, ours, the job's, and the
    operator's.
    """
    trainer = job["spec"]["trainer"]
    nodes, processes = int(trainer.get("numNodes", 1)), int(trainer.get("numProcPerNode", 1))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    suits = {
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",  # all nodes are this machine
        **({} if sees_gpu(os.environ) else {"DS_ACCELERATOR": "cpu"}),
    }
    here = {
        "OMP_NUM_THREADS": str(max(1, cores // (nodes * processes))),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # what we import, a rank imports
        "PYTHONUNBUFFERED": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else a restart meets dead addresses
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "<rank ${rank}> ",
        "PET_LOG_DIR": str((logs / f"node-{rank}").absolute()),
        "PET_REDIRECTS": "3",  # every rank's output and errors to files of its own,
        "PET_TEE": "0:3",  # and those of the node's first to the node's log too
        TOLD: str(_grace()),  # as long as torchrun gets from us; they die with it
    }
    operator = {
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": LOOPBACK,
        "PET_MASTER_PORT": str(port),
    }
    return {**suits, **os.environ, **here, **_variables(trainer.get("env", ())), **operator}


def _grace() -> int:
    """Seconds that a training has to end after SIGTERM."""
    text = os.environ.get(TOLD) or str(GRACE)
    if not text.isdecimal():
        raise ConfigError(f"{TOLD}={text} is no number of seconds; write one, as in {TOLD}=120")
    return int(text)


def _variables(env: Any) -> dict[str, str]:
    """The job's own variables; one that a Secret would give comes from our environment by the same name."""
    values = {}
    for variable in env:
        name = variable["name"]
        if "value" in variable:
            values[name] = str(variable["value"])
        elif name not in os.environ:
            raise ConfigError(f"{name} is not set; on a cluster a Secret gives it, here the environment must")
    return values


def _follow(job: Mapping[str, Any], processes: list[Process], logs: Path, follower: Follower) -> None:
    while True:
        codes = [process.poll() for process in processes]
        follower.read()
        if any(code not in (None, 0) for code in codes):
            _let_settle(processes)
            follower.read()
            raise _failure(str(job["metadata"]["name"]), processes, logs)
        if all(code == 0 for code in codes):
            return
        time.sleep(0.1)


def _let_settle(processes: list[Process]) -> None:
    """Wait a little for the other nodes: the one that ended first need not be the one that failed first."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.1)


def _failure(name: str, processes: list[Process], logs: Path) -> ServiceError:
    """One line about the rank that failed first, rather than those that lost a peer."""
    causes = [cause for node in range(len(processes)) if (cause := _cause(node, logs))]
    if not causes:
        code = next((code for p in processes if (code := p.poll())), 0)
        said = next((line for p in processes if (line := last_words(p.log_file))), "it wrote no log")
        kind = Killed if code < 0 else ServiceError
        return kind(f"training {name} ended with {exit_words(code)}: {said} (logs: {logs})")
    rank, code, said = min(causes, key=lambda cause: is_echo(cause[2]))
    kind = Killed if code < 0 or is_echo(said) else ServiceError
    return kind(f"training {name} failed: rank {rank} ended with {exit_words(code)}: {said} (logs: {logs})")


def _cause(node: int, logs: Path) -> tuple[int, int, str] | None:
    """(rank, exit code, its last line) of the first failure that a node's torchrun reports."""
    found = root_cause((logs / f"node-{node}.log").read_text(errors="replace"))
    if found is None:
        return None
    rank, local, code = found
    attempts = sorted((logs / f"node-{node}").glob(f"*/attempt_*/{local}"), key=lambda p: p.stat().st_mtime)
    said = next((line for p in reversed(attempts) if (line := last_words(p / "stderr.log"))), "it wrote no error")
    return rank, code, said


def root_cause(text: str) -> tuple[int, int, int] | None:
    """(rank, its number on the node, exit code) of the failure that a torchrun's log ends with; None: with none."""
    found = FAILED.search(text.rpartition(CAUSE)[2])
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def is_echo(text: str) -> bool:
    """Whether a rank only tells that another one was gone."""
    return any(sign in text for sign in ("closed by peer", "Connection reset", "Connection refused", "DistStoreError"))
