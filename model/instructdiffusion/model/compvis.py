"""Checkpoints in the layout of the original release: one file, tensors named as CompVis named them.

One rule gives each of our tensors its name there; reading and writing follow the same rule. Where a checkpoint holds a
moving average of the U-Net (`model_ema`), that is what is read. What such a file does not hold, the sizes of the
networks, the tokenizer, and sometimes autoencoder and text encoder, comes from a Stable Diffusion folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from instructdiffusion.model import initial
from instructdiffusion.model.attention import set_attention
from instructdiffusion.model.config import Diffusion
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.foreign import load_weights
from instructdiffusion.model.network import Model

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
RESOLUTION = 256  # pixels; what the release was trained at

_UNET_ENDS = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
_BLOCK = re.compile(
    r"(?P<side>down_blocks|mid_block|up_blocks)\.(?:(?P<block>\d+)\.)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<number>\d+)\.(?P<rest>.+)"
)
_VAE = {
    r"down_blocks\.(\d+)\.resnets\.": r"down.\1.block.",
    r"down_blocks\.(\d+)\.downsamplers\.0\.": r"down.\1.downsample.",
    r"mid_block\.resnets\.0\.": "mid.block_1.",
    r"mid_block\.resnets\.1\.": "mid.block_2.",
    r"mid_block\.attentions\.0\.group_norm\.": "mid.attn_1.norm.",
    r"mid_block\.attentions\.0\.to_([qkv])\.": r"mid.attn_1.\1.",
    r"mid_block\.attentions\.0\.to_out\.0\.": "mid.attn_1.proj_out.",
    r"conv_shortcut\.": "nin_shortcut.",
    r"conv_norm_out\.": "norm_out.",
}
_UP = {"resnets": "block", "upsamplers.0": "upsample"}


def read(file: Path, like: Path, diffusion: Diffusion | None = None, resolution: int = RESOLUTION) -> Model:
    """Read a checkpoint of the original release, or of Stable Diffusion 1, as a model.

    Args:
        file: .safetensors, or a pickle, which is scanned first.
        like: a Stable Diffusion folder in diffusers' layout, of the same sizes.
        diffusion: what the model will learn to predict; None: what the folder's model does, for the file says nothing.
        resolution: side of the pictures in pixels.

    Raises:
        DataError: the file is broken or harmful, lacks a tensor, or has one of another size; names it.
    """
    start = initial.from_text_to_image(like, diffusion, resolution)
    document = load_weights(file)
    tensors = document.get("state_dict", document.get("module", document))
    names = unet_names(start.unet)
    averaged = averages({**document, **tensors}, names)
    if averaged and len(averaged) < len(names):
        raise DataError(f"{file} holds a moving average of {len(averaged)} tensors of {len(names)}; copy it again")
    unet = _filled(start.unet, names, {**tensors, **averaged}, file, like)
    start.unet = initial.widened(unet)
    for part, names in ((start.vae, vae_names(start.vae)), (start.text_encoder, text_names(start.text_encoder))):
        if any(name in tensors for name in names.values()):
            part.load_state_dict(_taken(part.state_dict(), names, tensors, file, like))
    return start


def write(model: Model, file: Path) -> Path:
    """Write a model as one safetensors file in the original's layout, whole or not at all.

    Raises:
        ConfigError: the layout has no place for such a network, or the file's name ends otherwise.
        DataError: it can't be written.
    """
    if file.suffix != ".safetensors":
        raise ConfigError(f"{file}: weights are written as safetensors; give a name that ends in .safetensors")
    if not isinstance(model.vae, AutoencoderKL) or model.diffusion.gate or model.unet.config.addition_embed_type:
        raise ConfigError("a nano model has no place in the original's layout; export one that began as SD 1.5")
    tensors: dict[str, Tensor] = {}
    for part, names in (
        (model.unet, unet_names(model.unet)),
        (model.vae, vae_names(model.vae)),
        (model.text_encoder, text_names(model.text_encoder)),
    ):
        state = part.state_dict()
        tensors |= {name: _as_there(name, state[key]).contiguous().clone() for key, name in names.items()}
    temporary = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {"format": "pt"})
        temporary.replace(file)
    except OSError as error:
        raise DataError(
            f"can't write {file}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return file


def averages(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The moving average of the U-Net by the plain tensors' names; empty if the document holds none.

    In a checkpoint it is `model_ema.` and a name without its dots, in the release's training state a dictionary.
    """
    nested = document.get("model_ema")
    known = nested if isinstance(nested, dict) else document
    found = {}
    for name in names.values():
        short = name.removeprefix("model.").replace(".", "")
        for key in (f"model_ema.{short}", f"model{short}", short):
            if key in known:
                found[name] = known[key]
                break
    return found


