"""A child process that can't be forgotten: own session, own log, ended with the block that started it."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from instructdiffusion.model.errors import ServiceError

log = logging.getLogger(__name__)

Waiting = Callable[[str, float], None]  # told the process's name and the seconds waited so far, about once a second

LOOPBACK = "127.0.0.1"
GRPC_OFFSET = 10_000  # some servers derive a second port from the first by this sum
PORTS = range(12_000, 22_000)  # with the offset still below 32768, where Linux takes ports for outgoing connections
PR_SET_PDEATHSIG = 1
LOG_TAIL = 65_536  # bytes of a log's end that are searched for a reason
RANK = re.compile(r"^\[rank\d+\]:\s?")  # torch puts it before the lines of a traceback
REASON = re.compile(  # an exception in Python, without its module; a fatal line in Go's usual log
    r"^(?:(?:\w+\.)*(?!ChildFailedError)"  # torchrun's, which only says that a rank failed
    r"(?=\w+(?:Error|Exception|Interrupt|Exit)\b)(?=[^:]+: )|F\d{4} [\d:.]+ \S+ )(\S.*)"
)


class Process:
    """One child process, started by `start` or `with`, ended by `stop` or the end of the `with` block.

    It runs in a session of its own, so Ctrl-C reaches only us and we end it in order. On Linux the
    kernel sends it SIGTERM when the *thread* that started it ends: start it from the main thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_file: Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        lock: Path | None = None,
        grace: float = 5.0,
    ) -> None:
        """Describe the process; nothing starts yet.

        Args:
            name: what error messages call it.
            command: program and arguments.
            log_file: takes standard output and error; the previous log is replaced.
            environment: the whole environment; None: ours.
            lock: a file held locked as long as the child lives, so that no second one uses the same folder.
            grace: seconds between SIGTERM and SIGKILL.
        """
        self.name, self.command, self.log_file = name, list(command), log_file
        self.environment = dict(os.environ if environment is None else environment)
        self.cwd, self.lock, self.grace = cwd, lock, grace
        self._child: subprocess.Popen[bytes] | None = None
        self._family: set[tuple[int, float]] = set()  # (pid, start time) of all it was seen to start
        self._looked = 0.0

    @property
    def pid(self) -> int:
        """Process id of the child; an error of ours to ask before `start`."""
        assert self._child is not None, "not started"
        return self._child.pid

    def start(self) -> None:
        """Start the child.

        Raises:
            ServiceError: the program is missing, or another process holds the lock.
        """
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with held(self.lock, self.name) as descriptors, self.log_file.open("wb") as output:
            try:
                self._child = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    cwd=self.cwd,
                    start_new_session=True,
                    pass_fds=descriptors,
                    preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise ServiceError(
                    f"can't start {self.name}: {self.command[0]}: {error.strerror}; is its package installed?"
                ) from error

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        if self._child is None:
            return None
        if time.monotonic() - self._looked > 1:  # its children can't be found once it is gone
            self._look()
        return self._child.poll()

    def _look(self) -> None:
        assert self._child is not None, "not started"
        self._looked = time.monotonic()
        self._family |= _family(self._child.pid)

    def last_words(self) -> str:
        """The line of the log that says why it ended, or a note that there is none."""
        return last_words(self.log_file) or "it wrote no log"

    def wait_healthy(self, healthy: Callable[[], bool], *, timeout: float, waiting: Waiting | None = None) -> float:
        """Wait until `healthy()`; returns the seconds it took.

        Raises:
            ServiceError: the child ended, with the reason in its log; or `timeout` seconds passed.
        """
        start = told = time.monotonic()
        while not healthy():
            now = time.monotonic()
            if (code := self.poll()) is not None:
                raise ServiceError(
                    f"{self.name} ended at start with {exit_words(code)}: {self.last_words()} (log: {self.log_file})"
                )
            if now - start > timeout:
                raise ServiceError(
                    f"{self.name} did not answer within {timeout:.0f} s; try again or see its log: {self.log_file}"
                )
            if waiting is not None and now - told >= 1:
                told = now
                waiting(self.name, now - start)
            time.sleep(0.05)
        return time.monotonic() - start

    def stop(self) -> None:
        """End the child and all it started: SIGTERM, then SIGKILL after the grace. Safe to call twice."""
        if self._child is None:
            return
        self._look()
        try:
            if self._child.poll() is None:
                self._child.terminate()
                self._child.wait(self.grace)
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop within %.0f s and is killed", self.name, self.grace)
        finally:  # a second Ctrl-C lands here too: nothing may survive us
            _kill(self._family)
            self._child.wait()

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextmanager
def held(lock: Path | None, name: str) -> Iterator[tuple[int, ...]]:
    """Lock a file for the block and yield its descriptor: a child that inherits it keeps the lock when we let go.

    Raises:
        ServiceError: another process holds it; `name` says what such a process is.
    """
    if lock is None:
        yield ()
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        _lock(file, lock, name)
        yield (file.fileno(),)


def free_ports(count: int, *, fixed: Sequence[int] = ()) -> list[int]:
    """`count` ports of 127.0.0.1 that are free now, each with the port `GRPC_OFFSET` above it free too."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if port not in fixed and port_is_free(port) and port_is_free(port + GRPC_OFFSET):
            found.append(port)
        if len(found) == count:
            return found
    raise ServiceError(f"no {count} free ports between {PORTS.start} and {PORTS.stop}; stop some servers")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that just closed is no bar
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def claim_port(port: int, setting: str, name: str) -> int:
    """`port` itself if it is free, any free one if it is 0.

    Raises:
        ServiceError: the port is in use; the message names it and the setting that chooses another.
    """
    if port == 0:
        return free_ports(1)[0]
    if not port_is_free(port):
        raise ServiceError(
            f"port {port} for {name} is in use; stop what listens on it, or set {setting} to another port (0: any)"
        )
    return port


def last_line(path: Path) -> str:
    """The last line of a log that has letters in it, at most 300 characters; empty if there is none."""
    return next((line.strip()[:300] for line in reversed(_tail(path)) if any(c.isalpha() for c in line)), "")


def last_words(path: Path) -> str:
    """Why a program ended, by its log: the exception or fatal line it printed last, else its last line."""
    reasons = (found[1][:300] for line in reversed(_tail(path)) if (found := REASON.match(line)))
    return next(reasons, "") or last_line(path)


def _tail(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL))
        return [RANK.sub("", line) for line in file.read().decode(errors="replace").splitlines()]


def exit_words(code: int) -> str:
    """An exit code in words: `exit code 1`, `signal SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _lock(file: IO[bytes], path: Path, name: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ServiceError(
            f"another {name} already uses {path.parent}; stop it first, or choose another folder"
        ) from error


def _die_with(parent: int) -> Callable[[], None]:
    """What the child runs before its program: ask the kernel for SIGTERM when its parent is gone."""
    libc = ctypes.CDLL(None, use_errno=True)  # loaded here: little is safe between fork and exec

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went before we could ask
            os._exit(1)

    return ask


def _family(pid: int) -> set[tuple[int, float]]:
    """(pid, start time) of a process and all below it: a torchrun worker has a session of its own."""
    import psutil

    try:
        root = psutil.Process(pid)
        return {(p.pid, p.create_time()) for p in [root, *root.children(recursive=True)]}
    except psutil.NoSuchProcess:
        return set()


def _kill(family: set[tuple[int, float]]) -> None:
    """SIGKILL those that still are who they were: ids get reused."""
    import psutil

    for pid, started in family:
        try:
            process = psutil.Process(pid)
            if process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
        except psutil.NoSuchProcess:
            continue
