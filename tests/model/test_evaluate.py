"""Evaluation and candidates, on an untrained model: it does nothing, so its score is the floor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from instructdiffusion.model import network
from instructdiffusion.model.candidates import aligned_shards, load, source_scores, truth_score, truth_scores
from instructdiffusion.model.colors import TINTS
from instructdiffusion.model.data.shards import Manifest, read_triplets
from instructdiffusion.model.errors import DataError, ModelError
from instructdiffusion.model.evaluate import LARGE, MOST, SHEET, SPREAD, Evaluation, evaluate, hands
from instructdiffusion.model.interval import interval
from instructdiffusion.model.metrics.value import NO_SAMPLES
from instructdiffusion.model.network import Guidance, Model
from instructdiffusion.model.propose import propose
from instructdiffusion.model.sheet import GAP
from instructdiffusion.model.slices import sliced
from instructdiffusion.model.synthesis.write import synthesize
from instructdiffusion.model.task import Ask
from instructdiffusion.model.tasks import TASKS


def test_every_task_is_scored_beside_its_floor_and_bound(tiny_folder: Path, shards: Path, tmp_path: Path) -> None:
    evaluation = evaluate(tiny_folder, shards, tmp_path)
    assert set(evaluation.tasks) == set(TASKS)
    for name, score in evaluation.tasks.items():
        assert score.low <= score.value <= score.high
        assert score.n == len(score.scores) == 3
        assert Pillow.open(tmp_path / f"{name}.png").width > 200
        assert set(score.also) == {other.name for other in TASKS[name].also}
        for measure in (score, *score.also.values()):
            assert measure.floor is not None
            assert measure.bound is not None
            assert measure.spec is not None
            assert measure.spec.resolution == 32
            assert sum(value is not None for value in measure.scores) == measure.n
        assert score.spec is not None
        assert score.spec.name == f"{name}/{score.metric}"
    assert Evaluation.model_validate_json((tmp_path / "evaluation.json").read_text()) == evaluation
    assert evaluation.tasks["remove"].also["background"].n == 3
    one_row = Pillow.open(tmp_path / "denoise.png").height - GAP
    assert Pillow.open(tmp_path / SHEET).height == len(TASKS) * one_row + GAP
    again = evaluate(tiny_folder, shards, tmp_path / "again")
    assert again.tasks == evaluation.tasks


def test_what_can_not_be_scored_is_named(tiny: Model, tiny_folder: Path, shards: Path, tmp_path: Path) -> None:
    torch.nn.init.constant_(tiny.unet.conv_out.bias, float("nan"))
    broken = network.save(tiny, tmp_path / "broken")
    with pytest.raises(ModelError, match="pixels that are no numbers; choose another model"):
        evaluate(broken, shards, tmp_path / "of-broken")
    manifest = Manifest.load(shards)
    manifest.model_copy(update={"shards": (), "counts": {}}).save(tmp_path / "empty")
    with pytest.raises(DataError, match="empty holds no triplets"):
        evaluate(tiny_folder, tmp_path / "empty", tmp_path / "of-empty")
    synthesize(tmp_path / "large", split="test", counts={"denoise": 1}, size=64, seed=0, workers=1)
    with pytest.raises(DataError, match="64"):
        evaluate(tiny_folder, tmp_path / "large", tmp_path / "of-large")


def test_a_task_without_samples_is_missing_with_the_reason(tiny_folder: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "few", split="test", counts={"denoise": 1}, size=32, seed=0, workers=1)
    evaluation = evaluate(tiny_folder, tmp_path / "few", tmp_path / "scores")
    assert [*evaluation.tasks] == ["denoise"]
    assert evaluation.missing == dict.fromkeys([name for name in TASKS if name != "denoise"], NO_SAMPLES)
    older = {k: v for k, v in evaluation.model_dump(mode="json").items() if k != "missing"}
    assert Evaluation.model_validate(older).missing == {}


def test_a_task_scores_the_same_in_a_process_of_its_own(tiny_folder: Path, shards: Path, tmp_path: Path) -> None:
    guidance = {"editing": Guidance(steps=2, text=0.8)}
    here = evaluate(tiny_folder, shards, tmp_path / "here", guidance=guidance)
    told: list[tuple[int, int]] = []
    apart = evaluate(
        tiny_folder,
        shards,
        tmp_path / "apart",
        guidance=guidance,
        workers=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert apart == here.model_copy(update={"seconds": apart.seconds})
    assert told == [(3 * n, 3 * len(TASKS)) for n in range(1, len(TASKS) + 1)]
    for name in (SHEET, "remove.png"):
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_few_samples_and_large_models_stay_in_one_process(tmp_path: Path) -> None:
    assert hands(None, SPREAD - 1) == 1
    assert hands(None, SPREAD) == min(MOST, torch.get_num_threads())
    with (tmp_path / "unet.safetensors").open("wb") as file:
        file.truncate(int(LARGE) + 1)  # a hole, which takes no space
    assert hands(tmp_path, SPREAD) == 1


def test_an_interval_holds_the_mean_and_narrows_with_samples() -> None:
    rng = np.random.default_rng(0)
    few, many = (interval(rng.normal(2, 1, n).tolist()) for n in (20, 2000))
    assert few[1] < few[0] < few[2]
    assert (many[2] - many[1]) < 0.3 * (few[2] - few[1])
    assert abs(many[0] - 2) < 0.1
    assert interval([1.0, 1.0]) == (1.0, 1.0, 1.0)


def test_proposed_edits_are_named_by_content_and_become_targets_when_picked(
    tiny_folder: Path, shards: Path, tmp_path: Path
) -> None:
    propose(tiny_folder, shards, tmp_path / "c", count=3, seed=1, limit=1)
    prompts = load(tmp_path / "c")["prompts"]
    assert len(prompts) == len(TASKS)
    scores = truth_scores(tmp_path / "c", shards)
    assert set(scores) == set(source_scores(tmp_path / "c", shards)) == {p["key"] for p in prompts}
    first = prompts[0]
    picked = first["edits"][0]["id"]
    manifest = aligned_shards(tmp_path / "c", shards, {first["key"]: [picked]}, tmp_path / "aligned")
    assert manifest.counts == {first["task"]: 1}
    (triplet,) = read_triplets(tmp_path / "aligned")
    assert triplet.provenance["picked"] == picked
    with pytest.raises(DataError, match="never proposed"):
        aligned_shards(tmp_path / "c", shards, {first["key"]: ["0" * 64]}, tmp_path / "x")
    with pytest.raises(DataError, match="no edit was picked"):
        aligned_shards(tmp_path / "c", shards, {}, tmp_path / "x")
    again = propose(tiny_folder, shards, tmp_path / "d", count=3, seed=1, limit=1)
    assert json.loads(again.read_text()) == load(tmp_path / "c")


def test_a_part_that_fails_is_seen_beside_the_rest(shards: Path) -> None:
    triplets = [t for t in read_triplets(shards) if t.ask.task == "recolour"]
    asked = [replace(triplets[0], ask=Ask("recolour", "Paint it.", (("new", colour),))) for colour in TINTS]
    scored = [(t, float(t.ask.marks[0][1] != "red")) for t in asked * 3]
    parts = sliced(scored)
    assert parts["colour red"] == (0.0, 0.0, 0.0)
    assert {value for name, (value, _, _) in parts.items() if name.startswith("colour") and "red" not in name} == {1.0}
    assert "short instruction" not in parts  # all are


def test_the_truth_scores_above_the_source(shards: Path) -> None:
    triplets = [t for t in read_triplets(shards) if np.any(t.source != t.target)]
    assert all(truth_score(t.target, t) > 0.9 for t in triplets)
    assert all(truth_score(t.source, t) < truth_score(t.target, t) for t in triplets)


def test_an_edit_that_wrecks_the_background_scores_below_the_source(shards: Path) -> None:
    for triplet in read_triplets(shards, tasks=["remove", "replace"]):
        assert truth_score(np.full_like(triplet.source, 128), triplet) < truth_score(triplet.source, triplet)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"caf\xe9", b'{"prompts": [{"key": '])
def test_candidates_that_are_broken_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "candidates.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"candidates\.json is broken \(.*\); delete {tmp_path} and run the propose"):
        load(tmp_path)
