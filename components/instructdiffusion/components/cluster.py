"""The cluster launcher: a TrainJob handed to Kubeflow Trainer, and followed to its end.

Nothing is remembered here but how far the log was read: the job's name derives from its inputs, so that whoever
starts the same training again finds the job that is there.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from instructdiffusion.components.jobs import Away, Cluster, condition, node
from instructdiffusion.components.launcher import MARK, Event, Killed, Line, is_echo, parse_event, root_cause
from instructdiffusion.components.process import exit_words, last_words
from instructdiffusion.components.step import read_mark
from instructdiffusion.model.errors import InstructDiffusionError, ServiceError
from instructdiffusion.model.files import write_atomic

log = logging.getLogger(__name__)

LOG_TAIL = 1000  # lines of a pod's log: after what a rank said comes what torchrun says of each
SLACK = 60  # seconds that clocks may differ; lines that were read are known by their time
FROM_OUTSIDE = ("exit code 137", "exit code 143")  # 128 + SIGKILL, 128 + SIGTERM: its node was taken away
OUT_OF_MEMORY = "OOMKilled"  # a kill that would happen again
STUCK = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")


def launch(
    job: Mapping[str, Any],
    *,
    logs: Path,
    namespace: str = "",
    on_line: Line | None = None,
    on_event: Event | None = None,
    made: Callable[[], bool] = lambda: True,
    poll: float = 2.0,
    patience: float = 600.0,
) -> None:
    """Submit a TrainJob, or find the one of that name, and follow it to its end.

    Ctrl-C or SIGTERM deletes it. A job that failed stays, to be looked at; the next call replaces it.

    Args:
        job: what `train_job` makes.
        logs: folder for the log of the first node, and for the last words of nodes that failed.
        namespace: of the job; empty: that of our own pod, or of the kubeconfig's context.
        on_line: gets the first node's lines that are no events, and what keeps its pods from starting.
        on_event: gets the first node's events, as they come.
        made: whether what the job makes is there; one that is complete without it is replaced.
        poll: seconds between looks.
        patience: seconds that the cluster may not answer, or an image not be pulled.

    Raises:
        ServiceError: the training failed, with what its pods said; or the cluster does not answer, or refuses us.
        ConfigError: there is no cluster, or it refuses the job as wrong.
    """
    with _terminable():
        cluster = Cluster(namespace)
        name = str(job["metadata"]["name"])
        try:
            cluster.begin(job, made, poll, patience)
            _follow(cluster, name, Log(cluster, name, logs, on_line, on_event), poll, patience)
        except InstructDiffusionError:
            raise
        except BaseException:
            log.warning("cancelled: TrainJob %s is deleted", name)
            with suppress(ServiceError):  # what we were told to do is to end
                cluster.delete(name)
            raise


class Log:
    """The first node's log, handed on line by line; where it was read to is kept, so that a restart goes on there."""

    def __init__(self, cluster: Cluster, name: str, folder: Path, on_line: Line | None, on_event: Event | None) -> None:
        """Nothing is read until `read`."""
        self._cluster, self._name, self._folder = cluster, name, folder
        self.say, self._on_event = on_line or (lambda line: None), on_event
        self._known = read_mark(folder / "at.json")

    def read(self, pods: list[Any]) -> None:
        """Hand on the lines since the last call."""
        pod = next((pod.metadata.name for pod in pods if node(pod) == 0), None)
        if pod is None:
            return
        last = self._known.get("at", "") if self._known.get("pod") == pod else ""
        recent = {"since_seconds": _seconds_since(last) + SLACK} if last else {}
        text = self._cluster.log(pod, timestamps=True, **recent)
        stamped = [line.partition(" ") for line in text.splitlines()]
        new = [(at, text) for stamp, _, text in stamped if (at := _instant(stamp)) > last]
        if not new:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "node-0.log").open("a") as file:
            file.writelines(f"{text}\n" for _, text in new)
        for _, text in new:
            self._hand_on(text.removeprefix(MARK))
        self._known = {"pod": pod, "at": new[-1][0]}
        write_atomic(self._folder / "at.json", json.dumps(self._known))

    def last_words(self, pod: str) -> tuple[str, int]:
        """Why a pod ended, by its log; and the exit code of the rank that torchrun says failed first, if it does."""
        path, text = self._folder / f"{pod}.log", self._cluster.log(pod, tail_lines=LOG_TAIL)
        write_atomic(path, text)
        words = last_words(path) or "it wrote no log"
        if (cause := root_cause(text)) is None:
            return words, 0
        rank, _, code = cause
        return f"rank {rank} ended with {exit_words(code)}" + (f": {words}" if code > 0 else ""), code

    def _hand_on(self, text: str) -> None:
        event = parse_event(text)
        if event is None:
            self.say(text)
        elif self._on_event is not None:
            self._on_event(event)


