"""What a pipeline's log tells, and what the alignment's comparison makes of scores."""

from __future__ import annotations

import pytest

from instructdiffusion.components.compare import gain
from instructdiffusion.model.errors import DataError
from instructdiffusion.pipelines.local import Event, Reading

LOG = """\
00:19:38.891 - INFO - Executing task \x1b[96m'train-2'\x1b[0m
    {"step": "train (align)"}
    {"progress": 3, "total": 10, "text": "loss 0.12"}
    {"not": "one of ours"}
    [KFP Executor 2026-11-23 00:19:39,180 INFO]: Wrote executor output file
00:19:39.190 - INFO - Task \x1b[96m'train-2'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
"""


def told(log: str) -> tuple[Reading, list[Event]]:
    reading = Reading()
    events = [event for at, line in enumerate(log.splitlines()) for event in reading.events(line, float(at))]
    return reading, events


def test_a_log_tells_when_a_step_starts_how_far_it_is_and_when_it_ends() -> None:
    _, events = told(LOG)
    assert [(e.kind, e.title) for e in events] == [
        ("started", "train-2"),
        ("started", "train (align)"),
        ("progress", "train (align)"),
        ("done", "train (align)"),
    ]
    assert (events[2].done, events[2].total, events[2].text) == (3, 10, "loss 0.12")
    assert events[3].seconds == 5.0


def test_an_error_of_ours_keeps_its_line_and_its_kind() -> None:
    reading, _ = told('    {"error": "shard x is damaged; delete it", "exit_code": 3}\n')
    assert isinstance(reading.error, DataError)
    assert str(reading.error) == "shard x is damaged; delete it"


def test_another_error_is_remembered_by_what_raised_it_not_by_its_echo() -> None:
    log = "    KeyError: 'digest'\nRuntimeError: Pipeline 'x' finished with status FAILURE.\n"
    assert told(log)[0].raised == "KeyError: 'digest'"


def test_the_gain_is_of_pairs_of_the_same_prompts() -> None:
    control = {f"p{i}": {"a": i / 40, "b": i / 40} for i in range(20)}
    aligned = {key: {"c": edits["a"] + 0.1 + 0.001 * (i % 2)} for i, (key, edits) in enumerate(control.items())}
    found = gain(before=control, aligned=aligned, control=control)
    assert found["raised"]
    assert found["gain"]["low"] > 0.09  # though single prompts differ by far more
    assert found["gain"]["value"] == pytest.approx(0.1005)
    assert found["n"] == 20


def test_no_gain_is_claimed_where_it_may_be_chance() -> None:
    control = {f"p{i}": {"a": 0.5} for i in range(20)}
    aligned = {f"p{i}": {"a": 0.5 + (0.1 if i % 2 else -0.1)} for i in range(20)}
    assert not gain(before=control, aligned=aligned, control=control)["raised"]


def test_scores_of_other_prompts_are_refused() -> None:
    one = {"p": {"a": 0.5}}
    with pytest.raises(DataError, match="same prompts"):
        gain(before=one, aligned=one, control={"q": {"a": 0.5}})
