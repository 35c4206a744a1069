"""Options of the loss and of what learns, each against its equation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from instructdiffusion.model import lora, network, recipes
from instructdiffusion.model.config import Diffusion, Lora, Run, parse
from instructdiffusion.model.diffusion import Objective, add_noise, min_snr_weight, offset, predict_target
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.initial import from_text_to_image
from instructdiffusion.model.network import Guidance, Model, scheduler_for
from instructdiffusion.model.sampler import sample


class Silent(nn.Module):
    """A U-Net that says nothing, so that the loss is what was wanted of it."""

    def forward(self, sample: Tensor, t: Tensor, text: Tensor) -> UNet2DConditionOutput:
        return UNet2DConditionOutput(sample=torch.zeros_like(sample[:, : sample.shape[1] // 2]))


def losses(diffusion: Diffusion, scale: float = 1.0, source: float = 0.0, target: float = 1.0) -> Tensor:
    """Of many samples under a fixed seed, by a U-Net that says nothing."""
    objective = Objective(Silent(), None, torch.zeros(3, 5), scheduler_for(diffusion), diffusion, scale=scale)
    here, there = torch.full((64, 4, 4, 4), source), torch.full((64, 4, 4, 4), target)
    loss_B: Tensor = objective(
        here, there, torch.zeros(64, 3, 5), torch.zeros(1, 3, dtype=torch.long), torch.Generator().manual_seed(1)
    )
    return loss_B


def times(count: int) -> Tensor:
    """The time steps that the losses above are drawn at."""
    return (torch.rand(count, generator=torch.Generator().manual_seed(1)) * 1000).long()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_each_time_once(prediction: str) -> None:
    plain = Diffusion.model_validate({"prediction": prediction, "schedule": "scaled_linear"})
    weighed = plain.model_copy(update={"min_snr": 5.0})
    alpha = scheduler_for(plain).alphas_cumprod[times(64)]
    snr = alpha / (1 - alpha)
    wanted = {
        "epsilon": snr.clamp(max=5) / snr,
        "v_prediction": snr.clamp(max=5) / (snr + 1),
        "sample": snr.clamp(max=5),
    }[prediction]
    assert torch.allclose(losses(weighed) / losses(plain), wanted, rtol=1e-4)
    assert wanted.min() < 0.5


def test_predicting_the_change_of_the_source_counts_as_predicting_the_target() -> None:
    diffusion = Diffusion(from_source=True, min_snr=5.0)
    t = torch.tensor([0, 999])
    assert min_snr_weight(t, scheduler_for(diffusion), diffusion)[0] == 5
    assert min_snr_weight(t, scheduler_for(diffusion), diffusion)[1] < 0.01


def test_the_stretched_schedule_ends_in_nothing_but_noise_and_begins_as_before() -> None:
    plain = scheduler_for(Diffusion(prediction="v_prediction"))
    stretched = scheduler_for(Diffusion(prediction="v_prediction", zero_terminal_snr=True))
    assert plain.alphas_cumprod[-1] > 1e-3
    assert stretched.alphas_cumprod[-1] == 0
    assert stretched.alphas_cumprod[0] == pytest.approx(float(plain.alphas_cumprod[0]), rel=1e-4)
    noise = torch.randn(1, 4, 4, 4)
    assert torch.equal(add_noise(torch.ones(1, 4, 4, 4), noise, torch.tensor([999]), stretched), noise)
    with pytest.raises(ConfigError, match="needs prediction=v_prediction"):
        parse({"name": "x", "diffusion": {"zero_terminal_snr": True}})


@pytest.mark.parametrize("steps", [1, 4])
def test_a_perfect_network_is_sampled_to_the_target_from_nothing_but_noise(stable_diffusion: Path, steps: int) -> None:
    diffusion = Diffusion(prediction="v_prediction", zero_terminal_snr=True)
    model = from_text_to_image(stable_diffusion, diffusion, resolution=32)
    wanted = torch.randn(1, 4, 8, 8)

    class Knows(nn.Module):
        device = torch.device("cpu")

        def forward(self, sample: Tensor, t: Tensor, text: Tensor) -> UNet2DConditionOutput:
            a = model.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
            noise = (sample[:, :4] - a.sqrt() * wanted) / (1 - a).sqrt()
            return UNet2DConditionOutput(sample=a.sqrt() * noise - (1 - a).sqrt() * wanted)

    model.unet = Knows()
    made = sample(model, torch.zeros(1, 4, 8, 8), model.text(["a"]), [0], Guidance(steps=steps))
    assert torch.allclose(made * model.scale, wanted, atol=1e-4)


def test_a_sample_that_loses_its_summary_keeps_its_words(tiny: Model) -> None:
    torch.nn.init.normal_(tiny.unet.conv_out.weight, std=0.1)
    source = torch.randn(4, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    text, tokens = tiny.text(["Remove the red ball."] * 4), tiny.tokens([""])

    def loss(drop: float, told: Tensor = text) -> Tensor:
        diffusion = tiny.diffusion.model_copy(update={"drop_pooled": drop, "drop_text": 0.0, "drop_image": 0.0})
        objective = Objective(tiny.unet, None, tiny.text([""])[0], tiny.scheduler, diffusion)
        loss_B: Tensor = objective(source, source + 1, told, tokens, torch.Generator().manual_seed(1))
        return loss_B.detach()

    whole, words = loss(0.0), loss(1.0)
    assert not torch.equal(whole, words)
    assert not torch.equal(words, loss(1.0, tiny.text(["Add a blue cat."] * 4)))
    with torch.no_grad():
        tiny.unet.add_embedding.proj.weight.mul_(2)
    assert torch.equal(words, loss(1.0))
    assert not torch.equal(whole, loss(0.0))
    assert not tiny.unet.add_embedding._forward_hooks  # what it was trained with is gone


def test_a_network_without_a_summary_can_not_lose_it() -> None:
    with pytest.raises(ConfigError, match="drop_pooled needs a U-Net that is given pooled text"):
        losses(Diffusion(drop_pooled=0.5))


def test_offset_noise_is_one_number_more_a_channel() -> None:
    noise = torch.randn(200, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    more = offset(noise, 0.5, torch.Generator().manual_seed(1)) - noise
    assert torch.allclose(more, more[..., :1, :1].expand_as(more), atol=1e-6)
    assert more[..., 0, 0].std() == pytest.approx(0.5, abs=0.05)
    assert (more[0, :, 0, 0] != more[0, 0, 0, 0]).any()


def test_offset_noise_reaches_the_loss_and_changes_nothing_when_off() -> None:
    plain, stronger = Diffusion(), Diffusion(offset_noise=1.0)
    assert torch.equal(losses(plain), losses(Diffusion(offset_noise=0.0)))
    assert losses(stronger).mean() == pytest.approx(2, abs=0.3)  # noise of 1 a pixel and 1 a channel
    assert losses(plain).mean() == pytest.approx(1, abs=0.1)


def test_the_change_of_a_source_is_counted_from_the_source_in_the_targets_scale() -> None:
    diffusion = Diffusion(from_source=True, focus=1.0, drop_image=0.0)
    assert losses(diffusion, scale=0.25, source=4.0, target=1.0).max() == 0
    assert losses(diffusion, scale=0.25, source=1.0, target=1.0).min() == pytest.approx(0.75**2)
    scheduler: DDIMScheduler = scheduler_for(diffusion)
    ones = torch.ones(1, 4, 2, 2)
    assert torch.equal(predict_target(ones, ones, 2 * ones, torch.tensor([0]), scheduler, diffusion), 3 * ones)


def test_checkpointing_changes_no_gradient(stable_diffusion: Path) -> None:
    found = []
    for keeps in (True, False):
        model = from_text_to_image(stable_diffusion, resolution=32)
        unet = model.unet.train().requires_grad_(True)
        if not keeps:
            unet.enable_gradient_checkpointing()
        unet(torch.ones(1, 8, 8, 8), torch.tensor([5]), torch.ones(1, 16, 32)).sample.square().mean().backward()
        found.append([p.grad for p in unet.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 100
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


@pytest.fixture
def adapted(stable_diffusion: Path) -> Model:
    """A model with adapters that have learnt something."""
    model = from_text_to_image(stable_diffusion, resolution=32)
    lora.add(model.unet, Lora(rank=2, alpha=4))
    with torch.no_grad():
        for name, weight in model.unet.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def answer(model: Model) -> Tensor:
    """What the U-Net says to a fixed input."""
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said: Tensor = model.unet.eval()(noise, torch.tensor([500]), torch.ones(1, 16, 32)).sample
    return said


def test_adapters_start_as_nothing_and_they_alone_learn(stable_diffusion: Path) -> None:
    model = from_text_to_image(stable_diffusion, resolution=32)
    before = answer(model)
    lora.add(model.unet, Lora(rank=2))
    assert torch.equal(answer(model), before)
    learning = {name for name, weight in model.unet.named_parameters() if weight.requires_grad}
    assert learning
    assert all(".lora_" in name for name in learning)
    assert any(name.startswith("conv_in.") for name in learning)  # or the source would never be seen
    with pytest.raises(ConfigError, match=r"lora\.targets=nothing"):
        lora.add(from_text_to_image(stable_diffusion).unet, Lora(rank=2, targets=("nothing",)))


def test_merged_adapters_say_the_same_in_a_plain_network(
    adapted: Model, stable_diffusion: Path, tmp_path: Path
) -> None:
    with_adapters = answer(adapted)
    lora.save(adapted.unet, tmp_path / "adapter")
    plain = from_text_to_image(stable_diffusion, resolution=32)
    assert not torch.allclose(answer(plain), with_adapters, atol=1e-3)
    lora.load(plain.unet, tmp_path / "adapter")
    assert torch.allclose(answer(plain), with_adapters, atol=1e-6)
    for model in (adapted, plain):
        lora.merge(model.unet)
        assert torch.allclose(answer(model), with_adapters, atol=1e-5)
    loaded = network.load(network.save(plain, tmp_path / "model"))
    kept, merged = loaded.unet.state_dict(), plain.unet.state_dict()
    assert kept.keys() == merged.keys()
    assert all(torch.equal(kept[name], merged[name]) for name in merged)
    assert torch.allclose(answer(loaded), answer(plain), atol=1e-6)  # where weights lie in memory moves the last bits


def test_adapters_of_another_network_are_refused(adapted: Model, tiny: Model, tmp_path: Path) -> None:
    lora.save(adapted.unet, tmp_path / "adapter")
    with pytest.raises(DataError, match="don't fit this model"):
        lora.load(tiny.unet, tmp_path / "adapter")
    with pytest.raises(DataError, match=r"holds no pytorch_lora_weights\.safetensors"):
        lora.load(tiny.unet, tmp_path)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_a_run_that_could_be_written_by_hand(name: str) -> None:
    run = recipes.recipe(name)
    assert parse(run.model_dump()) == run
    assert run.name == name
    assert isinstance(run, Run)


def test_stage_one_sees_no_source_and_keeps_its_words() -> None:
    for run in (recipes.adapt(), recipes.small_adapt(), recipes.paper_adapt()):
        assert (run.diffusion.drop_image, run.diffusion.drop_text) == (1, 0)