def _follow(cluster: Cluster, name: str, reader: Log, poll: float, patience: float) -> None:
    told, heard, stuck_since = set[str](), time.monotonic(), 0.0
    while True:
        try:
            job, pods = cluster.get(name), cluster.pods(name)  # before the log: it is whole when the job is over
            reader.read(pods)
            heard = time.monotonic()
            if job is None:
                raise ServiceError(f"TrainJob {name} was deleted while it ran; run the step again to go on")
            if condition(job, "Complete"):
                return
            if failed := condition(job, "Failed"):
                raise _failure(cluster, name, failed, pods, reader)
            if condition(job, "Suspended"):
                _tell(["the job is suspended: it waits in its queue, or someone stopped it"], told, reader)
            elif not any(pod.status.phase == "Running" for pod in pods):
                _tell(cluster.warnings(name), told, reader)
            stuck = _stuck(pods)
            stuck_since = (stuck_since or heard) if stuck else 0.0
            if stuck and heard - stuck_since > patience:
                cluster.delete(name)
                raise ServiceError(f"training {name} can't start: {stuck}; correct the image or the runtime")
        except Away as error:
            if time.monotonic() - heard > patience:
                raise ServiceError(f"{error}; the training goes on: run the step again to follow it") from None
            log.warning("%s; asking again", error)
        time.sleep(poll)


def _tell(lines: list[str], told: set[str], reader: Log) -> None:
    """Say what was not said before."""
    for line in lines:
        if line not in told:
            told.add(line)
            reader.say(line)


def _failure(cluster: Cluster, name: str, failed: Mapping[str, Any], pods: list[Any], reader: Log) -> ServiceError:
    """One line: which node ended first, but for those that only lost a peer, how, why, what the cluster says."""
    told = f"{failed.get('reason', 'Failed')}: {failed.get('message', '')}".strip(": ")
    ends = [(at, pod, how, *reader.last_words(pod.metadata.name)) for pod in pods for at, how in _end(pod)]
    if ends:
        _, pod, how, words, code = min(ends, key=lambda end: (is_echo(end[3]), end[0]))
        outside = how in FROM_OUTSIDE or pod.status.reason == "Evicted"
        inside = OUT_OF_MEMORY not in how and (code < 0 or is_echo(words))  # of its processes, one was killed
        kind = Killed if outside or inside else ServiceError
        return kind(f"training {name} failed: node {node(pod)} ended with {how}: {words} ({told})")
    complaints = cluster.warnings(name)[-1:]
    said = "; ".join([told, *complaints])
    return ServiceError(f"training {name} failed: {said}; see: kubectl describe trainjob {name}")


def _end(pod: Any) -> list[tuple[str, str]]:
    """When and how a pod ended, if it did not end well."""
    for status in pod.status.container_statuses or ():
        ended = status.state.terminated if status.state else None
        if ended is not None and ended.exit_code:
            reason = "" if ended.reason in (None, "Error") else f"{ended.reason}, "
            return [(str(ended.finished_at), f"{reason}exit code {ended.exit_code}")]
    if pod.status.phase == "Failed":
        return [("9", f"{pod.status.reason or 'no reason'}: {pod.status.message or 'no message'}")]
    return []


def _stuck(pods: list[Any]) -> str:
    """Why a container can't be made, if so."""
    for pod in pods:
        for status in pod.status.container_statuses or ():
            waits = status.state.waiting if status.state else None
            if waits is not None and waits.reason in STUCK:
                return f"{waits.reason}: {waits.message or status.image}"
    return ""


def _instant(stamp: str) -> str:
    """A log's time stamp so that the order of texts is that of time: its fraction may be cut short."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}"


def _seconds_since(instant: str) -> int:
    then = datetime.fromisoformat(instant.partition(".")[0]).replace(tzinfo=UTC)
    return max(0, int((datetime.now(UTC) - then).total_seconds()))


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, which would end us at once, ends the block like Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
