"""What every task promises. A new task is tested by being there."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from instructdiffusion.model.colors import MARKS, OBJECTS, TINTS, nearest
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.task import Ask, Task
from instructdiffusion.model.tasks import TASKS, task_named, understand
from instructdiffusion.model.tasks.keypoint import FEW, radius_of
from instructdiffusion.model.words import word_tokenizer

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
SEEDS = range(8)


@every_task
@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_task_paints_it_can_read_back(task: Task, seed: int) -> None:
    rng = Random(seed)
    source, label = task.toy(rng)
    ask = task.ask(label, rng)
    target = task.paint(source, label, ask)
    score = task.score(target, source, label, ask)[task.metric.name]
    assert score > (0.95 if task.metric.bar < 1 else 2 * task.metric.bar)


@every_task
def test_doing_nothing_scores_below_half_the_floor_of_a_useful_model(task: Task) -> None:
    rng = Random(3)
    scores = []
    for _ in range(60):
        source, label = task.toy(rng)
        ask = task.ask(label, rng)
        scores.append(task.score(source, source, label, ask)[task.metric.name])
    assert np.mean(scores) < 0.5 * task.metric.bar


@every_task
def test_a_seed_repeats(task: Task) -> None:
    def once() -> tuple[bytes, Ask, bytes]:
        rng = Random(11)
        source, label = task.toy(rng)
        ask = task.ask(label, rng)
        return source.tobytes(), ask, task.paint(source, label, ask).tobytes()

    assert once() == once()


@every_task
def test_a_label_that_lacks_something_is_refused_by_name(task: Task) -> None:
    _, label = task.toy(Random(0))
    for key in task.needs:
        partial = {k: v for k, v in label.items() if k != key}
        with pytest.raises(DataError, match=f"{task.name} label needs '{key}'"):
            task.ask(partial, Random(0))


@every_task
def test_ten_different_instructions_are_written_by_hand(task: Task) -> None:
    assert len(set(task.templates)) >= 10


@every_task
def test_an_instruction_is_understood_as_what_was_asked(task: Task) -> None:
    rng = Random(2)
    for _ in range(30):
        _, label = task.toy(rng)
        ask = task.ask(label, rng)
        assert understand(ask.instruction) == ask


@every_task
def test_the_tokenizer_knows_every_word_and_cuts_none_off(task: Task) -> None:
    tokenizer = word_tokenizer(60)
    rng = Random(4)
    for _ in range(50):
        _, label = task.toy(rng)
        words = tokenizer(task.ask(label, rng).instruction)["input_ids"]
        assert tokenizer.unk_token_id not in words
        assert len(words) <= 60


def test_nonsense_is_not_understood() -> None:
    assert understand("What is the capital of France?") is None


def test_an_unknown_task_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="keypoint"):
        task_named("sing")


def test_a_disc_has_the_papers_radius_and_never_less_than_a_cell() -> None:
    assert radius_of(256) == 10
    assert radius_of(512) == 20
    assert radius_of(64) == 3.5


def test_some_training_scenes_have_few_joints_annotated_and_no_test_scene_has() -> None:
    toy = Studio.toy()
    train, test = (
        [len(TASKS["keypoint"].stage(studio, Random(seed))[1]["joints"]) for seed in range(300)]
        for studio in (replace(toy, split="train"), toy)
    )
    few = [float(np.mean(np.array(joints) <= 2)) for joints in (train, test)]
    assert few[0] == pytest.approx(FEW, abs=0.05)
    assert few[1] < 0.05
    assert {1, 2, 5} <= {*train}


def test_every_colour_is_nearest_to_itself_and_one_word_is_one_colour() -> None:
    for palette in (MARKS, TINTS, OBJECTS):
        assert all(nearest(np.array(value, float), palette) == name for name, value in palette.items())
    assert {name: MARKS[name] for name in set(MARKS) & set(TINTS)} == {
        name: TINTS[name] for name in set(MARKS) & set(TINTS)
    }
