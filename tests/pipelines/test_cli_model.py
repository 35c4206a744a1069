"""`instructdiffusion model`: models come in and go out through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stable import tiny_stable_diffusion
from typer.testing import CliRunner, Result

from instructdiffusion.model import lora, network
from instructdiffusion.model.config import Lora
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
    assert model("import", stable_diffusion, tmp_path / "v", *SMALL, *velocity).exit_code == 0
    made = network.load(tmp_path / "v")
    assert (made.diffusion.prediction, float(made.scheduler.alphas_cumprod[-1])) == ("v_prediction", 0)


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
