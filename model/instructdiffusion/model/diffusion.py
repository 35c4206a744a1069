"""The loss of one batch, and what the network's output means.

Shape suffixes: B batch, C latent channels, HW latent height and width, L tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from instructdiffusion.model.config import Diffusion
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.loss_scale import LossScale

SMALLEST_SHARE = 0.02  # of the cells: changes smaller than this count as this, so that no cell gets all the weight
CHANGED = 0.05  # root mean square over channels from which a cell counts as changed
LEAST_CHANGE = (
    0.05  # of the mean square of a pixel code: is added to what a target changes, for none changes too little
)
NO_CHANGE = 1.0  # likewise for a target that changes nothing; a tint changes about as much


def add_noise(target_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor, scheduler: DDIMScheduler) -> Tensor:
    """The forward process: sqrt(a) target + sqrt(1 - a) noise (paper, equation 1)."""
    a_B111 = scheduler.alphas_cumprod.to(target_BCHW)[t_B].view(-1, 1, 1, 1)
    return a_B111.sqrt() * target_BCHW + (1 - a_B111).sqrt() * noise_BCHW


def predict_target(
    output: Tensor,
    noisy_BCHW: Tensor,
    source_BCHW: Tensor,
    t_B: Tensor,
    scheduler: DDIMScheduler,
    diffusion: Diffusion,
) -> Tensor:
    """The target that a network output stands for, whatever it predicts. With a gate, that is the last channel.

    The source is in the target's scale: a condition times the scale of the autoencoder.
    """
    if diffusion.from_source:
        return change_source(source_BCHW, output, diffusion.gate)
    if diffusion.prediction == "sample":
        return output
    a_B111 = scheduler.alphas_cumprod.to(output)[t_B].view(-1, 1, 1, 1)
    if diffusion.prediction == "epsilon":
        return (noisy_BCHW - (1 - a_B111).sqrt() * output) / a_B111.sqrt()
    return turn(noisy_BCHW, output, a_B111)


def wanted_output(
    target_BCHW: Tensor,
    noise_BCHW: Tensor,
    t_B: Tensor,
    scheduler: DDIMScheduler,
    diffusion: Diffusion,
) -> Tensor:
    """What the network should put out for a target, when that does not hang on the source."""
    if diffusion.prediction == "sample":
        return target_BCHW
    if diffusion.prediction == "epsilon":
        return noise_BCHW
    return turn(noise_BCHW, target_BCHW, scheduler.alphas_cumprod.to(target_BCHW)[t_B].view(-1, 1, 1, 1))


def change_source(source_BCHW: Tensor, output: Tensor, gate: bool) -> Tensor:
    """The source, changed: target = source + output; with a gate g, the last channel, source + sigmoid(g) * output."""
    return source_BCHW + (output[:, -1:].sigmoid() * output[:, :-1] if gate else output)


def turn(x_BCHW: Tensor, y_BCHW: Tensor, a_B111: Tensor) -> Tensor:
    """sqrt(a) x - sqrt(1 - a) y: the velocity of a noise x and a target y (arXiv 2202.00512, appendix D).

    And back: the target, of what is noisy and its velocity.
    """
    return a_B111.sqrt() * x_BCHW - (1 - a_B111).sqrt() * y_BCHW


def min_snr_weight(t_B: Tensor, scheduler: DDIMScheduler, diffusion: Diffusion) -> Tensor:
    """Weight of each sample: min(SNR, gamma), over SNR for noise and over SNR + 1 for velocity, with SNR = a / (1 - a).

    Equation of Min-SNR-gamma (arXiv 2303.09556, section 3.4). Here it is the only place where it counts: the original
    release multiplies by it twice.
    """
    a_B = scheduler.alphas_cumprod.to(t_B.device)[t_B]
    snr_B = a_B / (1 - a_B)
    kept_B = snr_B.clamp(max=diffusion.min_snr)
    if diffusion.from_source or diffusion.prediction == "sample":
        return kept_B
    return kept_B / snr_B if diffusion.prediction == "epsilon" else kept_B / (snr_B + 1)


def offset(noise_BCHW: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Offset noise: n + strength * m, with m normal and one number for each sample and channel.

    Plain noise leaves a picture's mean nearly alone, so that a network never learns to make very dark or bright ones.
    """
    return noise_BCHW + strength * torch.randn((*noise_BCHW.shape[:2], 1, 1), generator=generator)


def changed_cells(target_BCHW: Tensor, source_BCHW: Tensor) -> Tensor:
    """1.0 where target and source differ, else 0.0; batch x 1 x height x width."""
    return ((target_BCHW - source_BCHW).square().mean(1, keepdim=True).sqrt() > CHANGED).float()


def focus_weights(changed_B1HW: Tensor, focus: float) -> Tensor:
    """Weight per cell, mean 1 per sample: changed cells share `focus` of extra weight, however few they are.

    A keypoint is a handful of cells in hundreds: under a plain mean it is ignored.
    """
    share_B111 = changed_B1HW.mean((1, 2, 3), keepdim=True).clamp(min=SMALLEST_SHARE)
    weight_B1HW = 1 + changed_B1HW * focus / share_B111
    return weight_B1HW / weight_B1HW.mean((1, 2, 3), keepdim=True)


def draw_times(count: int, diffusion: Diffusion, last: int, generator: torch.Generator) -> Tensor:
    """Time steps of a batch, 0..`last`: u ** time_power, and `last_share` of them the last, where no target shows."""
    u_B = torch.rand(count, generator=generator)
    t_B = (u_B**diffusion.time_power * (last + 1)).long().clamp(max=last)
    if not diffusion.last_share:
        return t_B
    return torch.where(torch.rand(count, generator=generator) < diffusion.last_share, last, t_B)


