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
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from instructdiffusion.model import account, recipes
from instructdiffusion.model.config import Run, override
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.engine import deepspeed_config
from instructdiffusion.model.errors import ConfigError, DataError, Interrupted
from instructdiffusion.model.files import digest_of
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
    assert "step 1: the loss is a spike or no number" in caplog.text
    assert all(value.isfinite().all() for value in weights(tmp_path / "one").values())

    spoil(latents, range(len(opened)))
    with pytest.raises(DataError, match=r"no number in 2 steps in a row, last in step 2 .*bad-batch-0\.safetensors"):
        train(run_of("optim.bad_steps=2"), latents, tiny_folder, tmp_path / "all", Silent())
    kept = load_file(tmp_path / "all/bad-batch-0.safetensors")
    assert kept["numbers"].tolist() == opened.mixture(0, {}).draws(range(4, 8))


def test_a_spike_of_the_loss_is_left_out_and_is_none_of_what_is_usual(
    latents: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (number,) = Latents.open(latents).mixture(0, {}).draws(range(9, 10))  # in the third step
    spoil(latents, [number], 1e4)
    train(run_of("optim.spike=50", "diffusion.relative=false"), latents, tiny_folder, tmp_path / "out", Silent())
    assert "step 3: the loss is a spike or no number" in caplog.text
    losses = [row.get("loss") for row in json.loads((tmp_path / "out/training.json").read_text())["curve"]]
    assert losses[2] is None
    assert all(loss < 100 for loss in losses if loss is not None)
    assert "step 4" not in caplog.text


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


def spoil(folder: Path, numbers: Any, value: float = float("nan")) -> None:
    """Make the targets of some triplets no numbers, or others."""
    manifest = Manifest.load(folder)
    assert len(manifest.shards) == 1
    path = folder / manifest.shards[0].name
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for number in numbers:
        tensors["target"][number] = value
    save_file(tensors, path, metadata)
