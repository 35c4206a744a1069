"""The loss of one batch, and what the network's output means.

Shape suffixes: B batch, C latent channels, HW latent height and width, L tokens, D text width.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from instructdiffusion.model.config import Diffusion

SMALLEST_SHARE = 0.02  # of the cells: changes smaller than this count as this, so that no cell gets all the weight
CHANGED = 0.05  # root mean square over channels from which a cell counts as changed


def add_noise(target_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor, scheduler: DDIMScheduler) -> Tensor:
    """The forward process: sqrt(a) target + sqrt(1 - a) noise (paper, equation 1)."""
    a_B111 = scheduler.alphas_cumprod.to(target_BCHW)[t_B].view(-1, 1, 1, 1)
    return a_B111.sqrt() * target_BCHW + (1 - a_B111).sqrt() * noise_BCHW


def predict_target(
    output_BCHW: Tensor,
    noisy_BCHW: Tensor,
    source_BCHW: Tensor,
    t_B: Tensor,
    scheduler: DDIMScheduler,
    diffusion: Diffusion,
) -> Tensor:
    """The target that a network output stands for, whatever it predicts."""
    if diffusion.from_source:
        return source_BCHW + output_BCHW
    if diffusion.prediction == "sample":
        return output_BCHW
    a_B111 = scheduler.alphas_cumprod.to(output_BCHW)[t_B].view(-1, 1, 1, 1)
    if diffusion.prediction == "epsilon":
        return (noisy_BCHW - (1 - a_B111).sqrt() * output_BCHW) / a_B111.sqrt()
    return a_B111.sqrt() * noisy_BCHW - (1 - a_B111).sqrt() * output_BCHW


def wanted_output(
    target_BCHW: Tensor,
    noise_BCHW: Tensor,
    source_BCHW: Tensor,
    t_B: Tensor,
    scheduler: DDIMScheduler,
    diffusion: Diffusion,
) -> Tensor:
    """What the network should put out for a target."""
    if diffusion.from_source:
        return target_BCHW - source_BCHW
    if diffusion.prediction == "sample":
        return target_BCHW
    if diffusion.prediction == "epsilon":
        return noise_BCHW
    a_B111 = scheduler.alphas_cumprod.to(target_BCHW)[t_B].view(-1, 1, 1, 1)
    return a_B111.sqrt() * noise_BCHW - (1 - a_B111).sqrt() * target_BCHW


def focus_weights(target_BCHW: Tensor, source_BCHW: Tensor, focus: float) -> Tensor:
    """Weight per cell, mean 1 per sample: changed cells share `focus` of extra weight, however few they are.

    A keypoint is a handful of cells in hundreds: under a plain mean it is ignored.
    """
    changed_B1HW = ((target_BCHW - source_BCHW).square().mean(1, keepdim=True).sqrt() > CHANGED).float()
    share_B111 = changed_B1HW.mean((1, 2, 3), keepdim=True).clamp(min=SMALLEST_SHARE)
    weight_B1HW = 1 + changed_B1HW * focus / share_B111
    return weight_B1HW / weight_B1HW.mean((1, 2, 3), keepdim=True)


def drop_conditions(count: int, diffusion: Diffusion, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which samples lose their text and which their image (bool, batch); none loses both (paper, section 3.3)."""
    draw_B = torch.rand(count, generator=generator)
    text_B = draw_B < diffusion.drop_text
    image_B = (draw_B >= diffusion.drop_text) & (draw_B < diffusion.drop_text + diffusion.drop_image)
    return text_B, image_B


class Objective(nn.Module):
    """The training loss as one module, so that one engine holds every weight that learns."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: nn.Module | None,
        null_text_LD: Tensor | None,
        scheduler: DDIMScheduler,
        diffusion: Diffusion,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.scheduler, self.diffusion, self.bf16 = scheduler, diffusion, bf16
        if null_text_LD is not None:
            self.register_buffer("null_text", null_text_LD, persistent=False)
        self.null_text: Tensor

    def forward(
        self,
        source_BCHW: Tensor,
        target_BCHW: Tensor,
        text: Tensor,
        null_tokens: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean squared error of each sample (batch), weighted as `focus_weights` says.

        Args:
            text: token ids (batch x length) when the text encoder learns, else hidden states.
            null_tokens: token ids of the empty instruction (1 x length).
            generator: draws time, noise and dropped conditions.
        """
        count = source_BCHW.shape[0]
        u_B = torch.rand(count, generator=generator)
        t_B = (
            (u_B**self.diffusion.time_power * self.scheduler.config.num_train_timesteps)
            .long()
            .clamp(max=self.scheduler.config.num_train_timesteps - 1)
        )
        noise_BCHW = torch.randn(target_BCHW.shape, generator=generator)
        no_text_B, no_image_B = drop_conditions(count, self.diffusion, generator)
        seen_BCHW = torch.where(no_image_B.view(-1, 1, 1, 1), 0.0, source_BCHW)
        noisy_BCHW = add_noise(target_BCHW, noise_BCHW, t_B, self.scheduler)
        with torch.autocast(source_BCHW.device.type, torch.bfloat16, enabled=self.bf16):
            text_BLD = self._text(text, null_tokens, no_text_B)
            output_BCHW = self.unet(torch.cat([noisy_BCHW, seen_BCHW], dim=1), t_B, text_BLD).sample.float()
        wanted_BCHW = wanted_output(target_BCHW, noise_BCHW, seen_BCHW, t_B, self.scheduler, self.diffusion)
        weight_B1HW = focus_weights(target_BCHW, source_BCHW, self.diffusion.focus)
        return ((output_BCHW - wanted_BCHW).square() * weight_B1HW).mean((1, 2, 3))

    def _text(self, text: Tensor, null_tokens: Tensor, dropped_B: Tensor) -> Tensor:
        if self.text_encoder is None:
            return torch.where(dropped_B.view(-1, 1, 1), self.null_text, text.float())
        return self.text_encoder(torch.where(dropped_B[:, None], null_tokens, text)).last_hidden_state
