"""The start of a full-size training: a text-to-image model that is shown a picture besides.

The U-Net gets four more channels of input for the source (section 3.3 of the paper; InstructPix2Pix does likewise).
Their weights are zero, so before the first step it is exactly the text-to-image model, whatever the source. Sources are
the mode of the autoencoder's posterior, unscaled; targets are scaled (`Model.encode`, `data.latents.encode`).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from instructdiffusion.model import network
from instructdiffusion.model.config import Diffusion, Run
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.network import Guidance, Model
from instructdiffusion.model.task import Family

#: What the original release recommends for its weights, with as many steps as its demo takes.
GUIDANCE: dict[Family, Guidance] = {
    "perception": Guidance(steps=50, text=7.5, image=1.5),
    "restoration": Guidance(steps=50, text=1.0, image=1.0),
    "editing": Guidance(steps=50, text=5.0, image=1.25),
}


def from_text_to_image(folder: Path, diffusion: Diffusion | None = None, resolution: int | None = None) -> Model:
    """Make a model of a Stable Diffusion folder in diffusers' layout; one that takes a source already is kept as it is.

    Args:
        folder: with `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`.
        diffusion: what it will learn to predict; None: what it predicts now, under the noise that it knows.
        resolution: side of the pictures in pixels; None: what it was made for.

    Raises:
        DataError: a part is missing or broken, or it is of another kind than Stable Diffusion 1 and 2.
        ConfigError: the settings need a network made from nothing.
    """
    diffusion = diffusion or own_diffusion(folder)
    if diffusion.gate:
        raise ConfigError("diffusion.gate=true needs a network made from nothing; set diffusion.gate=false")
    with network.reading(folder):
        unet, vae, text_encoder, tokenizer = network.parts(folder)
    _check(unet, vae, folder)
    cell = 2 ** (len(vae.config.block_out_channels) - 1)  # pixels along a side
    side = resolution or unet.config.sample_size * cell
    if side % cell:
        raise ConfigError(f"pictures of {side} pixels are not whole cells of {cell}; choose a multiple")
    scheduler = network.scheduler_for(diffusion)
    return Model(widened(unet), vae, text_encoder, tokenizer, scheduler, diffusion, side, dict(GUIDANCE))


def own_diffusion(folder: Path) -> Diffusion:
    """What the model in a diffusers folder predicts, and under which noise.

    Raises:
        DataError: its scheduler is missing, or of a kind that is not trained here.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        told = json.loads(path.read_text())
        return Diffusion(
            prediction=told.get("prediction_type", "epsilon"),
            schedule=told["beta_schedule"],
            zero_terminal_snr=told.get("rescale_betas_zero_snr", False),
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()[:12])
        raise DataError(f"{path} is no noise schedule known here ({reason}); name a Stable Diffusion folder") from error


def predicting(run: Run, own: Diffusion) -> Run:
    """A run that learns to predict what a model does already, under the noise that it knows."""
    return run.model_copy(update={"diffusion": run.diffusion.read_as(own)})


def contradicted(own: Diffusion, wanted: Diffusion) -> str:
    """What a model's scheduler says and settings say otherwise, as `name=value, not value`; empty: nothing."""
    names = ("prediction", "schedule", "zero_terminal_snr")
    pairs = {name: (getattr(own, name), getattr(wanted, name)) for name in names}
    return "; ".join(f"diffusion.{name}={one}, not {other}" for name, (one, other) in pairs.items() if one != other)


def widened(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same U-Net with as many channels of input again, of weight zero; unchanged if it has them."""
    old, channels = unet.conv_in, 2 * unet.config.out_channels
    if old.in_channels == channels:
        return unet
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding).requires_grad_(False)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
    new.bias = old.bias
    unet.conv_in = new
    unet.register_to_config(in_channels=channels)
    return unet


def _check(unet: UNet2DConditionModel, vae: nn.Module, folder: Path) -> None:
    """Refuse what has the same files but is another kind of model."""
    fitting = "; name a folder of Stable Diffusion 1 or 2 (text to image, or InstructPix2Pix)"
    if not isinstance(vae, AutoencoderKL):
        raise DataError(f"{folder} has an autoencoder of patches: it is a nano model, and whole as it is{fitting}")
    channels = vae.config.latent_channels
    if unet.config.in_channels not in (channels, 2 * channels):
        raise DataError(f"the U-Net in {folder} takes {unet.config.in_channels} channels, not {channels}{fitting}")
    if unet.config.out_channels != channels or unet.config.addition_embed_type or unet.config.class_embed_type:
        raise DataError(f"the U-Net in {folder} hears more than an instruction or says more than a picture{fitting}")
