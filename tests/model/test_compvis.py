"""The original's layout: what is written there comes back, as diffusers reads it too, and no pickle runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from faults import Harm
from safetensors.torch import load_file, save_file
from torch import Tensor

from instructdiffusion.model import network
from instructdiffusion.model.compvis import UNET, averages, read, unet_names, write
from instructdiffusion.model.config import Diffusion
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.foreign import load_weights
from instructdiffusion.model.initial import from_text_to_image
from instructdiffusion.model.network import Model


@pytest.fixture
def model(stable_diffusion: Path) -> Model:
    """An editor of Stable Diffusion's classes that sees its source."""
    made = from_text_to_image(stable_diffusion, resolution=32)
    with torch.no_grad():
        made.unet.conv_in.weight[:, 4:].normal_()
    return made


@pytest.fixture
def checkpoint(model: Model, tmp_path: Path) -> Path:
    """The same model in the original's layout."""
    return write(model, tmp_path / "exported.safetensors")


def equal(one: Model, other: Model) -> bool:
    """Whether two models hold the same weights."""
    states = [[getattr(m, name).state_dict() for name in ("unet", "vae", "text_encoder")] for m in (one, other)]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(*states, strict=True))


def answers(model: Model) -> list[Tensor]:
    """What each network says to the same input."""
    generator = torch.Generator().manual_seed(0)
    pixels, latents = torch.randn(1, 3, 32, 32, generator=generator), torch.randn(1, 8, 8, 8, generator=generator)
    with torch.inference_mode():
        text = model.text(["a red ball"])
        mode = model.vae.encode(pixels).latent_dist.mode()
        return [text, mode, model.vae.decode(mode).sample, model.unet(latents, torch.tensor([500]), text).sample]


def test_what_is_exported_comes_back(model: Model, checkpoint: Path, stable_diffusion: Path) -> None:
    back = read(checkpoint, stable_diffusion, resolution=32)
    assert equal(back, model)
    for was, now in zip(answers(model), answers(back), strict=True):
        assert (was - now).abs().max() <= 1e-6
        assert was.std() > 1e-4


def test_a_file_predicts_what_the_folder_beside_it_does(
    checkpoint: Path, stable_diffusion: Path, tmp_path: Path
) -> None:
    assert read(checkpoint, stable_diffusion, resolution=32).diffusion == Diffusion()
    like = shutil.copytree(stable_diffusion, tmp_path / "velocity")
    path = like / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    assert read(checkpoint, like, resolution=32).scheduler.config.prediction_type == "v_prediction"
    assert read(checkpoint, like, Diffusion(), resolution=32).scheduler.config.prediction_type == "epsilon"


def test_diffusers_reads_the_same_weights_from_it(model: Model, checkpoint: Path) -> None:
    tensors = load_file(checkpoint)
    unet = convert_ldm_unet_checkpoint(dict(tensors), model.unet.config)
    vae = convert_ldm_vae_checkpoint(dict(tensors), model.vae.config)
    text = {k.removeprefix("text_model."): v for k, v in convert_ldm_clip_checkpoint(dict(tensors)).items()}
    for found, wanted in ((unet, model.unet), (vae, model.vae), (text, model.text_encoder)):
        state = wanted.state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_the_full_size_has_the_names_of_stable_diffusion() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=8, cross_attention_dim=768)
    names = set(unet_names(unet).values())
    assert len(names) == 686
    for name in (
        "input_blocks.3.0.op.weight",
        "input_blocks.11.0.out_layers.3.bias",
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.2.conv.weight",
        "output_blocks.11.1.proj_out.weight",
    ):
        assert UNET + name in names


