"""Pictures compared pixel by pixel: PSNR, SSIM, L1, L2, and PSNR of what an edit should have left alone.

Pictures are uint8, height x width x 3; the two of a pair are of one size, see `like`.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image as Pillow

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.metrics.spec import Spec
from instructdiffusion.model.task import Image, Mask

CAP = 60.0  # dB; equal pictures would be infinitely alike
WINDOW = 7  # pixels: the side of SSIM's window
TOLERANCE = 16  # of 255: saving and resizing alone hardly changes a colour by more
RIM = 64  # the shorter side is so many times as long as the rim of what changed

PSNR = Spec(name="psnr", unit="dB", parameters=(("cap", CAP),))
SSIM = Spec(name="ssim", unit="-1 to 1", parameters=(("window", WINDOW),))
BACKGROUND = Spec(name="background", unit="dB of PSNR where nothing was to change", parameters=(("cap", CAP),))
L1 = Spec(name="l1", unit="mean absolute difference, 0 to 1", better="lower")
L2 = Spec(name="l2", unit="mean squared difference, 0 to 1", better="lower")


def psnr(output: Image, target: Image) -> float:
    """Peak signal-to-noise ratio in dB, at most 60."""
    from skimage.metrics import peak_signal_noise_ratio

    _alike(output, target)
    with np.errstate(divide="ignore"):
        return min(CAP, float(peak_signal_noise_ratio(target, output, data_range=255)))


def ssim(output: Image, target: Image) -> float:
    """Structural similarity over windows of seven pixels, mean of the three colours."""
    from skimage.metrics import structural_similarity

    _alike(output, target)
    if min(target.shape[:2]) < WINDOW:
        raise DataError(f"a picture of {target.shape[1]} x {target.shape[0]} has no window of {WINDOW} for SSIM")
    return float(structural_similarity(target, output, data_range=255, channel_axis=2, win_size=WINDOW))


def background(output: Image, source: Image, changes: Mask) -> float | None:
    """PSNR in dB outside of what may change (height x width, bool), at most 60; None where everything may."""
    _alike(output, source)
    difference = (output.astype(np.float64) - source)[~changes]
    if not difference.size:
        return None
    error = float((difference**2).mean())
    return CAP if error == 0 else min(CAP, float(10 * np.log10(255**2 / error)))


def changed(target: Image, source: Image) -> Mask:
    """Where a target differs from its source (height x width, bool): what may change where nobody drew a mask of it.

    A colour that differs by more than 16 of 255 counts, with a rim of a 64th of the shorter side, and all gaps that are
    no wider than two rims.
    """
    _alike(target, source)
    differs = (np.abs(target.astype(np.int16) - source) > TOLERANCE).any(2).astype(np.uint8)
    side = 2 * (min(differs.shape) // RIM) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(cv2.morphologyEx(differs, cv2.MORPH_CLOSE, disc), disc).astype(np.bool_)


def l1(output: Image, target: Image) -> float:
    """Mean absolute difference of values in 0..1."""
    _alike(output, target)
    return float(np.abs(output.astype(np.float64) - target).mean() / 255)


def l2(output: Image, target: Image) -> float:
    """Mean squared difference of values in 0..1."""
    _alike(output, target)
    return float(((output.astype(np.float64) - target) ** 2).mean() / 255**2)


def like(output: Image, target: Image) -> Image:
    """The output at the target's size, by Pillow's bicubic filter, as MagicBrush's evaluation resizes it."""
    height, width = target.shape[:2]
    if output.shape == target.shape:
        return output
    return np.asarray(Pillow.fromarray(output).resize((width, height), Pillow.Resampling.BICUBIC), np.uint8)


def _alike(one: Image, other: Image) -> None:
    if one.shape != other.shape:
        raise DataError(f"pictures of {one.shape} and {other.shape} can't be compared; bring them to one size")
