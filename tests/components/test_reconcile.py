"""What the reconciler decides, and that it does it on a real registry whenever it is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

import pytest
from components.disk_backend import OnDisk

from instructdiffusion.components.reconcile import (
    CANARY_AT,
    ERROR,
    SERVED_AT,
    SERVED_UNTIL,
    Canary,
    Reconciler,
    Served,
    decide,
    record,
    watch,
)
from instructdiffusion.components.registry import CHAMPION, PREVIOUS, Override, Registry, Version
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.model.errors import ConfigError, ServiceError

T0, T1, T2 = "2026-01-01T12:00:00+00:00", "2026-01-01T12:10:00+00:00", "2026-01-01T12:40:00+00:00"
AT_ONCE, SHARED = Canary(), Canary(10, timedelta(minutes=30))


def version(number: str, **tags: str) -> Version:
    return Version(number=number, source=f"s3://b/{number}", run_id="r", tags={"gate": "passed", **tags}, aliases=())


ONE, TWO = version("1", served_at=T0), version("2")


@pytest.mark.parametrize(
    ("champion", "served", "canary", "kind"),
    [
        (None, Served("1", True), AT_ONCE, "nothing"),
        (ONE, Served(), AT_ONCE, "serve"),
        (ONE, Served(), SHARED, "serve"),  # there is nobody to share with
        (ONE, Served("1", True), AT_ONCE, "nothing"),
        (ONE, Served("1", False, why="loading"), AT_ONCE, "wait"),
        (TWO, Served("1", True), AT_ONCE, "serve"),
        (TWO, Served("2", True), AT_ONCE, "record"),
        (TWO, Served("1", True), SHARED, "try"),
        (TWO, Served("1", True, canary="3"), SHARED, "try"),
        (TWO, Served("1", True, canary="2"), SHARED, "wait"),
        (TWO, Served("1", True, canary="2", canary_ready=True), SHARED, "note"),
        (version("2", canary_at=T1), Served("1", True, canary="2", canary_ready=True), SHARED, "nothing"),
        (version("2", canary_at=T0), Served("1", True, canary="2", canary_ready=True), SHARED, "serve"),
        (ONE, Served("1", True, canary="2"), SHARED, "serve"),  # the alias went back: the canary ends
        (version("1", served_at=T0, served_until=T1), Served("2", True), SHARED, "serve"),  # a rollback waits for none
    ],
)
def test_what_is_done_next_follows_from_alias_tags_and_what_is_served(
    champion: Version | None, served: Served, canary: Canary, kind: str
) -> None:
    others = [v for v in (ONE, TWO) if champion is None or v.number != champion.number]
    versions = [*others, *([champion] if champion else [])]
    assert decide(champion, served, versions, canary, T2 if kind != "nothing" else T1).kind == kind


def test_what_served_before_is_marked_and_is_what_a_rollback_returns_to() -> None:
    old, new = version("1", served_at=T0), version("2", serving_error="no room", canary_at=T0)
    wanted = record([old, new], "2", T1)
    assert wanted.previous == "1"
    assert wanted.tags == {"1": {SERVED_UNTIL: T1}, "2": {SERVED_AT: T1, CANARY_AT: None, ERROR: None}}
    done = [version("1", served_at=T0, served_until=T1), version("2", served_at=T1)]
    assert record(done, "2", T2).tags == {}


def test_what_a_rollback_took_out_of_service_is_not_returned_to() -> None:
    bad, good = version("2", served_at=T0, rolled_back_at=T1), version("1", served_at=T0, served_until=T0)
    assert record([bad, good], "1", T2).previous == ""
    again = version("2", served_at=T2, rolled_back_at=T1)  # promoted again since
    assert record([again, good], "1", T2).previous == "2"


@pytest.fixture
def three(registry: Registry, tracker: Tracker, name: str) -> Registry:
    """A registry with three versions that the gate let pass."""
    run = tracker.open_run(name)
    for number in "123":
        tags = {"gate": "passed"}
        registry.register(f"s3://bucket/{number}", digest=f"sha256:{number}", run_id=run.run_id, tags=tags)
    return registry


def serving(registry: Registry) -> list[str]:
    """The versions whose tags say that they serve now."""
    found = [v for v in registry.versions() if SERVED_AT in v.tags and SERVED_UNTIL not in v.tags]
    return [v.number for v in found]


def test_what_is_served_follows_the_alias_and_a_rollback_returns(three: Registry, tmp_path: Path) -> None:
    backend = OnDisk(tmp_path)
    reconciler = Reconciler(three, backend)
    assert "no version has the alias champion" in reconciler.once()
    for number in "12":  # moved as the registry's page and MLflow's client do, not by our command
        three.client.set_registered_model_alias(three.model, CHAMPION, number)
        assert f"version {number} serves" in reconciler.once()
        assert backend.served().version == number
        assert serving(three) == [number]
    previous = three.at(PREVIOUS)
    assert previous is not None
    assert previous.number == "1"
    three.rollback()
    reconciler.once()
    assert backend.served().version == "1"
    assert serving(three) == ["1"]
    assert three.at(PREVIOUS) is None
    stamp = three.version("1").tags[SERVED_AT]
    reconciler.once()  # a repeat changes nothing
    assert three.version("1").tags[SERVED_AT] == stamp


def test_a_version_that_the_gate_never_saw_is_not_served_until_somebody_signs(three: Registry, tmp_path: Path) -> None:
    reconciler = Reconciler(three, OnDisk(tmp_path))
    three.set_alias(CHAMPION, "1")
    reconciler.once()
    three.tag("2", {"gate": None})
    three.set_alias(CHAMPION, "2")
    line = reconciler.once()
    assert line.startswith("version 2 has not been through the gate; give the alias to another, or to promote it")
    assert line.endswith("instructdiffusion promote 2 --override REASON --by NAME")
    assert serving(three) == ["1"]
    three.set_alias(CHAMPION, "1")
    three.promote("2", Override("it was judged elsewhere", "Ada"))
    reconciler.once()
    assert serving(three) == ["2"]


def test_a_version_that_can_not_be_served_is_told_once_and_what_served_serves_on(
    three: Registry, tmp_path: Path
) -> None:
    backend = OnDisk(tmp_path, broken="2")
    reconciler = Reconciler(three, backend)
    three.set_alias(CHAMPION, "1")
    reconciler.once()
    three.set_alias(CHAMPION, "2")
    line = "version 2 can't be served: it has no weights; register it again; version 1 serves on"
    with pytest.raises(ConfigError, match=f"^{line}$"):
        reconciler.once()
    assert three.version("2").tags[ERROR] == "it has no weights; register it again"
    assert backend.served() == Served("1", True, address="disk")
    OnDisk(tmp_path).mended()
    Reconciler(three, OnDisk(tmp_path)).once()
    assert ERROR not in three.version("2").tags
    assert serving(three) == ["2"]


def test_a_registry_that_is_down_is_one_line_and_what_is_served_serves_on(tmp_path: Path) -> None:
    backend = OnDisk(tmp_path)
    backend.serve(ONE)
    with pytest.raises(ServiceError, match=r"^no answer from the tracker at http://127\.0\.0\.1:9; start it"):
        Reconciler(Registry("http://127.0.0.1:9", "m"), backend).once()
    assert backend.served().version == "1"


class Stuck(OnDisk):
    """A backend whose cluster does not answer the second time, nor end the call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked, self.answers = 0, threading.Event()

    def served(self) -> Served:
        self.asked += 1
        if self.asked > 1:
            self.answers.wait()
            raise SystemExit  # of its thread: the test is over
        return super().served()


