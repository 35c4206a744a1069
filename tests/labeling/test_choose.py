"""The rules: which edits are chosen, whose rankings count, how far annotators agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from instructdiffusion.labeling.choose import agreement, best_edits, counted
from instructdiffusion.labeling.rankings import REFERENCE, Ranking
from instructdiffusion.labeling.reference import random_picks, rank
from instructdiffusion.model.errors import ConfigError, DataError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SHOWN = ("a", "b", "c", "d")


def person(key: str, edits: str, name: str = "ana", hours: int = 0) -> Ranking:
    when = NOON + timedelta(hours=hours)
    told = {"rejected": not edits, "shown": SHOWN, "annotator": name, "kind": "person", "when": when}
    return Ranking.model_validate({"key": key, "edits": tuple(edits), **told})


def reference(key: str, best: str) -> list[Ranking]:
    return rank({key: {edit: float(edit == best) for edit in SHOWN}}, when=NOON)


def test_one_edit_a_prompt() -> None:
    assert best_edits([person("add a hat", "abc")], count=3) == [("add a hat", "a")]


def test_points_decide_not_first_places() -> None:
    votes = [person("p", "ab", "x"), person("p", "cb", "y"), person("p", "bd", "z")]
    assert best_edits(votes) == [("p", "b")]


def test_an_edit_without_support_is_left_out() -> None:
    votes = [person("p", "a", "x"), person("p", "", "y"), person("p", "", "z")]
    assert best_edits(votes) == []
    assert best_edits(votes[:2]) == [("p", "a")]


def test_the_surest_prompts_come_first_and_the_count_cuts_the_rest() -> None:
    votes = [person("p", "ab", "x"), person("p", "ba", "y"), person("q", "c", "x"), person("q", "c", "y")]
    assert best_edits(votes) == [("q", "c"), ("p", "a")]
    assert best_edits(votes, count=1) == [("q", "c")]
    assert best_edits(votes, per_prompt=2) == [("q", "c"), ("p", "a"), ("p", "b")]


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_depends_on_no_order_and_repeats(seed: int) -> None:
    rng = Random(seed)
    votes = [
        person(f"p{prompt}", "".join(rng.sample(SHOWN, rng.randint(0, 3))), name)
        for prompt in range(6)
        for name in ("x", "y", "z")
    ]
    for per_prompt in (1, 2):
        chosen = best_edits(votes, per_prompt=per_prompt)
        prompts = [key for key, _ in chosen]
        assert all(prompts.count(key) <= per_prompt for key in prompts)
        assert best_edits(rng.sample(votes, len(votes)), per_prompt=per_prompt) == chosen
        assert best_edits(votes, 3, per_prompt=per_prompt) == chosen[:3]


def test_ties_are_alphabetical() -> None:
    votes = [person("q", "b", "x"), person("q", "a", "y"), person("p", "d", "x"), person("p", "c", "y")]
    for order in (votes, votes[::-1]):
        assert best_edits(order) == [("p", "c"), ("q", "a")]


def test_a_duplicate_has_one_vote_and_a_late_one_none() -> None:
    votes = [person("p", "a", "x"), person("p", "a", "y"), *[person("p", "b", "z")] * 5]
    assert best_edits(votes) == [("p", "a")]
    changed = [person("p", "b", "x", hours=1), person("p", "a", "x"), person("p", "a", "x", hours=-1)]
    assert best_edits(changed) == [("p", "b")]


def test_the_reference_never_counts_where_people_ranked_anything() -> None:
    votes = [person("p", "a"), *reference("p", "b"), *reference("q", "c")]
    assert best_edits(votes) == [("p", "a")]
    assert {vote.kind for vote in counted(votes)} == {"person"}
    assert best_edits([person("p", ""), *reference("p", "b")]) == []  # not even where people reject all
    assert best_edits(votes, kind="reference") == [("p", "b"), ("q", "c")]
    assert best_edits(reference("p", "b"), kind="person") == []


def test_choosing_nothing_is_refused() -> None:
    for count, per_prompt in ((0, 1), (None, 0)):
        with pytest.raises(ConfigError, match="set them to 1 or more"):
            best_edits([person("p", "a")], count, per_prompt=per_prompt)


def test_nothing_ranked_is_nothing_chosen() -> None:
    assert best_edits([]) == []
    assert agreement([]) is None


def test_agreement_is_one_for_the_same_order_and_less_for_another() -> None:
    same = agreement([person("p", "abcd", "x"), person("p", "abcd", "y")])
    swapped = agreement([person("p", "abcd", "x"), person("p", "abdc", "y")])
    reverse = agreement([person("p", "abcd", "x"), person("p", "dcba", "y")])
    assert same == 1
    assert reverse == pytest.approx(-1)
    assert swapped is not None
    assert -1 < swapped < 1
    assert agreement([person("p", "", "x"), person("p", "", "y")]) == 1
    assert agreement([person("p", "", "x"), person("p", "a", "y")]) == 0
    assert agreement([person("p", "a", "x"), person("q", "a", "y")]) is None


def test_lots_agree_no_more_than_chance() -> None:
    rng = Random(0)
    votes = [person(f"p{i}", "".join(rng.sample(SHOWN, 4)), name) for i in range(300) for name in ("x", "y")]
    found = agreement(votes)
    assert found is not None
    assert abs(found) < 0.1


def test_the_reference_picks_what_beats_the_source_left_alone() -> None:
    scores = {"p": {"a": 0.2, "b": 0.9, "c": 0.6, "d": 0.8}, "q": {"a": 0.3, "b": 0.3}, "r": {"a": 0.5, "b": 0.4}}
    found = rank(scores, floors={"p": 0.1, "q": 0.3}, threshold=0.45, round_id="r1", when=NOON)
    assert [(r.key, r.edits, r.rejected) for r in found] == [
        ("p", ("b", "d"), False),
        ("q", (), True),
        ("r", ("a",), False),
    ]
    assert {(r.annotator, r.kind, r.round, r.when) for r in found} == {(REFERENCE, "reference", "r1", NOON)}


@pytest.mark.parametrize("seed", range(10))
def test_the_reference_keeps_its_rules_on_any_scores(seed: int) -> None:
    rng = Random(seed)
    scores = {f"p{i}": {e: round(rng.random(), 1) for e in SHOWN} for i in range(8)}
    floors = {key: rng.random() for key in scores}
    for found in rank(scores, floors=floors, when=NOON):
        given = scores[found.key]
        assert len(found.edits) <= 2
        assert all(given[edit] > floors[found.key] for edit in found.edits)
        left = [given[edit] for edit in SHOWN if edit not in found.edits]
        assert all(given[edit] >= max(left) for edit in found.edits)
        assert found.edits == tuple(sorted(found.edits, key=lambda edit: (-given[edit], edit)))


def test_the_control_draws_as_many_edits_of_the_same_prompts() -> None:
    scores = {f"p{i:02}": {"a": 0.9, "b": 0.8, "c": 0.1, "d": 0.0} for i in range(40)}
    picked = rank(scores, floors={"p00": 1.0}, when=NOON)
    drawn = random_picks(picked, seed=1)
    assert [(r.key, len(r.edits), r.rejected) for r in drawn] == [(r.key, len(r.edits), r.rejected) for r in picked]
    assert drawn == random_picks(reversed(picked), seed=1)
    assert drawn[3:5] == random_picks(picked[3:5], seed=1)
    assert drawn != random_picks(picked, seed=2)
    firsts = [r.edits[0] for r in drawn if r.edits]
    assert set(firsts) == set(SHOWN)
    assert {(r.annotator, r.kind) for r in drawn} == {("random annotator", "reference")}


def test_scores_that_rank_nothing_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="edit b of prompt p has no truth score"):
        rank({"p": {"a": 0.5, "b": float("nan")}})
    with pytest.raises(DataError, match="prompt p has no edits"):
        rank({"p": {}})
    with pytest.raises(ConfigError, match="picks=0"):
        rank({"p": {"a": 1.0}}, picks=0)
    unknown = Ranking(key="p", edits=("a",), annotator=REFERENCE, kind="reference", when=NOON)
    with pytest.raises(DataError, match="which edits were shown"):
        random_picks([unknown], seed=0)
