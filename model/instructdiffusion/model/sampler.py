"""Sampling with guidance by instruction and by source, under either of two rules, leaving out branches of no weight.

Shape suffixes: B batch, C latent channels, HW latent height and width, L tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from instructdiffusion.model.diffusion import predict_target
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.network import Guidance, Model

Rule = Literal["instructdiffusion", "instructpix2pix"]
Branch = Literal["full", "image", "text", "none"]  # the conditions that the U-Net sees


def branch_weights(rule: Rule, text: float, image: float) -> dict[Branch, float]:
    """How much each branch counts; those of no weight are left out, and the weights sum to 1.

    InstructDiffusion: 0.5 (e_image + e_text) + text (e_full - e_image) + image (e_full - e_text), so that 0.5 and 0.5
    is e_full alone. InstructPix2Pix: e_none + text (e_full - e_image) + image (e_image - e_none).

    Raises:
        ConfigError: there is no such rule.
    """
    if rule == "instructdiffusion":
        weights: dict[Branch, float] = {"full": text + image, "image": 0.5 - text, "text": 0.5 - image}
    elif rule == "instructpix2pix":
        weights = {"full": text, "image": image - text, "none": 1 - image}
    else:
        raise ConfigError(f"no guidance rule {rule!r}; choose instructdiffusion or instructpix2pix")
    return {branch: weight for branch, weight in weights.items() if abs(weight) > 1e-9}


@torch.inference_mode()
def sample(
    model: Model,
    source_BCHW: Tensor,
    text_BLD: Tensor,
    seeds: Sequence[int],
    guidance: Guidance,
    rule: Rule = "instructdiffusion",
) -> Tensor:
    """Denoise from pure noise to target latents (batch x channels x height x width, in the autoencoder's own scale).

    Args:
        source_BCHW: latents of the sources, unscaled.
        text_BLD: hidden states of the instructions.
        seeds: one per picture; a seed repeats whatever the batch around it.
    """
    weights = branch_weights(rule, guidance.text, guidance.image)
    null_BLD = model.text([""]).expand_as(text_BLD)
    noise = [torch.randn(source_BCHW.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    noisy_BCHW = torch.stack(noise).to(source_BCHW)
    scheduler = model.scheduler
    scheduler.set_timesteps(guidance.steps)
    for t in scheduler.timesteps:
        target_BCHW = torch.zeros_like(source_BCHW)
        for branch, weight in weights.items():
            if branch == "image" and guidance.still:
                target_BCHW += weight * source_BCHW * model.scale
                continue
            seen_BCHW = source_BCHW if branch in ("full", "image") else torch.zeros_like(source_BCHW)
            heard_BLD = text_BLD if branch in ("full", "text") else null_BLD
            target_BCHW += weight * _predict(model, noisy_BCHW, seen_BCHW, heard_BLD, int(t))
        noisy_BCHW = _step_to(model, target_BCHW, noisy_BCHW, int(t))
    return noisy_BCHW / model.scale


def _predict(model: Model, noisy_BCHW: Tensor, seen_BCHW: Tensor, heard_BLD: Tensor, t: int) -> Tensor:
    """The target as one branch of the guidance sees it."""
    t_B = torch.full((len(noisy_BCHW),), t, device=noisy_BCHW.device)
    output_BCHW = model.unet(torch.cat([noisy_BCHW, seen_BCHW], dim=1), t_B, heard_BLD).sample
    before_BCHW = seen_BCHW * model.scale  # what the network starts from, as a target would be
    return predict_target(output_BCHW, noisy_BCHW, before_BCHW, t_B, model.scheduler, model.diffusion)


def _step_to(model: Model, target_BCHW: Tensor, noisy_BCHW: Tensor, t: int) -> Tensor:
    """One DDIM step with the target known: the scheduler is told what it would have been told by the network."""
    scheduler = model.scheduler
    a = scheduler.alphas_cumprod[t]
    if model.diffusion.prediction == "sample":
        told_BCHW = target_BCHW
    else:
        noise_BCHW = (noisy_BCHW - a.sqrt() * target_BCHW) / (1 - a).sqrt()
        told_BCHW = (
            noise_BCHW
            if model.diffusion.prediction == "epsilon"
            else a.sqrt() * noise_BCHW - (1 - a).sqrt() * target_BCHW
        )
    return scheduler.step(told_BCHW, t, noisy_BCHW).prev_sample
