"""Networks of real classes at a tiny size, with weights of chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PaintByExamplePipeline, PNDMScheduler, UNet2DConditionModel
from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
    PreTrainedTokenizerFast,
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


def captioner(folder: Path) -> Path:
    """BLIP-2, for pictures of 32 pixels; its language is a few words."""
    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<image>", "a", "red", "blue", "car", "tree", "on", "grass"]
    spelled = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>"))
    spelled.pre_tokenizer = pre_tokenizers.Whitespace()
    said = PreTrainedTokenizerFast(
        tokenizer_object=spelled, pad_token="<pad>", eos_token="</s>", additional_special_tokens=["<image>"]
    )
    said.image_token = "<image>"
    language = {"vocab_size": len(words), "max_position_embeddings": 64, "word_embed_proj_dim": 32, "ffn_dim": 64}
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    config = Blip2Config(
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
        qformer_config={**SIZES, "encoder_hidden_size": 32, "vocab_size": len(words)},
        text_config={"model_type": "opt", **SIZES, **language, **special},
        num_query_tokens=4,
        image_token_index=2,
    )
    network = Blip2ForConditionalGeneration(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))  # enough to say something, and not the same of every picture
    network.save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    Blip2Processor(images, said, num_query_tokens=4).save_pretrained(folder)
    return folder


def paint_by_example(folder: Path) -> Path:
    """Paint by Example, for pictures of 32 pixels."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**{**SIZES, "num_hidden_layers": 4}, image_size=32, patch_size=8, projection_dim=32)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=9,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    PaintByExamplePipeline(
        vae=vae,
        image_encoder=PaintByExampleImageEncoder(vision, proj_size=32),
        unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
    ).save_pretrained(folder)
    return folder
