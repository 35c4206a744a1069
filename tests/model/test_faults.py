"""What goes wrong in a training, in one process: it stops in order, its checkpoints whole, and goes on from them."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import overflow, spoil
from resharding import same, state
from safetensors.torch import load_file

from instructdiffusion.model import account, curve, network, recipes
from instructdiffusion.model.config import Run, override
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.engine import deepspeed_config
from instructdiffusion.model.errors import ConfigError, DataError, Interrupted
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.loss_scale import FIRST
from instructdiffusion.model.network import Model
from instructdiffusion.model.report import Silent
from instructdiffusion.model.train import train

pytest.importorskip("deepspeed")
pytestmark = [
    pytest.mark.xdist_group("training in the tests' own process"),
    pytest.mark.usefixtures("alone"),
]


class At(Silent):
    """Does something once when a step is told."""

    def __init__(self, step: int, do: Any) -> None:
        self.step, self.do = step, do

    def progress(self, done: int, total: int, text: str) -> None:
        if done == self.step:
            self.do()


def run_of(*settings: str) -> Run:
    return override(recipes.smoke(), ["optim.micro_batch=4", *settings])


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model/unet/diffusion_pytorch_model.safetensors")


def stop_now() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_training_told_to_stop_saves_and_goes_on_from_the_last_whole_checkpoint_to_the_same_weights(
    latents: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(run_of(), latents, tiny_folder, whole, Silent())
    with pytest.raises(Interrupted, match="after step 3 of 4; the same command goes on") as stopped:
        train(run_of(), latents, tiny_folder, cut, At(3, stop_now))
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    marks = json.loads((cut / "checkpoints/LATEST").read_text())
    assert [mark["step"] for mark in marks] == [3, 2]

    (damaged,) = (cut / "checkpoints" / marks[0]["tag"]).glob("average*")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    train(run_of(), latents, tiny_folder, cut, Silent())
    assert "step-0000003 is damaged; the one before it is taken" in caplog.text
    assert [mark["step"] for mark in json.loads((cut / "checkpoints/LATEST").read_text())] == [2]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(cut).items())


def test_a_disk_that_is_full_ends_the_training_in_one_line_with_the_checkpoint_before_whole(
    latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:  # files can't grow: what a process sees of a full disk, as an error of another number
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))

    try:
        with pytest.raises(DataError, match=r"can't write checkpoint .*step-0000003 .*free space") as caught:
            train(run_of("checkpoint_every=1"), latents, tiny_folder, tmp_path / "out", At(3, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    (newest, _) = json.loads((tmp_path / "out/checkpoints/LATEST").read_text())
    assert newest["step"] == 2
    assert digest_of(tmp_path / "out/checkpoints" / newest["tag"]) == newest["digest"]


def test_an_account_on_a_disk_that_is_full_is_one_line_and_what_was_written_stays(tmp_path: Path) -> None:
    written, (soft, hard) = account.Account(tmp_path, 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    written.add(1, [3, 4])
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
        with pytest.raises(DataError, match=r"can't write .*account-0\.jsonl: .*; free space"):
            written.add(2, [*range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert account.read(tmp_path) == {1: [3, 4]}


def test_triplets_whose_loss_is_no_number_are_left_out_and_too_many_in_a_row_are_kept_and_end_the_training(
    latents: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Latents.open(latents)
    (first, *_) = opened.mixture(0, {}).draws(range(4))
    spoil(latents, [first])
    train(run_of("optim.steps=3"), latents, tiny_folder, tmp_path / "one", Silent())
    assert "step 1 is left out: the loss is a spike or no number for some of triplets" in caplog.text
    assert all(value.isfinite().all() for value in weights(tmp_path / "one").values())

    spoil(latents, range(len(opened)))
    with pytest.raises(DataError, match=r"2 steps in a row .* step 2: the loss .*bad-batch-0\.safetensors"):
        train(run_of("optim.bad_steps=2"), latents, tiny_folder, tmp_path / "all", Silent())
    kept = load_file(tmp_path / "all/bad-batch-0.safetensors")
    assert kept["numbers"].tolist() == opened.mixture(0, {}).draws(range(4, 8))


def test_a_spike_of_the_loss_is_left_out_and_is_none_of_what_is_usual(
    latents: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (number,) = Latents.open(latents).mixture(0, {}).draws(range(9, 10))  # in the third step
    spoil(latents, [number], 1e4)
    train(run_of("optim.spike=50", "diffusion.relative=false"), latents, tiny_folder, tmp_path / "out", Silent())
    assert "step 3 is left out: the loss is a spike or no number" in caplog.text
    losses = [row.get("loss") for row in json.loads((tmp_path / "out/training.json").read_text())["curve"]]
    assert losses[2] is None
    assert all(loss < 100 for loss in losses if loss is not None)
    assert "step 4" not in caplog.text


STAGES = [[f"optim.zero_stage={stage}"] for stage in range(4)]
SOME = [STAGES[0], STAGES[1], pytest.param(STAGES[3], marks=pytest.mark.slow)]
OFFLOADED = ["optim.zero_stage=2", "optim.offload=optimizer"]
HALVES = ["optim.micro_batch=2", "checkpoint_every=1", "samples_every=0"]  # of a step, and all of it is seen


@pytest.mark.parametrize("settings", [*STAGES, OFFLOADED], ids=" ".join)
def test_a_gradient_that_is_no_number_moves_nothing(
    settings: list[str], latents: Path, tiny: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overflow(tiny, {2})  # the first half of the second step
    with pytest.raises(Interrupted, match="after step 2"):
        train(run_of(*HALVES, "account=true", *settings), latents, tiny, tmp_path, At(2, stop_now))
    before, after = state(tmp_path / "checkpoints", 1), state(tmp_path / "checkpoints", 2)
    assert {name.split()[0] for name in before} == {"weight", "average", "exp_avg", "exp_avg_sq"}
    assert same(before, after)
    assert "step 2 is left out: the gradient is no number, though every loss is" in caplog.text
    assert account.read(tmp_path) == {1: Latents.open(latents).mixture(0, {}).draws(range(4)), 2: []}
    assert ["gradient_norm" in row and "loss" in row for row in curve.read(tmp_path)] == [True, False]


@pytest.mark.parametrize("settings", SOME, ids=" ".join)
def test_a_first_step_that_is_left_out_is_saved_and_gone_on_from(
    settings: list[str], latents: Path, tiny: Model, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = {f"weight unet.{name}": value.clone() for name, value in tiny.unet.state_dict().items()}
    overflow(tiny, {1})
    out = tmp_path / "out"
    with pytest.raises(Interrupted, match="after step 1"):
        train(run_of(*HALVES, *settings), latents, tiny, out, At(1, stop_now))
    saved = state(out / "checkpoints", 1)
    assert all(torch.equal(value, saved[name]) for name, value in begun.items())
    assert not any(value.any() for name, value in saved.items() if name.startswith("exp_avg"))
    train(run_of(*HALVES, *settings), latents, tiny_folder, out, Silent())
    assert caplog.text.count("is left out") == 1


@pytest.mark.parametrize("settings", SOME, ids=" ".join)
def test_a_training_that_left_a_step_out_is_resumed_to_the_last_bit(
    settings: list[str], latents: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(latents, Latents.open(latents).mixture(0, {}).draws(range(6, 7)))
    run = run_of(*HALVES, "optim.steps=3", *settings)
    train(run, latents, tiny_folder, tmp_path / "whole", Silent())
    assert caplog.text.count("is left out") == caplog.text.count("step 2 is left out") == 1
    with pytest.raises(Interrupted):
        train(run, latents, tiny_folder, tmp_path / "cut", At(2, stop_now))
    train(run, latents, tiny_folder, tmp_path / "cut", Silent())
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_an_overflow_of_halves_moves_nothing_but_the_scale_and_is_no_bad_step(
    latents: Path, tiny: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overflow(tiny, {2})
    factor = "buffer loss_scale.factor"
    run = run_of(*HALVES, "optim.precision=fp16", "optim.bad_steps=1")
    with pytest.raises(Interrupted, match="after step 2"):
        train(run, latents, tiny, tmp_path, At(2, stop_now))
    assert "step 2 is left out: a gradient is too large for fp16, and the loss scaled by 32768" in caplog.text
    before, after = state(tmp_path / "checkpoints", 1), state(tmp_path / "checkpoints", 2)
    assert [before.pop(factor), after.pop(factor)] == [FIRST, FIRST / 2]
    assert all(torch.equal(value, after[name]) for name, value in before.items() if not name.startswith("buffer"))


def test_gradients_without_numbers_end_a_training_and_so_do_weights_which_no_triplet_is_blamed_for(
    latents: Path, tiny: Model, tiny_folder: Path, tmp_path: Path
) -> None:
    overflow(tiny, set(range(100)))
    with pytest.raises(DataError, match=r"2 steps in a row .* step 2: the gradient is no number, though") as caught:
        train(run_of("optim.bad_steps=2"), latents, tiny, tmp_path / "gradients", Silent())
    assert "\n" not in str(caught.value)
    broken = network.load(tiny_folder)
    with torch.no_grad():
        next(iter(broken.unet.parameters()))[0] = float("nan")
    with pytest.raises(DataError, match="the weights that the training began with are no numbers"):
        train(run_of("optim.bad_steps=2"), latents, broken, tmp_path / "weights", Silent())
    assert not [*tmp_path.glob("*/bad-batch*")]


@pytest.mark.parametrize("settings", SOME, ids=" ".join)
def test_a_training_told_to_stop_within_a_step_forgets_it_and_does_it_again(
    settings: list[str], latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = run_of("optim.steps=3", "optim.micro_batch=2", "account=true", "samples_every=0", *settings)
    stopping, count = network.load(tiny_folder), iter(range(100))
    stopping.unet.register_forward_hook(lambda *_: stop_now() if next(count) == 2 else None)
    with pytest.raises(Interrupted, match="after step 1 of 3"):
        train(run, latents, stopping, tmp_path / "cut", Silent())
    assert next(count) == 3  # nothing was computed after
    assert [*account.read(tmp_path / "cut")] == [1]
    for name in ("cut", "whole"):
        train(run, latents, tiny_folder, tmp_path / name, Silent())
    assert all(
        torch.equal(value, weights(tmp_path / "whole")[name]) for name, value in weights(tmp_path / "cut").items()
    )


def test_a_training_told_to_stop_before_its_first_step_is_done_begins_again(
    latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    stopping = network.load(tiny_folder)
    stopping.unet.register_forward_hook(lambda *_: stop_now())
    with pytest.raises(Interrupted, match="after step 0 of 4"):
        train(run_of("optim.micro_batch=2", "samples_every=0"), latents, stopping, tmp_path / "out", Silent())
    assert not (tmp_path / "out/checkpoints").exists()


@pytest.mark.slow
def test_weights_that_are_split_and_wait_elsewhere_learn_the_same_and_resume(
    latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    train(run_of("optim.zero_stage=0"), latents, tiny_folder, tmp_path / "0", Silent())
    split = run_of("optim.zero_stage=3", "optim.offload=all")
    with pytest.raises(Interrupted):
        train(split, latents, tiny_folder, tmp_path / "3", At(2, stop_now))
    train(split, latents, tiny_folder, tmp_path / "3", Silent())
    for name, value in weights(tmp_path / "0").items():
        # a tenth of what one step moves a weight: Adam makes much of how the smallest gradients are rounded
        torch.testing.assert_close(weights(tmp_path / "3")[name], value, rtol=0, atol=1e-4)


@pytest.mark.parametrize("world", range(1, 9))
def test_every_triplet_of_a_step_is_some_processes_or_the_run_is_refused(world: int) -> None:
    run = override(recipes.train(), ["optim.batch_size=48", "optim.micro_batch=8"])
    if 48 % world:
        with pytest.raises(ConfigError, match=f"batch_size=48 can't be shared out evenly to {world} processes"):
            deepspeed_config(run, world)
    else:
        config = deepspeed_config(run, world)
        micro, times = config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]
        assert micro <= 8
        assert micro * times * world == 48


def test_what_waits_elsewhere_is_told_to_deepspeed_and_needs_a_stage() -> None:
    config = deepspeed_config(run_of("optim.zero_stage=2", "optim.offload=optimizer"), 2)
    assert config["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    with pytest.raises(ConfigError, match=r"optim\.offload=all needs optim\.zero_stage=3"):
        run_of("optim.offload=all")
