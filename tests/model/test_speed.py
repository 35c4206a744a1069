"""How a training computes: chosen by measurement or told, kept, and the same loss whatever was chosen."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from instructdiffusion.model import device, network, recipes, speed
from instructdiffusion.model.config import Optim, Run, override
from instructdiffusion.model.data.ahead import ahead
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.diffusion import Objective
from instructdiffusion.model.errors import Interrupted
from instructdiffusion.model.loss_scale import FIRST, GROWS, LEAST, LossScale
from instructdiffusion.model.network import Model
from instructdiffusion.model.report import Silent
from instructdiffusion.model.speed import Speed, Way, fastest, measured, use, ways


@pytest.fixture
def objective(tiny: Model) -> Objective:
    """The loss of the tiny model, all of which learns."""
    for part in (tiny.unet, tiny.text_encoder):
        part.requires_grad_(True)
    return Objective(tiny.unet, tiny.text_encoder, None, tiny.scheduler, tiny.diffusion)


def batch(nets: Model, count: int = 2) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(1)
    source, target = (torch.randn(count, 12, 8, 8, generator=rng) for _ in range(2))
    return source, target, nets.tokens(["remove the red car"] * count), nets.tokens([""])


def gradients(objective: Objective, some: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
    objective.zero_grad()
    loss = objective(*some, torch.Generator().manual_seed(2)).mean()
    (loss if objective.loss_scale is None else loss * objective.loss_scale.factor).backward()
    return loss.detach(), [p.grad.clone() for p in objective.parameters() if p.grad is not None]


@pytest.mark.parametrize("way", ways(Optim(), 64), ids=str)
def test_every_way_that_is_tried_here_computes_the_same(way: Way, objective: Objective, tiny: Model) -> None:
    some = batch(tiny)
    use(Way(attention="plain"), objective)
    loss, wanted = gradients(objective, some)
    use(way, objective)
    found, same = gradients(objective, some)
    rtol, atol = (1e-4, 1e-5) if way.precision == "fp32" else (0.1, 0.02)
    for one, other in zip([found, *same], [loss, *wanted], strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def test_what_is_not_open_is_not_tried() -> None:
    told = Optim(attention="fused", precision="fp16", layout="channels_last")
    assert ways(told, 64) == [Way(attention="fused", precision="fp16", layout="channels_last")]
    left = ways(Optim(attention="plain"), 64)
    assert {way.attention for way in left} == {"plain"}
    assert ("bf16" in {way.precision for way in left}) == device.fast_bf16()
    assert {way.attention for way in ways(Optim(), 4096)} == {"fused"}  # plain holds 16 million numbers a head there


@pytest.mark.parametrize(("fast", "usual"), [(True, Way(attention="plain", precision="bf16")), (False, Way())])
def test_a_cpu_without_bf16_usually_computes_with_the_fused_kernel(
    fast: bool, usual: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "fast_bf16", lambda: fast)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ways(Optim(), 64)[0] == usual


def test_the_usual_way_is_taken_unless_another_is_faster_by_more_than_chance() -> None:
    usual, other = Way(attention="plain"), Way(attention="fused")
    assert fastest({usual: 1.0, other: 0.99}) == usual
    assert fastest({usual: 1.0, other: 0.9}) == other


def test_measuring_leaves_no_gradients_and_changes_no_weight(objective: Objective, tiny: Model) -> None:
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    seconds = measured(ways(Optim(), 64), objective, batch(tiny))
    assert all(value > 0 for value in seconds.values())
    assert [p for p in objective.parameters() if p.grad is not None] == []
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_halves_lose_about_the_same_and_their_small_gradients_do_not_vanish(objective: Objective, tiny: Model) -> None:
    some = batch(tiny)
    loss, wanted = gradients(objective, some)
    use(Way(attention="plain", precision="fp16"), objective)
    objective.loss_scale = LossScale(objective.parameters())
    found, same = gradients(objective, some)
    assert objective.precision == torch.float16
    torch.testing.assert_close(found, loss, rtol=0.02, atol=0)
    for one, other in zip(same, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.02 * float(other.abs().max()) + 1e-6)


def test_an_overflow_stays_no_number_and_halves_the_scale_which_grows_again() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    scale = LossScale([weight])
    torch.autograd.backward((weight * torch.tensor([1.0, float("inf"), 2.0]) * scale.factor).sum())
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0, float("inf"), 2.0]
    assert scale.shrink()
    assert scale.factor == FIRST / 2
    for _ in range(GROWS):
        scale.grow()
    assert scale.factor == FIRST
    assert [scale.shrink() for _ in range(17)] == [True] * 16 + [False]  # then it is not to blame
    assert scale.factor == LEAST
    assert {"factor", "fine"} == set(scale.state_dict())  # a checkpoint holds both


def test_what_is_read_ahead_is_what_is_asked_for_in_turn(latents: Path) -> None:
    opened, parts = Latents.open(latents), [[0, 3], [7, 1], [2, 2]]
    for overlap in (False, True):
        read = list(ahead(opened, iter(parts), torch.device("cpu"), overlap))
        assert [part for part, *_ in read] == parts
        for part, *tensors in read:
            assert all(torch.equal(one, other) for one, other in zip(tensors, opened.batch(part), strict=True))
    assert list(ahead(opened, [], torch.device("cpu"), overlap=True)) == []


def test_what_can_not_be_read_ahead_is_said_when_it_is_asked_for(latents: Path) -> None:
    stream = ahead(Latents.open(latents), [[0], [10**6]], torch.device("cpu"), overlap=True)
    assert next(stream)[0] == [0]
    with pytest.raises(IndexError):
        next(stream)


class Stopping(Silent):
    """Stops a training by its own signal after its first step."""

    def progress(self, done: int, total: int, text: str) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def trained(run: Run, *rest: Any) -> dict[str, Tensor]:
    pytest.importorskip("deepspeed")
    from instructdiffusion.model.train import train

    after: dict[str, Tensor] = network.load(train(run, *rest)).unet.state_dict()
    return after


@pytest.mark.xdist_group("training in the tests' own process")
@pytest.mark.usefixtures("alone")
def test_a_training_keeps_what_it_chose_and_is_resumed_with_it_to_the_last_bit(
    latents: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = override(
        recipes.smoke(),
        ["optim.micro_batch=4", f"optim.steps={speed.SOON}", "optim.attention=fused", "samples_every=0"],
    )
    free = override(told, ["optim.attention=auto", "optim.precision=auto", "optim.layout=auto"])
    caplog.set_level(logging.INFO)
    (kept := tmp_path / "cut" / speed.FILE).parent.mkdir()

    kept.write_text(Speed(machine="another", way=Way(attention="fused")).model_dump_json())
    with pytest.raises(Interrupted):
        trained(free, latents, tiny_folder, tmp_path / "cut", Stopping())
    assert caplog.text.count("this training computes with") == 1
    chosen = Speed.model_validate_json(kept.read_text())
    assert chosen.machine == device.kind()  # of another machine, nothing is taken over
    assert {str(way) for way in ways(free.optim, 64)} == set(chosen.seconds)

    kept.write_text(chosen.model_copy(update={"way": Way(attention="fused")}).model_dump_json())
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    caplog.clear()
    with pytest.raises(Interrupted):
        trained(free, latents, tiny_folder, tmp_path / "cut", Stopping())
    cut = trained(free, latents, tiny_folder, tmp_path / "cut", Silent())
    assert "this training computes with" not in caplog.text
    whole = trained(told, latents, tiny_folder, tmp_path / "whole", Silent())
    assert all(torch.equal(value, whole[name]) for name, value in cut.items())
    assert json.loads((tmp_path / "cut" / "training.json").read_text())["way"]["attention"] == "fused"

    trained(override(free, ["optim.steps=1"]), latents, tiny_folder, tmp_path / "short", Silent())
    assert not Speed.model_validate_json((tmp_path / "short" / speed.FILE).read_text()).seconds


@pytest.mark.slow
@pytest.mark.xdist_group("training in the tests' own process")
@pytest.mark.usefixtures("alone")
def test_halves_train_however_weights_are_split(latents: Path, tiny_folder: Path, tmp_path: Path) -> None:
    def losses(name: str, *settings: str) -> list[float]:
        run = override(recipes.smoke(), ["optim.steps=2", *settings])
        after = trained(run, latents, tiny_folder, tmp_path / name, Silent())
        assert all(value.isfinite().all() for value in after.values())
        assert any(not torch.equal(value, before[part]) for part, value in after.items())
        return [row["loss"] for row in json.loads((tmp_path / name / "training.json").read_text())["curve"]]

    before = network.load(tiny_folder).unet.state_dict()
    wanted = losses("single")
    for stage in (0, 2, 3):
        found = losses(str(stage), "optim.precision=fp16", f"optim.zero_stage={stage}")
        assert found == pytest.approx(wanted, rel=0.02)
        assert found != wanted


@pytest.mark.xdist_group("training in the tests' own process")
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("first", "then"), [("fp32", "fp16"), ("fp16", "fp32")])
def test_a_training_goes_on_in_another_precision(
    first: str, then: str, latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    few = ["optim.steps=3", "samples_every=0"]
    begun, gone_on = (override(recipes.smoke(), [*few, f"optim.precision={name}"]) for name in (first, then))
    with pytest.raises(Interrupted):
        trained(begun, latents, tiny_folder, tmp_path / "begun", Stopping())
    # As if the machine had chosen, and now another: a precision that is told in the run may not change.
    shutil.copytree(tmp_path / "begun" / "checkpoints", tmp_path / "on" / "checkpoints")
    trained(gone_on, latents, tiny_folder, tmp_path / "on", Silent())
    trained(begun, latents, tiny_folder, tmp_path / "whole", Silent())
    on, whole = (json.loads((tmp_path / name / "training.json").read_text())["curve"] for name in ("on", "whole"))
    assert [row["step"] for row in on] == [2, 3]
    assert [row["loss"] for row in on] == pytest.approx([row["loss"] for row in whole[1:]], rel=0.02)


@pytest.mark.xdist_group("training in the tests' own process")
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("stage", [0, 1])
def test_queries_and_keys_learn_at_their_share_of_the_rate(
    stage: int, latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    settings = ["optim.micro_batch=4", f"optim.zero_stage={stage}", "optim.weight_decay=0", "samples_every=0"]
    before = network.load(tiny_folder).unet.state_dict()

    def moved(share: float, kind: str) -> float:
        run = override(recipes.smoke(), [*settings, f"optim.attention_rate={share}"])
        after = trained(run, latents, tiny_folder, tmp_path / f"{share}", Silent())
        name = f"mid_block.attentions.0.transformer_blocks.0.attn2.{kind}.weight"
        return float((after[name] - before[name]).abs().max())

    assert moved(1e-6, "to_q") < 1e-7 < 1e-4 < moved(1.0, "to_q")
    assert moved(1e-6, "to_v") > 1e-4
