"""LoRA: a few weights that learn in place of many, W + (alpha / rank) B A (arXiv 2106.09685), through peft.

A run that uses it leaves both: `adapter/`, a few megabytes, and `model/`, with the adapters folded in.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import UNet2DConditionModel

from instructdiffusion.model.config import Lora
from instructdiffusion.model.errors import ConfigError, DataError

FILE = "pytorch_lora_weights.safetensors"  # as diffusers names it


def add(unet: UNet2DConditionModel, lora: Lora) -> None:
    """Add adapters that do nothing yet; from here on only they learn.

    Raises:
        ConfigError: no layer has such a name, or peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ConfigError("lora.rank needs peft; run: pip install peft, or set lora.rank=0") from error
    unet.requires_grad_(False)
    wanted = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
    try:
        unet.add_adapter(wanted)
    except ValueError as error:
        raise ConfigError(
            f"lora.targets={','.join(lora.targets)}: no layer of the U-Net ends so; see its names"
        ) from error


def save(unet: UNet2DConditionModel, folder: Path) -> Path:
    """Write the adapters alone."""
    unet.save_lora_adapter(folder)
    return folder


def load(unet: UNet2DConditionModel, folder: Path) -> None:
    """Add the adapters that a run wrote.

    Raises:
        DataError: there are none, or they are of another network; names the folder.
    """
    if not (folder / FILE).is_file():
        raise DataError(f"{folder} holds no {FILE}; name the `adapter` folder of a run with lora.rank above 0")
    try:
        unet.load_lora_adapter(folder, prefix=None, weight_name=FILE, use_safetensors=True)
    except (ValueError, RuntimeError, OSError) as error:
        raise DataError(
            f"the adapters in {folder} don't fit this model; name the model they were trained on"
        ) from error


def merge(unet: UNet2DConditionModel) -> None:
    """Fold the adapters into the weights; the network is then as if it had never had any."""
    unet.fuse_lora()
    unet.unload_lora()
