"""Answers as Label Studio hands them out, and the records they become."""

from __future__ import annotations

from typing import Any

import pytest

from instructdiffusion.labeling.label_studio import Prompt, Round, _ranking
from instructdiffusion.labeling.rankings import REFERENCE
from instructdiffusion.model.errors import DataError

PROMPT = Prompt("p1", "remove the ball", "pictures/s.png", {name: f"pictures/{name}.png" for name in "abcd"})
ROUND = Round("0123456789ab", [PROMPT])
NAMES = {1: "ana@example.org", 2: "reference-annotator-2@programs.invalid", 3: "reference-annotator-2@example.org"}


def annotation(by: Any = 1, best: str = "edit_2", **more: Any) -> dict[str, Any]:
    """An annotation as the server of version 1.23.2 lists it."""
    picked = {"id": "Xq1", "from_name": "best", "to_name": "source", "type": "choices", "origin": "manual"}
    ticked = {"id": "Xq2", "from_name": "defects_1", "to_name": "edit_1", "type": "choices", "origin": "manual"}
    return {
        "id": 7,
        "completed_by": by,
        "result": [
            {**picked, "value": {"choices": [best]}},
            {**ticked, "value": {"choices": ["artifact", "over_edit"]}},
        ],
        "was_cancelled": False,
        "ground_truth": False,
        "lead_time": 3.1,
        "created_at": "2026-01-01T12:00:00.000001Z",
        "updated_at": "2026-01-01T12:00:05.250000Z",
        **more,
    }


def test_an_answer_becomes_a_record_of_the_edits_in_those_places() -> None:
    shown = ROUND.shown(PROMPT)
    found = _ranking(ROUND, PROMPT, annotation(), NAMES)
    assert (found.key, found.edits, found.rejected) == ("p1", (shown[1],), False)
    assert found.defects == {shown[0]: ("artifact", "over_edit")}
    assert found.shown == ("a", "b", "c", "d")
    assert (found.annotator, found.kind, found.round) == ("ana@example.org", "person", "0123456789ab")
    assert found.when.isoformat() == "2026-01-01T12:00:05.250000+00:00"


def test_no_acceptable_edit_is_a_rejection() -> None:
    found = _ranking(ROUND, PROMPT, annotation(best="none"), NAMES)
    assert (found.edits, found.rejected) == ((), True)


@pytest.mark.parametrize("by", [1, {"id": 1, "email": "ana@example.org"}])
def test_who_answered_is_known_in_both_ways_that_the_server_says_it(by: Any) -> None:
    assert _ranking(ROUND, PROMPT, annotation(by), NAMES).annotator == "ana@example.org"


def test_an_annotator_who_left_keeps_a_name() -> None:
    assert _ranking(ROUND, PROMPT, annotation(99), NAMES).annotator == "former member 99"


def test_a_program_s_account_is_no_person_and_a_person_s_no_program() -> None:
    program, person = (_ranking(ROUND, PROMPT, annotation(by), NAMES) for by in (2, 3))
    assert (program.annotator, program.kind) == (f"{REFERENCE} 2", "reference")
    assert (person.annotator, person.kind) == (NAMES[3], "person")


def test_an_answer_to_a_prompt_of_no_one_is_refused() -> None:
    with pytest.raises(DataError, match="no such prompt"):
        _ranking(ROUND, None, annotation(), NAMES)


def test_the_same_lot_falls_for_everybody_and_another_in_another_round() -> None:
    assert ROUND.shown(PROMPT) == Round(ROUND.id, [PROMPT]).shown(PROMPT)
    orders = {tuple(Round(f"round {n}", [PROMPT]).shown(PROMPT)) for n in range(200)}
    assert len(orders) == 24  # every order there is