def unet_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """Our name of each tensor, and its name there."""
    attends = tuple(kind.startswith("CrossAttn") for kind in unet.config.up_block_types)
    return {key: UNET + _unet_name(key, unet.config.layers_per_block, attends) for key in unet.state_dict()}


def vae_names(vae: AutoencoderKL) -> dict[str, str]:
    """Our name of each tensor, and its name there."""
    return {key: VAE + _vae_name(key, len(vae.config.block_out_channels)) for key in vae.state_dict()}


def text_names(text_encoder: nn.Module) -> dict[str, str]:
    """Our name of each tensor, and its name there, which is that of an older transformers."""
    return {key: TEXT + key.removeprefix("text_model.") for key in text_encoder.state_dict()}


def _unet_name(key: str, layers: int, attends: tuple[bool, ...]) -> str:
    """Blocks are counted through there, each resampling being a block or the end of one."""
    found = _BLOCK.fullmatch(key)
    if not found:
        return _renamed(key, _UNET_ENDS)
    side, kind, number = found["side"], found["kind"], int(found["number"])
    rest = _renamed(found["rest"], _RESNET) if kind == "resnets" else found["rest"]
    beside = int(kind == "attentions")  # a block is [residual, attention, upsampling], each where there is one
    if side == "mid_block":
        return f"middle_block.{2 * number + beside}.{rest}"
    block = int(found["block"])
    first = block * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.{_renamed(rest, {'conv.': 'op.'})}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{1 + attends[block]}.{rest}"
    blocks, number = ("input_blocks", number + 1) if side == "down_blocks" else ("output_blocks", number)
    return f"{blocks}.{first + number}.{beside}.{rest}"


def _vae_name(key: str, blocks: int) -> str:
    """Upsampling blocks are counted from the finest there."""

    def up(found: re.Match[str]) -> str:
        return f"up.{blocks - 1 - int(found[1])}.{_UP[found[2]]}."

    key = re.sub(r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.", up, key)
    for ours, theirs in _VAE.items():
        key = re.sub(ours, theirs, key)
    return key


def _renamed(key: str, starts: Mapping[str, str]) -> str:
    for ours, theirs in starts.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def _as_there(name: str, tensor: Tensor) -> Tensor:
    """The autoencoder's attention is made of convolutions there."""
    convolution = name.startswith(VAE) and ".attn_1." in name and tensor.ndim == 2
    return tensor[..., None, None] if convolution else tensor


def _filled(
    unet: UNet2DConditionModel, names: Mapping[str, str], tensors: Mapping[str, Tensor], file: Path, like: Path
) -> UNet2DConditionModel:
    """The U-Net with a checkpoint's weights, taking as many channels as the checkpoint's does."""
    known = set(names.values())
    other = [name for name in tensors if name.startswith(UNET) and name not in known]
    if other:
        raise DataError(f"{file} holds {other[0]}, for which {like} has no place; name a folder of the same sizes")
    first = tensors.get(names["conv_in.weight"])
    channels = unet.config.in_channels if first is None or first.ndim != 4 else first.shape[1]
    if channels not in (unet.config.out_channels, 2 * unet.config.out_channels):
        raise DataError(f"{file} takes {channels} channels: it is no checkpoint of an editor or of text to image")
    with init_empty_weights():
        new = UNet2DConditionModel.from_config({**unet.config, "in_channels": channels})
    new.load_state_dict(_taken(new.state_dict(), names, tensors, file, like), assign=True)
    new.eval().requires_grad_(False)
    set_attention(new)
    return new


def _taken(
    state: Mapping[str, Tensor], names: Mapping[str, str], tensors: Mapping[str, Tensor], file: Path, like: Path
) -> dict[str, Tensor]:
    """A checkpoint's tensors under our names, in 32 bits, each in our shape."""
    taken = {}
    for key, wanted in state.items():
        found = tensors.get(names[key])
        if found is None:
            raise DataError(f"{file} lacks {names[key]}: not of this layout, or of other sizes than {like}")
        if found.squeeze().shape != wanted.squeeze().shape:
            shapes = f"{tuple(found.shape)}, not {tuple(wanted.shape)}"
            raise DataError(f"{file}: {names[key]} is {shapes}; name a folder of the same sizes in place of {like}")
        taken[key] = found.reshape(wanted.shape).to(torch.float32)
    return taken
