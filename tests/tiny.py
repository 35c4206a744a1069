"""Networks of real classes at a tiny size, with weights of chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer() -> CLIPTokenizer:
    """CLIP's, which spells every word."""
    words = [*(chr(c) for c in range(97, 123)), *(f"{chr(c)}</w>" for c in range(97, 123)), "<|startoftext|>"]
    vocabulary = {word: number for number, word in enumerate([*words, "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def texts() -> dict[str, Any]:
    """Sizes of a text encoder that it fits."""
    count = len(tokenizer())
    return {**SIZES, "vocab_size": count, "max_position_embeddings": 16, "eos_token_id": count - 1}


def sentences(folder: Path) -> Path:
    """A sentence transformer."""
    torch.manual_seed(0)
    CLIPTextModel(CLIPTextConfig(**texts())).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    """CLIP for pictures of 32 pixels."""
    torch.manual_seed(0)
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=texts(), vision_config=vision, projection_dim=24)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def detector(folder: Path) -> Path:
    """An open-vocabulary detector."""
    torch.manual_seed(0)
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    config = OwlViTConfig(text_config=texts(), vision_config=vision, projection_dim=32)
    OwlViTForObjectDetection(config).save_pretrained(folder)
    images = OwlViTImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    OwlViTProcessor(images, tokenizer()).save_pretrained(folder)
    return folder


def classifier(folder: Path, labels: tuple[str, ...] = ("normal", "nsfw")) -> Path:
    """A classifier of pictures."""
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    ViTForImageClassification(ViTConfig(**SIZES, image_size=32, patch_size=8, **names)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