def drop_conditions(count: int, diffusion: Diffusion, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which samples lose their text and which their image (bool, batch); none loses both (paper, section 3.3).

    Where every sample loses its image, the network learns to make pictures from captions: the stage `adapt`.
    """
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
        pixel_scale_C: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        """Take the networks; `scale` is what makes a source comparable to a target (see `Model.scale`)."""
        super().__init__()
        if diffusion.drop_pooled and not hasattr(unet, "add_embedding"):
            raise ConfigError("diffusion.drop_pooled needs a U-Net that is given pooled text; set 0 for this one")
        self.unet, self.text_encoder = unet, text_encoder
        self.scheduler, self.diffusion, self.scale = scheduler, diffusion, scale
        self.precision, self.layout = torch.float32, torch.contiguous_format  # of what the networks compute
        self.loss_scale: LossScale | None = None
        if null_text_LD is not None:
            self.register_buffer("null_text", null_text_LD, persistent=False)
        self.null_text: Tensor
        share_C = torch.ones(1) if pixel_scale_C is None else pixel_scale_C.square() / pixel_scale_C.square().mean()
        self.register_buffer("pixel_share", share_C.view(-1, 1, 1), persistent=False)
        self.pixel_share: Tensor

    def forward(
        self,
        source_BCHW: Tensor,
        target_BCHW: Tensor,
        text: Tensor,
        null_tokens: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Loss of each sample (batch): squared error, weighted by `focus_weights`, and of the gate if there is one.

        Args:
            text: token ids (batch x length) when the text encoder learns, else hidden states.
            null_tokens: token ids of the empty instruction (1 x length).
            generator: the CPU's, draws time, noise and dropped conditions: the same whatever the device.
        """
        count, diffusion = source_BCHW.shape[0], self.diffusion
        t_B = draw_times(count, diffusion, self.scheduler.config.num_train_timesteps - 1, generator)
        noise_BCHW = torch.randn(target_BCHW.shape, generator=generator)
        if diffusion.offset_noise:
            noise_BCHW = offset(noise_BCHW, diffusion.offset_noise, generator)
        drawn = (t_B, noise_BCHW, *drop_conditions(count, diffusion, generator))
        t_B, noise_BCHW, no_text_B, no_image_B = (tensor.to(source_BCHW.device) for tensor in drawn)
        seen_BCHW = torch.where(no_image_B.view(-1, 1, 1, 1), 0.0, source_BCHW)
        noisy_BCHW = add_noise(target_BCHW, noise_BCHW, t_B, self.scheduler)
        input_BCHW = torch.cat([noisy_BCHW, seen_BCHW], dim=1).contiguous(memory_format=self.layout)
        halves = self.precision != torch.float32
        with torch.autocast(source_BCHW.device.type, self.precision) if halves else nullcontext():
            text_BLD = self._text(text, null_tokens, no_text_B)
            with self._summaries(count, generator):
                output = self.unet(input_BCHW, t_B, text_BLD).sample.float()
        before_BCHW = seen_BCHW * self.scale  # what the network starts from, as a target would be
        changed_B1HW = changed_cells(target_BCHW, before_BCHW if diffusion.gate else source_BCHW * self.scale)
        weight_B1HW = focus_weights(changed_B1HW, diffusion.focus)
        if diffusion.from_source:
            error_BCHW = predict_target(output, noisy_BCHW, before_BCHW, t_B, self.scheduler, diffusion) - target_BCHW
        else:
            error_BCHW = output - wanted_output(target_BCHW, noise_BCHW, t_B, self.scheduler, diffusion)
        loss_B = (error_BCHW.square() * self.pixel_share * weight_B1HW).mean((1, 2, 3))
        if diffusion.relative:
            still_B = ((target_BCHW - before_BCHW).square() * self.pixel_share * weight_B1HW).mean((1, 2, 3))
            loss_B = loss_B / (still_B + torch.where(still_B > LEAST_CHANGE / 10, LEAST_CHANGE, NO_CHANGE))
        if diffusion.min_snr:
            loss_B = loss_B * min_snr_weight(t_B, self.scheduler, diffusion)
        if diffusion.gate:
            gate_B1HW = binary_cross_entropy_with_logits(output[:, -1:], changed_B1HW, weight_B1HW, reduction="none")
            loss_B = loss_B + diffusion.gate_weight * gate_B1HW.mean((1, 2, 3))
        return loss_B

    @contextmanager
    def _summaries(self, count: int, generator: torch.Generator) -> Iterator[None]:
        """Some samples lose the pooled text that is added to the time embedding, and have their words alone.

        What all of an instruction amounts to tells neither which colour goes with which joint, nor teaches attention
        to the words, which could: where it is there, it is enough to lower the loss of whatever asks for one thing.
        """
        if not self.diffusion.drop_pooled:
            yield
            return
        kept_B1 = (torch.rand(count, 1, generator=generator) >= self.diffusion.drop_pooled).float()
        hook = self.unet.add_embedding.register_forward_hook(lambda _, __, pooled: pooled * kept_B1.to(pooled))
        try:
            yield
        finally:
            hook.remove()

    def _text(self, text: Tensor, null_tokens: Tensor, dropped_B: Tensor) -> Tensor:
        if self.text_encoder is None:
            return torch.where(dropped_B.view(-1, 1, 1), self.null_text, text.float())
        return self.text_encoder(torch.where(dropped_B[:, None], null_tokens, text)).last_hidden_state
