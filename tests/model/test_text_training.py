"""The base's text encoder learns to read before it sees a picture."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from instructdiffusion.model import network, text_training
from instructdiffusion.model.config import override
from instructdiffusion.model.network import Model
from instructdiffusion.model.recipes import recipe
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.task import Ask
from instructdiffusion.model.tasks import TASKS


@pytest.fixture
def model() -> Model:
    run = override(recipe("smoke"), ["network.text_width=64", "network.text_layers=2"])
    pictures = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    return network.create(run.network, run.diffusion, list(pictures))


def test_what_is_told_stands_at_the_last_word_of_each_thing(model: Model) -> None:
    dots = Ask("keypoint", "On the dog, put a red dot on the front paw and a blue dot on the tail.", (
        ("front paw", "red"), ("tail", "blue"),
    ))  # fmt: skip
    swap = Ask("recolour", "Paint the green car pink.", (("color", "pink"), ("phrase", "green car")))
    tokens, where, words = text_training.lesson(model.tokenizer, [dots, swap], model.tokens)
    told = [model.tokenizer.convert_ids_to_tokens([int(tokens[row, at])])[0] for row, at in where]
    assert told == ["paw", "tail", "pink", "car"]
    vocabulary = [*model.tokenizer.convert_ids_to_tokens(range(len(model.tokenizer))), *text_training.SLOTS]
    found = [{vocabulary[i] for i in row.nonzero().flatten().tolist()} for row in words]
    assert found == [{"front", "paw", "red"}, {"tail", "blue"}, {"pink", "color"}, {"green", "car", "phrase"}]


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.family != "restoration"])
def test_every_task_names_something_that_is_found_in_its_instruction(name: str, model: Model) -> None:
    rng, studio = Random(0), Studio.open(32, "train")
    for _ in range(5):
        _, label = TASKS[name].stage(studio, rng)
        ask = TASKS[name].ask(label, rng)
        _, where, _ = text_training.lesson(model.tokenizer, [ask], model.tokens)
        assert len(where) == len(ask.marks) > 0


def test_it_learns_and_says_how_far_it_is(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_training, "BATCH", 12)
    before = {name: weight.clone() for name, weight in model.text_encoder.named_parameters()}
    lines = list[tuple[int, int, str]]()
    text_training.train(model, steps=30, progress=lambda *line: lines.append(line))
    assert [line[:2] for line in lines] == [(done, 30) for done in range(1, 31)]
    first, last = (float(lines[at][2].split()[1].rstrip(",")) for at in (0, -1))
    assert last < first / 2
    assert all(not weight.requires_grad for weight in model.text_encoder.parameters())
    assert any(not weight.equal(before[name]) for name, weight in model.text_encoder.named_parameters())
