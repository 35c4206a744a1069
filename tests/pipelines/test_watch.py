"""`instructdiffusion train watch`: a look at a training's folder, whatever state that is in."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from instructdiffusion.model import curve, recipes
from instructdiffusion.pipelines.cli import app
from instructdiffusion.pipelines.watch import look, sparkline


def watch(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["train", "watch", *map(str, arguments)])


def begin(folder: Path) -> Path:
    """What a training of the smoke recipe writes before its first step."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(recipes.smoke().model_dump_json())
    return folder


def tell(folder: Path, step: int) -> None:
    losses = {"loss": 1 / step, "loss/remove": 1 / step, "loss/denoise": 0.5}
    gauges = {"gradient_norm": 0.25, "average_distance": 0.01, "waiting": 0.125, "memory_gib": 1.5}
    curve.append(folder, {"step": step, "seconds": 10.0 * step, **losses, **gauges, "mixture/task/remove": 0.75})


def test_a_look_tells_how_far_a_training_is_and_its_newest_sheet(tmp_path: Path) -> None:
    folder = begin(tmp_path / "out")
    for step in (1, 2):
        tell(folder, step)
    (folder / "samples").mkdir()
    for step in (2, 4):
        (folder / f"samples/step-000000{step}.png").touch()
    shown = watch(folder, "--once").stdout
    for part in ("smoke in", "2 of 4 steps", "20.0 s left", "denoise", "0.5000", "75.0%", "█▁", "waiting 12.5%"):
        assert part in shown
    assert "step-0000004.png" in "".join(shown.split("\n"))
    facts = json.loads(watch(folder, "--json").stdout)
    assert (facts["step"], facts["steps"], facts["seconds_left"], facts["done"]) == (2, 4, 20.0, False)
    assert facts["metrics"]["loss"] == 0.5


def test_a_training_that_has_told_nothing_yet_can_be_looked_at(tmp_path: Path) -> None:
    assert "0 of 4 steps" in watch(begin(tmp_path / "out"), "--once").stdout


def test_half_a_line_is_none_until_it_is_whole_and_no_line_after_it_is_lost(tmp_path: Path) -> None:
    folder = begin(tmp_path / "out")
    tell(folder, 1)
    with (folder / curve.CURVE).open("a") as file:
        file.write('{"step": 2, "lo')  # as when it was killed in the middle
    assert look(folder).step == 1
    tell(folder, 3)
    assert [row["step"] for row in look(folder).rows] == [1, 3]


def test_of_a_step_that_was_done_twice_the_later_counts(tmp_path: Path) -> None:
    for step, loss in ((1, 0.5), (2, 0.4), (2, 0.3)):
        curve.append(tmp_path, {"step": step, "loss": loss})
    assert [row["loss"] for row in curve.read(tmp_path)] == [0.5, 0.3]


def test_the_command_looks_on_while_another_trains_and_ends_with_it(tmp_path: Path) -> None:
    folder = begin(tmp_path / "out")

    def train() -> None:
        for step in (1, 2, 3, 4):
            tell(folder, step)
            time.sleep(0.05)
        (folder / "training.json").write_text("{}")

    thread = threading.Thread(target=train)
    thread.start()
    shown = watch(folder, "--every", "0.1")
    thread.join()
    assert shown.exit_code == 0
    assert "4 of 4 steps" in shown.stdout
    assert "done in 40.0 s" in shown.stdout


def test_the_command_on_the_page_about_trainings_is_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs/training.md").read_text()
    (command,) = re.findall(r"^instructdiffusion train watch (\S+)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (begin(tmp_path / command) / "training.json").write_text("{}")
    assert "done" in watch(command).stdout


def test_the_folder_that_a_training_was_started_with_leads_to_its_newest(tmp_path: Path) -> None:
    begin(tmp_path / "first")
    newest = begin(tmp_path / "jobs" / "second")
    tell(newest, 1)
    assert json.loads(watch(tmp_path, "--json").stdout)["folder"] == str(newest)


@pytest.mark.parametrize(("content", "told"), [(None, "holds no training"), ('{"name": 3', "can't be read")])
def test_a_folder_without_a_training_is_one_line_that_names_it(content: str | None, told: str, tmp_path: Path) -> None:
    if content:
        (tmp_path / "run.json").write_text(content)
    ended = watch(tmp_path, "--once")
    assert ended.exit_code == 3
    assert told in ended.stderr
    assert str(tmp_path) in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_sparkline_goes_from_the_lowest_to_the_highest_and_fits() -> None:
    assert sparkline([0, 7]) == "▁█"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([float("nan")]) == ""
    assert sparkline(range(100), 8) == "▁▂▃▄▅▆▇█"
