"""Training without a cache of latents, and wherever the networks are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from instructdiffusion.model import recipes
from instructdiffusion.model.config import override
from instructdiffusion.model.data.latents import Latents, encode
from instructdiffusion.model.data.live import Live, open_batches
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.diffusion import Objective
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.network import Guidance, Model
from instructdiffusion.model.report import Silent
from instructdiffusion.model.sampler import sample


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "curve.jsonl").read_text().splitlines()]


@pytest.mark.xdist_group("training in the tests' own process")
@pytest.mark.usefixtures("alone")
def test_a_training_without_a_cache_draws_the_same_and_loses_the_same(
    shards: Path, latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    from instructdiffusion.model.train import train

    run = override(recipes.smoke(), ["optim.micro_batch=4"])
    for name, data in (("cached", latents), ("live", shards)):
        train(run, data, tiny_folder, tmp_path / name, Silent())
    assert losses(tmp_path / "live") == pytest.approx(losses(tmp_path / "cached"), rel=1e-3)  # a cache has 16 bits


@pytest.mark.parametrize("tokens", [True, False])
def test_every_triplet_is_found_in_its_shard_under_the_number_that_a_cache_has(
    tokens: bool, shards: Path, tiny: Model, tmp_path: Path
) -> None:
    encode(shards, tiny, tmp_path, states=not tokens)
    cached, live = Latents.open(tmp_path), open_batches(shards, tiny, tokens)
    assert isinstance(live, Live)
    assert live.tasks.tolist() == cached.tasks.tolist()
    assert [*live.heaps] == [*cached.heaps]
    numbers = [len(live) - 1, 0, 5]
    for one, other in zip(live.batch(numbers), cached.batch(numbers), strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=2e-3, atol=2e-3)


def test_a_data_set_that_the_model_can_not_take_is_refused(shards: Path, tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    Manifest.load(shards).model_copy(update={"size": 16}).save(tmp_path / "small")
    with pytest.raises(DataError, match="pictures of 16 pixels, the model takes 32"):
        open_batches(tmp_path / "small", tiny, True)
    Manifest.load(shards).save(tmp_path / "small")
    with pytest.raises(DataError, match="is missing"):
        open_batches(tmp_path / "small", tiny, True)


@pytest.mark.parametrize("text", [True, False])
def test_a_step_computes_where_the_weights_are(text: bool, tiny: Model) -> None:
    """On the device `meta`, which computes nothing and refuses tensors of another device, as a GPU does."""
    source, target = (torch.zeros(2, 12, 8, 8, device="meta") for _ in range(2))
    tiny.to(torch.device("meta"))
    tiny.unet.requires_grad_(True)
    tokens = tiny.tokens(["a", "b"]).to("meta")
    states, null = torch.zeros(2, 60, 32, device="meta"), torch.zeros(60, 32, device="meta")
    encoder = tiny.text_encoder if text else None
    objective = Objective(tiny.unet, encoder, None if text else null, tiny.scheduler, tiny.diffusion)
    loss = objective.to("meta")(source, target, tokens if text else states, tokens[:1], torch.Generator())
    loss.mean().backward()
    assert loss.device.type == "meta"
    assert tiny.unet.conv_in.weight.grad is not None


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_sampling_computes_where_the_weights_are(prediction: str, tiny: Model) -> None:
    tiny.to(torch.device("meta"))
    diffusion = tiny.diffusion
    if prediction == "epsilon":
        diffusion = diffusion.model_copy(update={"prediction": "epsilon", "from_source": False, "gate": False})
        tiny.unet.conv_out = torch.nn.Conv2d(tiny.unet.conv_out.in_channels, 12, 3, padding=1, device="meta")
    tiny.diffusion = diffusion
    source = tiny.encode([torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()] * 2)
    made = sample(tiny, source, tiny.text(["a", "b"]), [1, 2], Guidance(steps=2, text=3.0))
    assert made.device.type == "meta"
    assert made.shape == source.shape