def test_a_reconciler_is_alive_while_it_rests_and_not_once_a_look_hangs(three: Registry, tmp_path: Path) -> None:
    backend, wake = Stuck(tmp_path), threading.Event()
    reconciler = Reconciler(three, backend, patience=2)
    told: list[str] = []

    def watched() -> None:
        with suppress(SystemExit):
            watch(reconciler, told.append, wake=wake, every=600)

    thread = threading.Thread(target=watched, daemon=True)
    thread.start()
    until(lambda: bool(told))
    time.sleep(2.1)
    assert reconciler.alive()  # longer than a look may take: it waits for the next
    wake.set()
    until(lambda: not reconciler.alive())
    assert backend.asked == 2
    backend.answers.set()
    thread.join(10)


def until(done: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    for _ in range(600):
        if done():
            return
        time.sleep(0.1)
    raise AssertionError("it was not done within a minute")


@contextmanager
def nursery(registry: Registry, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that runs a reconciler as a new process for each line that it is sent."""
    command = [sys.executable, "-m", "components.disk_backend", registry.uri, registry.model, str(folder)]
    path = os.pathsep.join(p for p in sys.path if p)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as program:
        yield program
        assert program.stdin is not None
        program.stdin.close()


def reconcile(program: subprocess.Popen[str], kill_after: float | None = None) -> float:
    """Run a reconciler to its end, or kill it after so many seconds; returns how long it ran."""
    said, asked = program.stdout, program.stdin
    assert isinstance(said, IO) or said is not None
    assert asked is not None
    asked.write("run\n")
    asked.flush()
    pid, begin = int(said.readline()), time.monotonic()
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)  # not waited for yet, so that the number is still its own
    asked.write("wait\n")
    asked.flush()
    code = int(said.readline())
    assert code == (0 if kill_after is None else code)
    return time.monotonic() - begin


@pytest.mark.slow
def test_killed_at_twenty_random_moments_nothing_is_lost_and_nothing_doubled(three: Registry, tmp_path: Path) -> None:
    backend, rng, cut = OnDisk(tmp_path), random.Random(0), 0
    with nursery(three, tmp_path) as program:
        three.set_alias(CHAMPION, "3")
        whole = reconcile(program)
        for round_ in range(20):
            number = "123"[round_ % 3]
            three.set_alias(CHAMPION, number)
            before = backend.history()
            reconcile(program, kill_after=rng.uniform(0, whole))
            cut += serving(three) != [number]
            reconcile(program)
            assert backend.served() == Served(number, True, address="disk")
            assert serving(three) == [number]
            assert backend.running() == [number]  # none beside it
            assert backend.history() == [*before, number]  # it took over once, however often that was begun
            assert not any(ERROR in v.tags or CANARY_AT in v.tags for v in three.versions())
    assert cut >= 5, "the kills came too late to interrupt anything"
