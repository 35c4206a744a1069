"""From candidates to rankings, and from rankings to a data set for the alignment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructdiffusion.components import collect, rank
from instructdiffusion.labeling.rankings import FILE, RANDOM, REFERENCE, Ranking, read, write
from instructdiffusion.model.candidates import CANDIDATES
from instructdiffusion.model.data.png import encode_png
from instructdiffusion.model.data.shards import MANIFEST, Triplet, read_triplets
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.synthesis.write import synthesize

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Proposed:
    """A data set and candidates whose best edit is known: the target itself, but for one hopeless prompt."""

    shards: Path
    candidates: Path
    best: dict[str, str]  # id of the edit that is the target, by prompt
    edits: dict[str, list[str]]
    hopeless: str


def candidates_of(triplets: list[Triplet], hopeless: str, shards: Path, folder: Path) -> Proposed:
    best: dict[str, str] = {}
    prompts: list[dict[str, Any]] = []
    for triplet in triplets:
        gray = np.full_like(triplet.source, 128)
        half = ((triplet.source.astype(int) + triplet.target) // 2).astype(np.uint8)
        pictures = [gray, gray // 2] if triplet.key == hopeless else [gray, half, triplet.target]
        edits: list[dict[str, Any]] = []
        for picture in pictures:
            data = encode_png(picture)
            name = hashlib.sha256(data).hexdigest()
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
            (folder / "pictures" / f"{name}.png").write_bytes(data)
            edits.append({"id": name, "picture": f"pictures/{name}.png", "seed": 1, "steps": 2})
        best[triplet.key] = edits[-1]["id"]
        ask = {"task": triplet.ask.task, "instruction": triplet.ask.instruction, "marks": triplet.ask.marks}
        prompts.append({"key": triplet.key, **ask, "source": "", "edits": edits})
    document = {"shards": digest_of(shards / "manifest.json"), "model": "sha256:m", "prompts": prompts}
    (folder / "candidates.json").write_text(json.dumps(document))
    ids = {prompt["key"]: [edit["id"] for edit in prompt["edits"]] for prompt in prompts}
    return Proposed(shards, folder, best, ids, hopeless)


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> Proposed:
    folder = tmp_path_factory.mktemp("proposed")
    synthesize(folder / "data", split="train", counts={"remove": 4, "denoise": 2}, size=32, seed=0)
    triplets = list(read_triplets(folder / "data"))
    hopeless = next(t.key for t in triplets if t.ask.task == "denoise")  # flat gray is worse than any noise
    return candidates_of(triplets, hopeless, folder / "data", folder / "candidates")


def test_the_reference_finds_the_truth_and_rejects_what_is_worse_than_nothing(
    proposed: Proposed, tmp_path: Path
) -> None:
    made = rank.run(proposed.candidates, proposed.shards, tmp_path / "ranked", round_id="r1")
    found = {ranking.key: ranking for ranking in read(made.path / FILE)}
    assert found.keys() == proposed.best.keys()
    assert found[proposed.hopeless].rejected
    for key, ranking in found.items():
        assert (ranking.annotator, ranking.kind, ranking.round) == (REFERENCE, "reference", "r1")
        assert set(ranking.shown) == set(proposed.edits[key])
        if key != proposed.hopeless:
            assert ranking.edits[0] == proposed.best[key]
    assert made.facts["prompts"] == 6
    assert made.facts["rejected"] == 1
    assert made.facts["people"] == 0
    assert made.facts["annotators"] == {REFERENCE: 6}
    again = rank.run(proposed.candidates, proposed.shards, tmp_path / "ranked", round_id="r1")
    assert again.digest == made.digest  # done once: a later time would change it


def test_a_threshold_leaves_fewer(proposed: Proposed, tmp_path: Path) -> None:
    few = rank.run(proposed.candidates, proposed.shards, tmp_path / "few", threshold=1.0)
    assert few.facts["picked"] == 0
    one = rank.run(proposed.candidates, proposed.shards, tmp_path / "one", picks=1)
    assert one.facts["picked"] == 5


def test_the_control_picks_as_many_by_lot(proposed: Proposed, tmp_path: Path) -> None:
    picked = rank.run(proposed.candidates, proposed.shards, tmp_path / "reference")
    drawn = [
        rank.run(proposed.candidates, proposed.shards, tmp_path / f"r{seed}", annotator="random", seed=seed)
        for seed in range(3)
    ]
    for made in drawn:
        assert made.facts["picked"] == picked.facts["picked"]
        assert made.facts["annotators"] == {RANDOM: 6}
    assert len({tuple(r.edits for r in read(made.path / FILE)) for made in drawn}) > 1
    with pytest.raises(ConfigError, match="choose reference or random or label-studio or people"):
        rank.run(proposed.candidates, proposed.shards, tmp_path / "x", annotator="nobody")


@pytest.mark.parametrize("annotator", ["label-studio", "people"])
def test_ranking_in_label_studio_needs_one(annotator: str, proposed: Proposed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Label Studio is set"):
        rank.run(proposed.candidates, proposed.shards, tmp_path / "x", annotator=annotator)


def test_other_shards_than_the_candidates_are_refused(proposed: Proposed, tmp_path: Path) -> None:
    synthesize(tmp_path / "other", split="train", counts={"denoise": 1}, size=32, seed=9)
    with pytest.raises(DataError, match="rank with the data set they were proposed from"):
        rank.run(proposed.candidates, tmp_path / "other", tmp_path / "out")


def test_collected_triplets_have_the_best_edit_as_their_target(proposed: Proposed, tmp_path: Path) -> None:
    ranked = rank.run(proposed.candidates, proposed.shards, tmp_path / "ranked")
    made = collect.run(proposed.candidates, ranked.path, proposed.shards, tmp_path / "out")
    truth = {t.key: t for t in read_triplets(proposed.shards)}
    found = list(read_triplets(made.path))
    assert {t.provenance["picked"] for t in found} == {
        edit for key, edit in proposed.best.items() if key != proposed.hopeless
    }
    for triplet in found:
        (original,) = [t for key, t in truth.items() if triplet.key.startswith(f"{key}-")]
        assert np.array_equal(triplet.source, original.source)
        assert np.array_equal(triplet.target, original.target)
    told = made.facts["report"]["rankings"]
    assert (told["kind"], told["people"], told["annotators"]) == ("reference", 0, {REFERENCE: 6})
    assert told["late"] == 0
    assert made.facts["parents"] == [digest_of(proposed.shards / MANIFEST)]
    assert made.facts["settings"] == {"candidates": digest_of(proposed.candidates / CANDIDATES)}
    again = collect.run(proposed.candidates, ranked.path / FILE, proposed.shards, tmp_path / "out")
    assert again.digest == made.digest


def test_two_edits_a_prompt_and_a_count_at_most(proposed: Proposed, tmp_path: Path) -> None:
    ranked = rank.run(proposed.candidates, proposed.shards, tmp_path / "ranked").path
    where = proposed.candidates, ranked, proposed.shards
    one = collect.run(*where, tmp_path / "one")
    two = collect.run(*where, tmp_path / "two", per_prompt=2)
    three = collect.run(*where, tmp_path / "three", per_prompt=2, count=3)
    totals = [sum(made.facts["counts"].values()) for made in (one, two, three)]
    assert totals[0] == 5 < totals[1]
    assert totals[2] == 3


def person(key: str, edit: str, name: str = "ana", shown: Sequence[str] = ()) -> Ranking:
    return Ranking(key=key, edits=(edit,), shown=tuple(shown), annotator=name, kind="person", when=NOON)


def test_people_outvote_the_reference_and_the_report_says_so(proposed: Proposed, tmp_path: Path) -> None:
    ranked = read(rank.run(proposed.candidates, proposed.shards, tmp_path / "ranked").path / FILE)
    key = next(key for key in proposed.best if key != proposed.hopeless)
    worst = proposed.edits[key][0]
    people = [person(key, worst, name, proposed.edits[key]) for name in ("ana", "bo")]
    write(tmp_path / "all.jsonl", [*ranked, *people, person("gone", "x")])
    made = collect.run(proposed.candidates, tmp_path / "all.jsonl", proposed.shards, tmp_path / "out")
    assert [t.provenance["picked"] for t in read_triplets(made.path)] == [worst]
    told = made.facts["report"]["rankings"]
    assert (told["kind"], told["people"], told["annotators"]) == ("person", 2, {"ana": 1, "bo": 1})
    assert told["late"] == 1  # of a prompt that these candidates don't have
    assert told["agreement"] == 1


def test_a_ranking_of_another_round_is_late(proposed: Proposed) -> None:
    key = proposed.hopeless
    this, other = person(key, proposed.edits[key][0]), person(key, "an edit of last week")
    assert collect.of_candidates([other, this], proposed.edits) == [this]


def test_rankings_that_choose_nothing_are_refused_with_the_fix(proposed: Proposed, tmp_path: Path) -> None:
    rejected = Ranking(key=proposed.hopeless, rejected=True, annotator="ana", kind="person", when=NOON)
    for rankings, told in (
        ([], "holds no rankings; rank some first"),
        ([person("gone", "x")], "ranks none of .*; pull that round"),
        ([rejected], "calls no edit of .* good enough; propose more edits"),
    ):
        write(tmp_path / "r.jsonl", rankings)
        with pytest.raises(DataError, match=told) as caught:
            collect.run(proposed.candidates, tmp_path / "r.jsonl", proposed.shards, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
