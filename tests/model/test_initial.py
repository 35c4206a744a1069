"""The start of a full-size training: the text-to-image model itself, with room for a source."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from faults import Harm
from safetensors.torch import load_file

from instructdiffusion.model import network
from instructdiffusion.model.config import Diffusion
from instructdiffusion.model.data.latents import Latents, encode
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.editor import Editor
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.initial import from_text_to_image
from instructdiffusion.model.network import Guidance


def test_the_start_is_exactly_the_text_to_image_model_whatever_the_source(stable_diffusion: Path) -> None:
    before = UNet2DConditionModel.from_pretrained(stable_diffusion / "unet").eval()
    model = from_text_to_image(stable_diffusion)
    noisy, text, t = torch.randn(2, 4, 16, 16), torch.randn(2, 16, 32), torch.tensor([10, 800])
    with torch.inference_mode():
        wanted = before(noisy, t, text).sample
        for source in (torch.zeros_like(noisy), 5 * torch.randn_like(noisy)):
            made = model.unet(torch.cat([noisy, source], dim=1), t, text).sample
            assert torch.allclose(made, wanted, atol=1e-6)
    assert wanted.std() > 1e-3  # of a network that says something
    assert not any(p.requires_grad for p in model.text_encoder.parameters())


def test_it_takes_over_what_the_text_to_image_model_predicts(stable_diffusion: Path, tmp_path: Path) -> None:
    assert from_text_to_image(stable_diffusion).diffusion == Diffusion()
    assert from_text_to_image(stable_diffusion).resolution == 64
    shutil.copytree(stable_diffusion, tmp_path / "v")
    path = tmp_path / "v" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    assert from_text_to_image(tmp_path / "v", resolution=32).scheduler.config.prediction_type == "v_prediction"


@pytest.fixture
def pickled(stable_diffusion: Path, tmp_path: Path) -> Path:
    """The same text-to-image model with its weights in pickles alone, as folders of older days have them."""
    folder = shutil.copytree(stable_diffusion, tmp_path / "pickled")
    for file in folder.glob("*/*.safetensors"):
        stem = "pytorch_model" if file.stem == "model" else file.stem
        torch.save(load_file(file), file.with_name(f"{stem}.bin"))
        file.unlink()
    return folder


def test_a_folder_of_pickles_is_read_as_weights(stable_diffusion: Path, pickled: Path) -> None:
    one, other = from_text_to_image(pickled), from_text_to_image(stable_diffusion)
    for name in ("unet", "vae", "text_encoder"):
        found, wanted = (getattr(model, name).state_dict() for model in (one, other))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"])
@pytest.mark.parametrize(("call", "said"), [(os.system, r"would call \w+\.system"), (Path, r"it names pathlib\S*Path")])
def test_a_folder_whose_pickles_hold_more_than_weights_is_refused(
    file: str, call: Any, said: str, pickled: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    torch.save({**torch.load(pickled / file), "more": Harm(call, f"touch {mark}")}, pickled / file)
    with pytest.raises(DataError, match=rf"{file} .*{said}.*\.safetensors"):
        from_text_to_image(pickled)
    assert not mark.exists()


def test_pickles_beside_safetensors_are_not_looked_at(stable_diffusion: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stable_diffusion, tmp_path / "both")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"no weights")
    assert from_text_to_image(folder).unet.config.in_channels == 8


def test_a_model_that_takes_a_source_already_is_kept(stable_diffusion: Path, tmp_path: Path) -> None:
    model = from_text_to_image(stable_diffusion, resolution=32)
    with torch.no_grad():
        model.unet.conv_in.weight[:, 4:] = 1.0
    again = from_text_to_image(network.save(model, tmp_path / "editor"), resolution=32)
    assert torch.equal(again.unet.conv_in.weight, model.unet.conv_in.weight)


def test_sources_are_the_mode_unscaled_and_targets_are_scaled(
    stable_diffusion: Path, shards: Path, tmp_path: Path
) -> None:
    model = from_text_to_image(stable_diffusion, resolution=32)
    assert model.scale == pytest.approx(0.18215)
    encode(shards, network.save(model, tmp_path / "model"), tmp_path / "latents")
    source, target, _ = Latents.open(tmp_path / "latents").batch([0])
    first = next(read_triplets(shards))
    for latent, picture, scale in ((source, first.source, 1.0), (target, first.target, 0.18215)):
        pixels = torch.from_numpy(picture[None]).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            mode = model.vae.encode(pixels).latent_dist.mode()
        assert torch.allclose(latent, mode * scale, rtol=2e-3, atol=2e-3)


def test_it_edits(stable_diffusion: Path, tmp_path: Path) -> None:
    editor = Editor.load(network.save(from_text_to_image(stable_diffusion, resolution=32), tmp_path / "model"))
    picture = np.zeros((40, 30, 3), np.uint8)
    assert editor.guidance(None) == Guidance(steps=50, text=5.0, image=1.25)
    assert editor.edit(picture, "make it rain", steps=2).picture.shape == picture.shape


def test_another_kind_of_model_is_refused(stable_diffusion: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nano model"):
        from_text_to_image(tiny_folder)
    with pytest.raises(ConfigError, match=r"diffusion\.gate=false"):
        from_text_to_image(stable_diffusion, Diffusion(gate=True, from_source=True))
    with pytest.raises(ConfigError, match="whole cells of 4"):
        from_text_to_image(stable_diffusion, resolution=66)
    shutil.copytree(stable_diffusion, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "vae")
    with pytest.raises(DataError, match="can't be read"):
        from_text_to_image(tmp_path / "half")
    with pytest.raises(DataError, match="no noise schedule"):
        from_text_to_image(tmp_path / "nothing")
