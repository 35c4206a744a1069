"""The collector, killed again and again while people answer: nothing is lost, nothing doubled."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from labeling.annotating import Labels, Proposed, command
from labeling.proposed import propose

from instructdiffusion.components.label_round import collect_round, open_round
from instructdiffusion.labeling.rankings import FILE, read

KILLS = 20
PRELOADED = ["pytest", "label_studio_sdk.client", "minio"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Proposed:
    folder = tmp_path_factory.mktemp("many")
    return Proposed(folder / "candidates", propose(folder, {"denoise": 12}, size=32, seed=997))


def answers(labels: Labels, many: Proposed, tasks: dict[str, int], name: str, stop: threading.Event) -> Iterator[str]:
    """Answer everything once, the first ones again and otherwise, and so on until told to stop; every last word."""
    rng, last = Random(name), dict[str, str | None]()
    with labels.annotator(name) as session:
        while not stop.is_set() or last.keys() != tasks.keys():
            key = min(tasks.keys() - last.keys(), default="") or rng.choice(sorted(tasks))
            edit = rng.choice([many.best[key], many.other(key), None])
            session.submit(tasks[key], many.answer(key, edit), f"{name} {key} {edit} {time.monotonic_ns()}")
            last[key] = edit
            stop.wait(0.1)
    for key, edit in last.items():
        yield f"{key} {name}@example.org {edit}"


def test_a_collector_that_is_killed_anywhere_loses_nothing_and_doubles_nothing(
    labels: Labels, many: Proposed, tmp_path: Path
) -> None:
    file, stop = tmp_path / FILE, threading.Event()
    tasks = labels.tasks(open_round(many.folder, labels.settings))
    with ThreadPoolExecutor(2) as people:
        said = [people.submit(lambda name: [*answers(labels, many, tasks, name, stop)], n) for n in ("ana", "bo")]
        try:
            kill_again_and_again(many.folder, file, labels)
        finally:
            stop.set()
    ended = command("label", "collect", many.folder, "--file", file, **labels.environment)
    assert ended.exit_code == 0, ended.output
    kept = [f"{r.key} {r.annotator} {r.edits[0] if r.edits else None}" for r in read(file)]
    assert sorted(kept) == sorted(line for person in said for line in person.result())
    assert len(kept) == len(file.read_text().splitlines()) == 2 * len(tasks)


def kill_again_and_again(candidates: Path, file: Path, labels: Labels) -> None:
    """Kill collectors at moments between their first and their last; what one has collected the next still has."""
    forks = multiprocessing.get_context("forkserver")  # one that starts anew would mostly be killed while importing
    forks.set_forkserver_preload(PRELOADED)
    rng, known, killed, whole = Random(0), set[tuple[str, str]](), 0, 0.0
    while killed < KILLS:
        collector = forks.Process(target=collect_round, args=(candidates, file, labels.settings))
        collector.start()
        started = time.monotonic()
        collector.join(whole * rng.random() if whole else None)  # the first one to its end
        whole = whole or time.monotonic() - started
        killed += collector.is_alive()
        assert not collector.exitcode
        collector.kill()
        collector.join()
        found = {(r.key, r.annotator) for r in read(file)} if file.exists() else set()
        assert known <= found
        known = found
