"""The page of a training: what it learned, what it drew, and what it cost."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from instructdiffusion.pipelines.pages import benchmarks, evaluation, training
from instructdiffusion.pipelines.work import table

DOCUMENT = {
    "steps": 9,
    "triplets": 50,
    "triplets_per_second": 4.5,
    "processes": 2,
    "seconds": 61.0,
    "mixture": {"task": {"remove": {"declared": 0.25, "drawn": 0.26}, "add": {"declared": 0.75, "drawn": 0.74}}},
    "curve": [{"step": 9, "loss": 0.5, "gradient_norm": 0.125, "waiting": 0.02, "memory_gib": 1.53}],
    "run": {"name": "train"},
}


@pytest.fixture
def sheets(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"step-{step:07d}.png" for step in range(1, 10)]
    for file in files:
        Image.new("RGB", (30, 20)).save(file)
    return files


def test_a_training_shows_its_loss_its_gauges_and_its_mixture() -> None:
    page = training(DOCUMENT, "train")
    assert page.count("<figure") == 1
    for part in ("gradient norm", "0.125", "memory, GiB", "1.5", "25.0%", "26.0%"):
        assert part in page
    assert "GPU" not in page  # there was none
    assert "Samples" not in page


@pytest.mark.parametrize(("count", "shown"), [(1, [1]), (2, [1, 2]), (9, [1, 3, 6, 9])])
def test_a_few_sheets_are_shown_from_the_first_to_the_last(count: int, shown: list[int], sheets: list[Path]) -> None:
    page = training(DOCUMENT, "train", sheets[:count])
    assert [int(step) for step in re.findall(r"<figcaption>samples: step-(\d+)", page)] == shown


def test_a_training_of_an_earlier_version_has_its_page_too() -> None:
    old = {name: value for name, value in DOCUMENT.items() if name != "mixture"} | {"curve": [{"step": 9, "loss": 0.5}]}
    assert "gradient norm" not in training(old, "train")


def test_a_task_without_a_score_is_shown_with_the_reason(tmp_path: Path) -> None:
    found = {"tasks": {}, "missing": {"remove": "there are no samples"}, "autoencoder": (39.0, 38.5, 39.5)}
    (tmp_path / "evaluation.json").write_text(json.dumps(found))
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(table(found))
    for shown in (console.export_text(), evaluation(tmp_path, "scores")):
        assert re.search(r"remove\W.*missing\W.*there are no samples", shown, re.DOTALL)
    (tmp_path / "evaluation.json").write_text(json.dumps({"tasks": {}}))  # of an earlier version
    assert "remove" not in evaluation(tmp_path, "scores")


@pytest.mark.parametrize(("low", "color"), [(31.5, "green"), (30.5, "default")])
def test_the_table_of_scores_ends_with_what_the_autoencoder_keeps_beside_its_bar(low: float, color: str) -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    shown = table({"tasks": {}, "autoencoder": (32.0, low, 33.0)})
    console.print(shown)
    last = console.export_text().rstrip().splitlines()[-1]
    assert last.split() == ["autoencoder", "psnr", "32.00", f"{low:.2f}", "to", "33.00", "31"]
    assert [*shown.columns[2].cells] == [f"[{color}]32.00[/]"]


def test_a_bound_of_fewer_samples_says_of_how_many() -> None:
    value = {"value": 0.5, "low": 0.4, "high": 0.6, "floor": 0.1, "bound": 0.9, "n": 8}
    assert "0.90 (of 3)" in benchmarks({"keypoints": {"values": {"pck": {**value, "bound_n": 3}}}})
    assert "(of" not in benchmarks({"keypoints": {"values": {"pck": value}}})
