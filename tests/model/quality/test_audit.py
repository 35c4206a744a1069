"""Audits: an even draw, blind, and shares that are right when the verdicts are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.quality.audit import DRAWN, PICTURES, VERDICTS, draw, score
from instructdiffusion.model.quality.filtering import filter_shards
from instructdiffusion.model.quality.policy import Policy
from instructdiffusion.model.synthesis.write import synthesize


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, out = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("filtered")
    synthesize(made, split="train", counts={"remove": 24, "denoise": 4, "keypoint": 12}, size=32, seed=0, workers=1)
    filter_shards(made, out, Policy.read("rules: [{name: shows, score: psnr, below: 23}]\nname: own"))
    return out


def judge(audit: Path, said: dict[str, str]) -> None:
    """Fill in the verdicts by number."""
    with (audit / VERDICTS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (audit / VERDICTS).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "verdict": said.get(row["number"], "")} for row in rows)


def test_rare_rules_and_tasks_are_drawn_too_and_nothing_gives_the_filter_away(filtered: Path, tmp_path: Path) -> None:
    drawn = draw(filtered, tmp_path, count=12, seed=0)
    strata = {(each.rule, each.task) for each in drawn}
    assert len(drawn) == 12
    assert {task for _, task in strata} == {"remove", "denoise", "keypoint"}
    assert {rule for rule, _ in strata} == {"", "shows"}
    assert sum(each.weight for each in drawn) == pytest.approx(40)
    text = (tmp_path / VERDICTS).read_text()
    assert "shows" not in text
    assert len(text.splitlines()) == 13
    assert {path.name for path in (tmp_path / PICTURES).iterdir()} == {f"{each.number}.png" for each in drawn}
    assert Image.open(tmp_path / PICTURES / "001.png").size == (68, 32)
    assert draw(filtered, tmp_path / "again", count=12, seed=0) == drawn


def test_a_filter_that_people_agree_with_is_perfect_and_one_that_they_contradict_is_not(
    filtered: Path, tmp_path: Path
) -> None:
    drawn = draw(filtered, tmp_path, count=40, seed=0)
    agreed = {each.number: "bad" if each.rule else "good" for each in drawn}
    judge(tmp_path, agreed)
    found = score(tmp_path)
    assert (found["judged"], found["left"]) == (len(drawn), 0)
    assert found["precision"]["value"] == found["recall"]["value"] == found["rules"]["shows"]["value"] == 1

    kept = [each.number for each in drawn if not each.rule]
    judge(tmp_path, {**dict.fromkeys(agreed, "good"), kept[0]: "bad"})
    found = score(tmp_path)
    assert found["precision"]["value"] == pytest.approx(1 - 1 / len(kept))
    assert found["recall"]["value"] == pytest.approx((len(kept) - 1) / (len(drawn) - 1))
    assert found["rules"]["shows"]["value"] == 0
    assert found["precision"]["low"] <= found["precision"]["value"] <= found["precision"]["high"]


def test_a_verdict_counts_for_all_that_it_stands_for(tmp_path: Path) -> None:
    rows = [("001", "", 9.0), ("002", "", 1.0)]
    drawn = [{"number": n, "key": n, "task": "remove", "rule": rule, "weight": w} for n, rule, w in rows]
    (tmp_path / DRAWN).write_text(json.dumps(drawn))
    (tmp_path / VERDICTS).write_text("number,instruction,verdict\n001,a,good\n002,b,Bad \n")
    assert score(tmp_path)["precision"]["value"] == pytest.approx(0.9)


def test_an_audit_that_nobody_judged_says_nothing(filtered: Path, tmp_path: Path) -> None:
    draw(filtered, tmp_path, count=5, seed=0)
    found = score(tmp_path)
    assert (found["judged"], found["left"], found["precision"], found["recall"]) == (0, 5, None, None)


def test_a_verdict_of_another_word_is_named(filtered: Path, tmp_path: Path) -> None:
    draw(filtered, tmp_path, count=5, seed=0)
    judge(tmp_path, {"002": "maybe"})
    with pytest.raises(DataError, match=r"verdicts\.csv: number 002 is called 'maybe'; write good or bad"):
        score(tmp_path)
    with pytest.raises(DataError, match="holds no audit"):
        score(tmp_path / "gone")
