"""The nano model's autoencoder: principal components of patches of pixels. Full size has diffusers' `AutoencoderKL`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from instructdiffusion.model.task import Image

IMAGE_CHANNELS = 3


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Patches to their principal components and back: an autoencoder with nothing to train.

    Components are divided by the root of their standard deviation, so that fine detail neither drowns nor dominates.
    Same interface as `AutoencoderKL`. docs/decisions/0002-nano-base.md says why this and not a trained one.
    """

    @register_to_config
    def __init__(self, patch: int = 4, latent_channels: int = 32, scaling_factor: float = 1.0) -> None:
        super().__init__()
        size = IMAGE_CHANNELS * patch * patch
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.eye(size)[:latent_channels].clone())
        self.register_buffer("spread", torch.ones(latent_channels))
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)

    @torch.no_grad()
    def fit(self, pictures: Iterable[Image]) -> PatchAutoencoder:
        """Set the components from pictures (uint8), a few hundred at least."""
        pixels = torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float() / 127.5 - 1
        patches = self.unshuffle(pixels).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
        order = values.argsort(descending=True)[: self.components.shape[0]]
        deviation = values[order].clamp(min=1e-6).sqrt()
        spread = deviation.sqrt()
        spread *= (deviation / spread).square().mean().sqrt()  # latents have mean square 1
        self.mean.copy_(mean)
        self.components.copy_(vectors[:, order].T)
        self.spread.copy_(spread)
        return self

    def encode(self, pixels: Tensor) -> AutoencoderKLOutput:
        """Pixels in -1..1 (batch x 3 x height x width) to a distribution of no width over latents."""
        patches = self.unshuffle(pixels) - self.mean[:, None, None]
        latents = torch.einsum("bphw,cp->bchw", patches, self.components) / self.spread[:, None, None]
        moments = torch.cat([latents, torch.full_like(latents, -30.0)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments, deterministic=True))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Latents to pixels in about -1..1."""
        patches = torch.einsum("bchw,cp->bphw", latents * self.spread[:, None, None], self.components)
        return DecoderOutput(sample=self.shuffle(patches + self.mean[:, None, None]))
