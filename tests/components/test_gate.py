"""The gate's rule on planted evaluations, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructdiffusion.components import gate
from instructdiffusion.components.gate import Verdict, verdict
from instructdiffusion.components.policy import Margins
from instructdiffusion.model.errors import ConfigError, DataError

LEVELS = {"segmentation": 0.6, "remove": 9.0, "denoise": 5.0, "add": 0.7}  # mean score of a task
ROOM = {"segmentation": 1.0, "remove": 20.0, "denoise": 8.0, "add": 1.0}
NOISE = 0.1  # of a sample, as a share of the task's room


def evaluation(
    model: str = "new", seed: int = 0, shifts: Mapping[str, float] | None = None, *, n: int = 200
) -> dict[str, Any]:
    """Scores whose tasks differ from `LEVELS` by `shifts`, as a share of the task's room.

    What is hard about a sample is the same for every model; `seed` varies what a model makes of it.
    """
    hard, own = np.random.default_rng(99), np.random.default_rng(seed)
    tasks = {}
    for task, level in LEVELS.items():
        noise = hard.normal(0, 2 * NOISE, n) + own.normal(0, NOISE, n) + (shifts or {}).get(task, 0.0)
        scores = level + ROOM[task] * noise
        row = {"metric": "m", "value": float(scores.mean()), "floor": 0.0, "bound": ROOM[task], "n": n}
        tasks[task] = {**row, "scores": scores.tolist()}
    return {"tasks": tasks, "model": model, "data": "sha256:d"}


EVERYWHERE = dict.fromkeys(LEVELS, 0.1)


def refused(found: Verdict) -> list[str]:
    return [row.task for row in found.rows if not row.passed]


def test_a_challenger_that_is_better_everywhere_passes() -> None:
    found = verdict(evaluation("new", 1, EVERYWHERE), evaluation("old", 2))
    assert found.passed
    assert not found.reasons
    assert found.rise.low > 0
    assert (found.challenger, found.champion, found.data) == ("new", "old", "sha256:d")


@pytest.mark.parametrize("task", LEVELS)
def test_one_task_that_falls_refuses_the_rest(task: str) -> None:
    found = verdict(evaluation("new", 1, {**EVERYWHERE, task: -0.1}), evaluation("old", 2))
    assert found.rise.low > 0
    assert not found.passed
    assert refused(found) == [task]
    assert found.reasons[0].startswith(f"{task} is below the champion")


@pytest.mark.parametrize("task", LEVELS)
def test_a_task_below_its_floor_is_refused_whatever_the_champion_does(task: str) -> None:
    down = -LEVELS[task] / ROOM[task] - 0.1
    champion = evaluation("old", 2, {task: down - 0.3})
    found = verdict(evaluation("new", 1, {**EVERYWHERE, task: down}), champion)
    assert not found.passed
    assert refused(found) == [task]
    assert "below its floor" in found.reason


def test_equal_models_keep_the_champion() -> None:
    found = verdict(evaluation("new"), evaluation("old"))
    assert not found.passed
    assert refused(found) == []
    assert (found.rise.value, found.rise.low, found.rise.high) == (0, 0, 0)
    assert "does not rise" in found.reason


def test_noise_hardly_ever_promotes_and_hardly_ever_accuses() -> None:
    found = [verdict(evaluation("new", 2 * i + 1), evaluation("old", 2 * i + 2)) for i in range(40)]
    assert sum(one.passed for one in found) <= 4  # one in forty is expected
    assert sum(bool(refused(one)) for one in found) <= 4


def test_noise_in_one_task_is_no_regression() -> None:
    found = verdict(evaluation("new", 1, {**EVERYWHERE, "add": -0.005}), evaluation("old", 2))
    assert found.passed


def test_the_same_scores_give_the_same_verdict() -> None:
    pair = evaluation("new", 1, EVERYWHERE), evaluation("old", 2)
    assert verdict(*pair) == verdict(*pair)


def test_the_first_model_must_beat_doing_nothing() -> None:
    assert verdict(evaluation(), None).passed
    idle = evaluation()
    for row in idle["tasks"].values():
        row["scores"] = [0.0] * row["n"]
    found = verdict(idle, None)
    assert not found.passed
    assert found.champion == ""
    assert "doing nothing" in found.reason


def test_a_task_that_the_challenger_was_not_tried_on_is_refused() -> None:
    challenger, champion = evaluation("new", 1, EVERYWHERE), evaluation("old", 2)
    del challenger["tasks"]["remove"]
    assert verdict(challenger, champion).reasons == ("remove was not evaluated, the champion was",)
    new_task = verdict(evaluation("new", 1, EVERYWHERE), {**champion, "tasks": {"add": champion["tasks"]["add"]}})
    assert new_task.passed
    assert [row.task for row in new_task.rows if row.over_champion is None] == ["segmentation", "remove", "denoise"]


def test_margins_decide_what_passes() -> None:
    challenger, champion = evaluation("new", 1, {**EVERYWHERE, "add": -0.05}), evaluation("old", 2)
    assert refused(verdict(challenger, champion)) == ["add"]
    assert verdict(challenger, champion, Margins(loss=0.1)).passed
    assert not verdict(challenger, champion, Margins(loss=0.1, rise=0.2)).passed
    assert not verdict(challenger, champion, Margins(loss=0.1, aligned=("add",))).passed
    with pytest.raises(ConfigError, match="upscale, which was not evaluated"):
        verdict(challenger, champion, Margins(aligned=("upscale",)))


def test_a_task_without_room_does_not_drown_the_others() -> None:
    challenger, champion = evaluation("new", 1, EVERYWHERE), evaluation("old", 2)
    for side in (challenger, champion):
        side["tasks"]["denoise"]["bound"] = 1e-9
    assert abs(verdict(challenger, champion).rise.value) < 1


def test_one_sample_and_no_spread_are_judged_without_a_crash() -> None:
    assert verdict(evaluation("new", 1, EVERYWHERE, n=1), evaluation("old", 1, n=1)).passed
    assert verdict(evaluation("new", 1, EVERYWHERE), evaluation("old", 1)).passed


def test_evaluations_that_do_not_compare_are_refused_by_name() -> None:
    fine = evaluation()
    spoilt = evaluation()
    spoilt["tasks"]["add"]["scores"][3] = float("nan")
    for challenger, champion, told in (
        (fine, {**fine, "data": "sha256:e"}, "of different data"),
        (fine, evaluation(n=100), "evaluated in two ways"),
        (spoilt, fine, "a score of add is missing or not a number"),
        ({**fine, "tasks": {}}, None, "holds no task"),
    ):
        with pytest.raises(DataError, match=told):
            verdict(challenger, champion)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of the evaluations of a champion and of a better challenger."""
    for name, content in (("old", evaluation("old", 2)), ("new", evaluation("<new>", 1, EVERYWHERE))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(content))
    return tmp_path / "old", tmp_path / "new"


def test_the_step_writes_the_verdict_and_a_page(files: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = files
    made = gate.run(new, old, tmp_path / "out")
    assert made.facts["passed"]
    assert made.facts["reason"].startswith("no task fell")
    assert Verdict.model_validate_json((tmp_path / "out" / "verdict.json").read_text()).passed
    page = (tmp_path / "out" / "verdict.html").read_text()
    assert "The challenger passes" in page
    assert "&lt;new&gt;" in page
    assert page.count("<tr") == 1 + len(LEVELS)
    assert gate.run(new, old, tmp_path / "out").digest == made.digest
    assert not gate.run(old, new, tmp_path / "swapped").facts["passed"]
    assert gate.run(new / "evaluation.json", None, tmp_path / "first").facts["passed"]


def test_an_evaluation_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(DataError, match="is no evaluation; run the evaluate step again"):
        gate.run(tmp_path, None, tmp_path / "out")
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(DataError, match="run the evaluate step again"):
        gate.run(tmp_path, None, tmp_path / "out")
