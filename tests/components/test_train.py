"""The train step for real: a tiny model, DeepSpeed, two ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instructdiffusion.components import encode, synthesize, train
from instructdiffusion.model.errors import ServiceError
from instructdiffusion.model.files import digest_of

pytest.importorskip("deepspeed")


class Heard:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.done: list[tuple[int, int]] = []

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.steps.append(step)

    def progress(self, done: int, total: int, text: str) -> None:
        self.done.append((done, total))

    def image(self, name: str, picture: Any) -> None:
        raise AssertionError("this training shows no pictures")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny untrained model, and latents under it."""
    from instructdiffusion.model import network
    from instructdiffusion.model.data.shards import read_triplets
    from instructdiffusion.model.recipes import smoke

    folder, run = tmp_path_factory.mktemp("prepared"), smoke()
    counts = {"remove": 4, "denoise": 4}
    shards = synthesize.run(folder / "shards", split="train", counts=counts, size=run.network.size, seed=0).path
    pictures = (triplet.source for triplet in read_triplets(shards))
    model = network.save(network.create(run.network, run.diffusion, pictures), folder / "model")
    return encode.run(shards, model, folder / "latents", states=not run.train_text).path, model


@pytest.mark.slow
def test_a_training_runs_once_and_another_one_never_gets_its_weights(
    prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    from instructdiffusion.model.recipes import smoke

    (data, model), out, heard, run = prepared, tmp_path / "out", Heard(), smoke()
    weights = train.run(run, data, out, model=model, report=heard)
    steps = run.optim.steps
    assert heard.done[-1] == (steps, steps)
    assert heard.steps == list(range(1, steps + 1))
    assert digest_of(weights) != digest_of(model)
    assert json.loads((out / "training.json").read_text())["processes"] == 2

    again = Heard()
    assert train.run(run, data, out, model=model, report=again) == weights
    assert again.steps == []

    wrong = run.model_copy(update={"train_text": False})  # the latents hold tokens, no states
    with pytest.raises(ServiceError, match=r"rank 0 ended with .*train_text=False; encode again") as caught:
        train.run(wrong, data, out, model=model, processes_per_node=1)
    assert "\n" not in str(caught.value)
    assert not weights.exists()
    assert not (out / "DONE").exists()
