"""Prompt-to-prompt: two captions become two pictures of one scene, for they share attention (Hertz et al., 2022).

Both start from the same noise. For a share of the steps the second picture takes over, for every token that it has in
common with the first, where the first one looks for it; and for half as long, how its places look at each other.

Shape suffixes: B batch (without and with the caption, of each the first picture and the second), H heads, Q queries,
K keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instructdiffusion.model import network
from instructdiffusion.model.device import best
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.metrics.networks import named
from instructdiffusion.model.task import Image

STEPS, GUIDANCE = 50, 7.5
OWN = 0.5  # of the steps in which tokens are shared: those in which places are


@dataclass
class Plan:
    """What is shared: pairs of tokens, of the first caption and of the second, and for how much of the sampling."""

    first: Sequence[int] = ()
    second: Sequence[int] = ()
    share: float = 0.0
    done: float = 0.0  # of the sampling, 0 to 1

    def shared(self, probabilities_BHQK: Tensor, *, tokens: bool) -> Tensor:
        """Attention with the second picture's made of the first one's, where the plan says so."""
        if self.done >= self.share * (1.0 if tokens else OWN):
            return probabilities_BHQK
        first_HQK, second_HQK = probabilities_BHQK[-2], probabilities_BHQK[-1].clone()
        if tokens:
            second_HQK[..., list(self.second)] = first_HQK[..., list(self.first)]
        else:
            second_HQK = first_HQK
        return torch.cat([probabilities_BHQK[:-1], second_HQK[None]])


class SharedAttention:
    """diffusers' plain attention, with what a plan shares; one for all layers."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = attn.head_to_batch_dim(attn.to_k(told)), attn.head_to_batch_dim(attn.to_v(told))
        looks_BHQK = attn.get_attention_scores(query, key, attention_mask).unflatten(0, (-1, attn.heads))
        looks_BHQK = self.plan.shared(looks_BHQK, tokens=encoder_hidden_states is not None)
        seen = attn.batch_to_head_dim(torch.bmm(looks_BHQK.flatten(0, 1), value))
        return attn.to_out[1](attn.to_out[0](seen))


class Twins:
    """A text-to-image model that paints pairs; `name` says which, for provenance."""

    def __init__(self, folder: Path, steps: int = STEPS) -> None:
        """Read a Stable Diffusion folder in diffusers' layout.

        Raises:
            DataError: a part is missing or broken, or the model takes more than a caption.
        """
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        with network.reading(folder):
            unet, vae, text_encoder, tokenizer = network.parts(folder)
            scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False)  # it adds no noise
        if unet.config.in_channels != vae.config.latent_channels:
            raise DataError(f"the model in {folder} wants a source besides the caption; name a text-to-image model")
        self.plan, self.steps, self.name = Plan(), steps, named(str(folder))
        unet.set_attn_processor(SharedAttention(self.plan))
        parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler}
        without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        self.pipeline = StableDiffusionPipeline(**parts, **without).to(best())
        self.pipeline.set_progress_bar_config(disable=True)

    def paint(self, first: str, second: str, share: float, seed: int) -> tuple[Image, Image]:
        """The pictures of two captions, at the size that the model was made for.

        Args:
            share: of the steps, 0 to 1, in which the second picture looks where the first one does.
        """
        pipeline, unet = self.pipeline, self.pipeline.unet.config
        tokens = pipeline.tokenizer([first, second], padding="max_length", truncation=True)["input_ids"]
        self.plan.first, self.plan.second = aligned(*tokens)
        self.plan.share, self.plan.done = share, 0.0
        chance = torch.Generator().manual_seed(seed)  # of the CPU: the same noise on any machine
        noise = torch.randn((1, unet.in_channels, unet.sample_size, unet.sample_size), generator=chance)
        found = pipeline(
            [first, second],
            latents=noise.repeat(2, 1, 1, 1).to(pipeline.device),
            num_inference_steps=self.steps,
            guidance_scale=GUIDANCE,
            output_type="np",
            callback_on_step_end=self._advanced,
        ).images
        before, after = (np.asarray((picture * 255).round(), np.uint8) for picture in found)
        return before, after

    def _advanced(self, pipeline: Any, step: int, time: Any, state: dict[str, Any]) -> dict[str, Any]:
        self.plan.done = (step + 1) / self.steps
        return state


@lru_cache(maxsize=1)
def twins(folder: str) -> Twins:
    """The model in a folder, loaded once.

    Raises:
        DataError: it is missing or broken.
    """
    return Twins(Path(folder))


def aligned(first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
    """Places of tokens that stand for the same: equal ones, and those that as many others took the place of."""
    pairs: list[tuple[int, int]] = []
    for what, from_first, to_first, from_second, to_second in SequenceMatcher(
        None, first, second, autojunk=False
    ).get_opcodes():
        if what == "equal" or to_first - from_first == to_second - from_second:
            pairs += zip(range(from_first, to_first), range(from_second, to_second), strict=True)
    return [one for one, _ in pairs], [other for _, other in pairs]
