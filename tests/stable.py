"""Stable Diffusion at a size for tests: its classes and its layout on disk, weights of chance."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def tiny_stable_diffusion(folder: Path) -> Path:
    """Write a text-to-image model in diffusers' layout, random to the last weight, for pictures of 64 pixels."""
    torch.manual_seed(3)
    words = [*(chr(c) for c in range(97, 123)), *(f"{chr(c)}</w>" for c in range(97, 123)), "<|startoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={w: i for i, w in enumerate([*words, "<|endoftext|>"])}, merges=[], model_max_length=16
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 32, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        norm_num_groups=8,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, projection_dim=32,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    text_encoder = CLIPTextModel(text)
    with torch.no_grad():
        for weight in chain(unet.parameters(), vae.parameters(), text_encoder.parameters()):
            weight.add_(0.02 * torch.randn_like(weight))  # no two are equal, norms included
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    named = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler}
    for name, part in named.items():
        part.save_pretrained(folder / name)
    return folder
