"""`instructdiffusion model`: models come in and go out through the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stable import tiny_stable_diffusion
from typer.testing import CliRunner, Result

from instructdiffusion.model import lora, network
from instructdiffusion.model.config import Lora
from instructdiffusion.model.errors import DataError
from instructdiffusion.pipelines.cli import app

SMALL = ("--set", "network.size=32")


def model(*arguments: str | Path) -> Result:
    """Run the command in this process: each of these would load PyTorch anew in one of its own."""
    return CliRunner().invoke(app, ["model", *map(str, arguments)])


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model of Stable Diffusion's classes."""
    return tiny_stable_diffusion(tmp_path_factory.mktemp("sd") / "stable-diffusion")


def test_a_model_comes_in_goes_out_and_comes_back(stable_diffusion: Path, tmp_path: Path) -> None:
    ended = model("import", stable_diffusion, tmp_path / "start", *SMALL)
    assert ended.exit_code == 0, ended.output
    assert "32 pixels, predicts epsilon" in ended.output
    ended = model("export", tmp_path / "start", tmp_path / "one.safetensors", "--json")
    assert json.loads(ended.stdout)["bytes"] == (tmp_path / "one.safetensors").stat().st_size
    again = ("import", tmp_path / "one.safetensors", tmp_path / "back", "--like", stable_diffusion, *SMALL)
    assert model(*again).exit_code == 0
    weights = [load_file(tmp_path / n / "unet" / "diffusion_pytorch_model.safetensors") for n in ("start", "back")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # nothing half-made is left


def test_the_settings_of_the_run_to_come_are_written_into_the_model(stable_diffusion: Path, tmp_path: Path) -> None:
    velocity = ("--set", "diffusion.prediction=v_prediction", "--set", "diffusion.zero_terminal_snr=true")
    ended = model("import", stable_diffusion, tmp_path / "v", *SMALL, *velocity, "--json")
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["prediction"] == "v_prediction"
    made = network.load(tmp_path / "v")
    assert (made.diffusion.prediction, float(made.scheduler.alphas_cumprod[-1])) == ("v_prediction", 0)
    (told,) = ended.stderr.splitlines()
    said = "has diffusion.prediction=epsilon, not v_prediction; diffusion.zero_terminal_snr=False, not True:"
    assert told.startswith(f"warning: {stable_diffusion} {said}")


def test_a_model_predicts_what_it_was_trained_for_unless_it_is_told_otherwise(
    stable_diffusion: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(stable_diffusion, tmp_path / "velocity")
    scheduler = base / "scheduler" / "scheduler_config.json"
    told = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), **told}))
    ended = model("import", base, tmp_path / "start", *SMALL)
    assert "32 pixels, predicts v_prediction" in ended.stdout
    assert not ended.stderr
    made = network.load(tmp_path / "start")
    assert (made.scheduler.config.prediction_type, made.diffusion.zero_terminal_snr) == ("v_prediction", True)
    model("export", tmp_path / "start", tmp_path / "one.safetensors")
    ended = model("import", tmp_path / "one.safetensors", tmp_path / "back", "--like", base, *SMALL)
    assert "predicts v_prediction" in ended.stdout
    ended = model("import", base, tmp_path / "noise", *SMALL, "--set", "diffusion.prediction=epsilon")
    assert ended.exit_code == 2
    assert "zero_terminal_snr=true needs prediction=v_prediction" in ended.stderr


def test_adapters_are_merged(stable_diffusion: Path, tmp_path: Path) -> None:
    model("import", stable_diffusion, tmp_path / "start", *SMALL)
    unet = network.load(tmp_path / "start").unet
    lora.add(unet, Lora(rank=2))
    torch.nn.init.ones_(unet.conv_in.lora_B["default"].weight)
    lora.save(unet, tmp_path / "adapter")
    assert model("merge", tmp_path / "start", tmp_path / "adapter", tmp_path / "merged").exit_code == 0
    before, after = (network.load(tmp_path / name).unet.conv_in.weight for name in ("start", "merged"))
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("import", "{here}/one.ckpt", "{here}/out"), 2, "give --like"),
        (("import", "nothing", "{here}/out"), 3, "nothing is not there; name a path, s3://bucket/name"),
        (("import", "s3://bucket/name", "{here}/out"), 2, "INSTRUCTDIFFUSION_STORE_ENDPOINT"),
        (("import", "owner/no-such-model", "{here}/out"), 4, "the hub does not answer"),
        (("export", "{here}", "{here}/out.safetensors"), 3, "is no model"),
        (("merge", "{start}", "{here}", "{here}/out"), 3, "holds no pytorch_lora_weights"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: tuple[str, ...], code: int, said: str, stable_diffusion: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.ckpt").write_bytes(b"")
    start = tmp_path / "start"
    if "{start}" in arguments:
        model("import", stable_diffusion, start, *SMALL)
    ended = model(*(argument.format(here=tmp_path, start=start) for argument in arguments))
    assert ended.exit_code == code, ended.output
    assert said in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(stable_diffusion: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("important")
    ended = model("import", stable_diffusion, tmp_path / "home", *SMALL)
    assert ended.exit_code == 3, ended.output
    assert len(ended.stderr.strip().splitlines()) == 1
    with pytest.raises(DataError, match="home holds something that is no model, and is left alone; name a new folder"):
        network.save(network.load(None), tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.txt"]


def test_a_model_takes_the_place_of_another_and_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    network.save(network.load(None), tmp_path / "model")
    (tmp_path / "model" / "of-the-other.txt").touch()
    assert network.load(network.save(network.load(None), tmp_path / "model")).resolution == 64
    assert not (tmp_path / "model" / "of-the-other.txt").exists()
