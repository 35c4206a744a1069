"""The light U-Net that reads a tint: how much of each pixel a colour covers.

The paper reads masks with such a network and says no more of it than that (sections 4.2, 4.3). Solving each pixel for
its opacity needs no network and is exact on what was painted by hand, but takes noise and soft edges for paint; the
network has learnt what they look like. It sees the source, what changed, and what the colour would change, and says
nothing of objects: it learns as often from patches as from them (`tint_training`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import UNet2DModel
from numpy.typing import NDArray
from torch import Tensor

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image, Mask

SHIPPED = Path(__file__).parent / "tint_weights"
CHANNELS = 9  # source, change, what full opacity would change
LARGEST = 256  # pixels of the longer side that it looks at; more shows it nothing new
_STRIDE = 4  # its coarsest level


def create() -> UNet2DModel:
    """The network, untrained: three levels, 0.6 million weights."""
    return UNet2DModel(
        in_channels=CHANNELS,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        add_attention=False,
    )


@cache
def load(folder: Path = SHIPPED) -> UNet2DModel:
    """Read a trained network.

    Raises:
        DataError: it is not there, or broken.
    """
    try:
        unet: UNet2DModel = UNet2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"the tint network in {folder} can't be read ({error}); install the package again") from error
    return unet.eval().requires_grad_(False)


def covered(output: Image, source: Image, ink: NDArray[np.float32], unet: UNet2DModel | None = None) -> Mask:
    """Which pixels of `output` are tinted with `ink`, where `source` was not.

    Args:
        output, source: height x width x 3, 0..255, of one size.
        ink: red, green, blue, 0..255.
        unet: as `create` makes it; None: the shipped one.
    """
    height, width = source.shape[:2]
    scale = min(1.0, LARGEST / max(height, width))
    size = [max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in (width, height)]
    after, before = (cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (output, source))
    with torch.inference_mode():
        logits_1HW = says(unet or load(), features(after[None], before[None], ink[None]))
    return np.asarray(cv2.resize(logits_1HW[0].numpy(), (width, height), interpolation=cv2.INTER_LINEAR) > 0)


def features(output_BHWC: NDArray[np.uint8], source_BHWC: NDArray[np.uint8], ink_BC: NDArray[np.float32]) -> Tensor:
    """What the network sees: batch x 9 x height x width, around -1..1."""
    before = torch.from_numpy(np.ascontiguousarray(source_BHWC)).float().movedim(-1, 1) / 255
    after = torch.from_numpy(np.ascontiguousarray(output_BHWC)).float().movedim(-1, 1) / 255
    ink = torch.from_numpy(np.asarray(ink_BC, np.float32))[:, :, None, None] / 255
    return torch.cat([2 * before - 1, 4 * (after - before), ink - before], dim=1)


def says(unet: UNet2DModel, features_BCHW: Tensor) -> Tensor:
    """Logits that a pixel is tinted; batch x height x width."""
    logits: Tensor = unet(features_BCHW, 0).sample[:, 0]
    return logits
