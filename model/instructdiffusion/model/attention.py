"""How a U-Net computes its attention."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    AttnProcessor,
    AttnProcessor2_0,
)


def set_attention(unet: UNet2DConditionModel, fused: bool | None = None) -> None:
    """Let a U-Net compute attention by the fused kernel or the plain way.

    None: fused on GPUs; plain on CPUs, where it is as fast or faster at this size, but for attention that hears the
    text beside its picture (diffusers' "added" keys and values, which have processors of their own): its many thin
    heads at the finest level would fill the memory with weights.
    """
    slow, fast = (AttnProcessor, AttnAddedKVProcessor), (AttnProcessor2_0, AttnAddedKVProcessor2_0)
    for module in unet.modules():
        if isinstance(module, Attention):
            hears = module.added_kv_proj_dim is not None
            quick = (torch.cuda.is_available() or hears) if fused is None else fused
            module.set_processor((fast if quick else slow)[hears]())
