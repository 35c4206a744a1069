"""The record of a ranking and its file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from instructdiffusion.labeling.rankings import RANDOM, REFERENCE, Ranking, add, newest, read, write
from instructdiffusion.model.errors import DataError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ranking(key: str = "p", edits: str = "a", annotator: str = "ana", hours: int = 0, **more: Any) -> Ranking:
    """`edits` are one letter each, the best first; none: rejected."""
    values = {"kind": "person", "when": NOON + timedelta(hours=hours), "rejected": not edits, **more}
    return Ranking(key=key, edits=tuple(edits), annotator=annotator, **values)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    given = [
        ranking("p", "ba", defects={"c": ("artifact",)}, shown=("a", "b", "c"), round="r1"),
        ranking("q", ""),
        ranking("q", "a", REFERENCE, kind="reference"),
    ]
    assert write(tmp_path / "r.jsonl", reversed(given)) == given == read(tmp_path / "r.jsonl")
    assert '"when":"2026-01-01T12:00:00Z"' in (tmp_path / "r.jsonl").read_text()


@pytest.mark.parametrize("seed", range(5))
def test_the_newest_ranking_of_an_annotator_stays_in_whatever_order_they_come(seed: int) -> None:
    old, new, other = ranking(edits="a"), ranking(edits="b", hours=1), ranking(edits="c", annotator="bo")
    late = [old, new, other, old, new]
    Random(seed).shuffle(late)
    assert newest(late) == [new, other]


@pytest.mark.parametrize("seed", range(5))
def test_of_two_rankings_of_one_moment_always_the_same_stays(seed: int) -> None:
    both = [ranking(edits="a"), ranking(edits="b")]
    Random(seed).shuffle(both)
    assert newest(both) == newest(reversed(both))


def test_adding_the_same_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    add(path, [ranking("p", "a")])
    add(path, [ranking("q", "b")])
    before = path.read_bytes()
    add(path, [ranking("q", "b"), ranking("p", "c", hours=-1)])  # a duplicate, and one that comes late
    assert path.read_bytes() == before
    assert len(read(path)) == 2


def test_equal_times_of_different_zones_are_one_time() -> None:
    east = NOON.astimezone(timezone(timedelta(hours=5)))
    assert ranking(when=east) == ranking(when=NOON)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"annotator": REFERENCE}, "never count as people"),
        ({"annotator": " Reference Annotator "}, "never count as people"),
        ({"annotator": RANDOM}, "never count as people"),
        ({"annotator": "ana", "kind": "reference"}, "never count as people"),
        ({"edits": "aa"}, "ranked twice"),
        ({"edits": "a", "rejected": True}, "one of the two"),
        ({"edits": "", "rejected": False}, "one of the two"),
        ({"edits": "a", "shown": ("b",)}, "was not shown"),
        ({"when": datetime(2026, 1, 1)}, "timezone"),
        ({"annotator": " "}, "at least 1 character"),
    ],
)
def test_a_ranking_that_contradicts_itself_is_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ranking(**more)


def test_a_broken_line_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(ranking().model_dump_json() + "\n\n{broken\n")
    with pytest.raises(DataError, match=r"r\.jsonl line 3 is no ranking") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="run the rank step"):
        read(tmp_path / "none.jsonl")