def test_the_moving_average_is_what_is_read(
    model: Model, checkpoint: Path, stable_diffusion: Path, tmp_path: Path
) -> None:
    plain = load_file(checkpoint)
    averaged = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": tensor
        for name, tensor in plain.items()
        if name.startswith(UNET)
    }
    learning = {name: tensor + 1 if name.startswith(UNET) else tensor for name, tensor in plain.items()}
    whole = {**learning, **averaged, "model_ema.decay": torch.tensor(0.9999)}
    torch.save({"state_dict": whole, "global_step": 7}, tmp_path / "last.ckpt")
    assert equal(read(tmp_path / "last.ckpt", stable_diffusion, resolution=32), model)
    state = {name.replace("model_ema.", "model"): tensor for name, tensor in averaged.items()}
    torch.save({"model_ema": state, "epoch": 195}, tmp_path / "state.pth")  # the release's training state
    assert equal(read(tmp_path / "state.pth", stable_diffusion, resolution=32), model)
    del whole[next(iter(averaged))]
    torch.save({"state_dict": whole}, tmp_path / "part.ckpt")
    with pytest.raises(DataError, match="moving average of"):
        read(tmp_path / "part.ckpt", stable_diffusion)
    assert averages(plain, unet_names(model.unet)) == {}


def test_a_text_to_image_checkpoint_gets_room_for_a_source(stable_diffusion: Path, tmp_path: Path) -> None:
    start = from_text_to_image(stable_diffusion, resolution=32)
    tensors = load_file(write(start, tmp_path / "a.safetensors"))
    first = f"{UNET}input_blocks.0.0.weight"
    save_file({**tensors, first: tensors[first][:, :4].contiguous()}, tmp_path / "b.safetensors")
    assert equal(read(tmp_path / "b.safetensors", stable_diffusion, resolution=32), start)


def test_what_does_not_fit_is_named(checkpoint: Path, stable_diffusion: Path, tiny: Model, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    name = f"{UNET}middle_block.0.in_layers.2.weight"
    wrong: dict[str, dict[str, Tensor]] = {
        rf"lacks {name}": {k: v for k, v in tensors.items() if k != name},
        rf"{name} is \(2, 2\), not": {**tensors, name: torch.zeros(2, 2)},
        "has no place": {**tensors, f"{UNET}label_emb.0.0.weight": torch.zeros(2)},
        "takes 9 channels": {**tensors, f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)},
    }
    for said, content in wrong.items():
        save_file(content, tmp_path / "wrong.safetensors")
        with pytest.raises(DataError, match=said):
            read(tmp_path / "wrong.safetensors", stable_diffusion)
    with pytest.raises(ConfigError, match="nano model"):
        write(tiny, tmp_path / "nano.safetensors")
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        write(tiny, tmp_path / "nano.ckpt")


def test_no_pickle_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"state_dict": Harm(os.system, f"touch {mark}")}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Harm(os.system, f"touch {mark}")))
    for name in ("zip.ckpt", "plain.ckpt"):
        with pytest.raises(DataError, match=rf"{name} is a pickle that would call \w+\.system.*\.safetensors"):
            load_weights(tmp_path / name)
    torch.save({"state_dict": Harm(Path, "somewhere")}, tmp_path / "unknown.ckpt")  # harmless, and yet no weights
    with pytest.raises(DataError, match=r"it names pathlib\S*Path.*\.safetensors"):
        load_weights(tmp_path / "unknown.ckpt")
    assert not mark.exists()


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:2000])
    (tmp_path / "no.safetensors").write_bytes(b"not weights")
    (tmp_path / "text.ckpt").write_text("<html>Not found</html>")
    torch.save([1], tmp_path / "list.ckpt")
    for name in ("cut.ckpt", "no.safetensors", "text.ckpt", "list.ckpt", "gone.ckpt"):
        with pytest.raises(DataError, match=name) as caught:
            load_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_the_callback_that_stable_diffusion_mentions_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    callback = type("ModelCheckpoint", (), {"__module__": name})
    sys.modules[name].ModelCheckpoint = callback  # type: ignore[attr-defined]
    document = {"callbacks": {callback: {"best": 1.0}}, "state_dict": {"a": torch.ones(2)}}
    torch.save(document, tmp_path / "sd.ckpt")
    assert load_weights(tmp_path / "sd.ckpt")["state_dict"]["a"].tolist() == [1, 1]


def test_a_model_folder_can_be_exported(model: Model, checkpoint: Path, tmp_path: Path) -> None:
    loaded = network.load(network.save(model, tmp_path / "model"))
    again = load_file(write(loaded, tmp_path / "again.safetensors"))
    assert all(torch.equal(again[name], tensor) for name, tensor in load_file(checkpoint).items())
