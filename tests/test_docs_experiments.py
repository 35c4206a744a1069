"""docs/experiments.md and the code say the same, and what an experiment tells is what its numbers allow."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from commands import ran
from markdown_it import MarkdownIt
from rich.console import Console

from instructdiffusion.model.effects import Effect, effect, paragraph
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.synthesis.write import compose
from instructdiffusion.model.tasks import TASKS
from instructdiffusion.pipelines.experiments import EXPERIMENTS, FULL, SMOKE, amounts, page, run, shortened, since
from instructdiffusion.pipelines.report import effects_plot

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "experiments.md").read_text()
LINES = [line for t in MarkdownIt("commonmark").parse(TEXT) if t.info == "sh" for line in t.content.splitlines()]

better = effect("denoise", "dB", [[1.0, 2.0, 4.0], [1.1, 2.0, 4.2]], [[0.5, 1.5, 3.0], [0.5, 1.6, 3.0]])
luck = effect("remove", "dB", [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [[0.0, 1.0, 2.0], [1.5, 2.5, 3.5]])
worse = effect("add", "share", [[0.0, 0.1, 0.0], [0.0, 0.1, 0.0]], [[1.0, 1.0, 0.9], [1.0, 0.8, 0.9]])


def test_every_experiment_is_explained_and_has_a_command() -> None:
    assert EXPERIMENTS.keys() == FULL.keys()
    assert {line.split()[2] for line in LINES} == EXPERIMENTS.keys()
    assert all(f"| `{name}` |" in TEXT for name in EXPERIMENTS)
    assert all(size.seeds >= 3 for size in FULL.values())


def test_an_effect_is_told_only_where_interval_and_every_seed_agree() -> None:
    assert (better.told, luck.told, worse.told) == ("above", "neither", "below")
    assert luck.low > 0  # the samples alone would have told otherwise
    assert better.by_seed == pytest.approx((2 / 3, 11 / 15))
    assert better.arms[0] - better.arms[1] == pytest.approx(better.value)


def test_a_claim_that_the_numbers_do_not_carry_is_called_so() -> None:
    told = {
        name: paragraph("A beats B", "A", "B", effects, "Here")
        for name, effects in {"all": [better], "part": [better, luck], "no": [luck], "against": [better, worse]}.items()
    }
    assert "Here, it holds." in told["all"]
    assert "Here, it holds in part." in told["part"]
    assert "Neither is shown for remove" in told["part"]
    assert "Here, it does not hold." in told["no"]
    assert "Here, it does not hold." in told["against"]
    assert "A is below B for add (-0.9" in told["against"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_the_docs_show_is_what_the_experiment_found(name: str) -> None:
    kept = DOCS / "experiments" / name
    found = json.loads((kept / "experiment.json").read_text())
    assert {field: found[field] for field in asdict(FULL[name])} == asdict(FULL[name])
    effects = [Effect.model_validate(each) for each in found["effects"]]
    assert (kept / "experiment.md").read_text() == page(name, effects, found["paragraph"])
    assert f"(experiments/{name}/experiment.svg)" in TEXT
    assert f"(experiments/{name}/experiment.md)" in TEXT


def test_a_tuning_that_makes_both_arms_worse_is_told_so() -> None:
    curve = {"picked": [{"amount": 8, "value": -0.01, "low": -0.02, "high": -0.005}], "by lot": [
        {"amount": 8, "value": -0.03, "low": -0.04, "high": -0.02},
    ]}  # fmt: skip
    told = since(curve)
    assert told.startswith("Since before the tuning, after its 8 steps: picked -0.01 (-0.02 to -0.005), by lot -0.03 (")


def test_arms_of_other_samples_are_refused() -> None:
    with pytest.raises(DataError, match="not of the same samples and seeds"):
        effect("x", "", [[1.0, 2.0]], [[1.0]])


def test_the_page_has_paragraph_plot_and_every_number() -> None:
    text = page("multitask", [better, worse], "What came out.")
    assert "What came out." in text
    assert "experiment.svg" in text
    assert "+0.667, +0.733" in text
    curve = {"picked": [{"amount": n, "value": n / 9, "low": 0.0, "high": 1.0} for n in (0, 10)]}
    assert effects_plot([better]) != effects_plot([better], curve)


@pytest.mark.parametrize("task", TASKS)
def test_a_short_instruction_keeps_what_distinguishes_the_sample(task: str) -> None:
    triplet = compose(Studio.open(64, "test"), task, "0/short/0")
    words = shortened(triplet).ask.instruction
    assert words.split()[0] == task
    assert len(words.split()) < len(triplet.ask.instruction.split()) + 2
    assert all(pair[-1] in words for pair in triplet.ask.marks)
    assert str(triplet.label.get("phrase", "")) in words


def test_tunings_are_halves_of_the_longest() -> None:
    assert amounts(80) == [10, 20, 40, 80]
    assert amounts(2) == [1, 2]


def test_a_folder_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(DataError, match="experiment of other settings"):
        run("alignment", tmp_path, replace(SMOKE, steps=3), Console())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("line", LINES)
def test_every_command_of_the_page_runs_and_goes_on(line: str, tmp_path: Path) -> None:
    for _ in range(2):
        ended = ran(f"{line} --json", tmp_path)
        assert ended.exit_code == 0, ended.stderr[-2000:]
    told = json.loads(ended.stdout)
    assert told["effects"]
    assert told["paragraph"].startswith("The claim: ")
    folder = tmp_path / shlex.split(line)[-1]
    assert (folder / "experiment.svg").read_text().count("<svg") == 1
    assert told["paragraph"] in (folder / "experiment.md").read_text()
