"""Restoration: the target is the picture before it was damaged (section 4.4 of the paper: denoise, deblur, watermark).

Damage is synthetic and its parameters are in the label: Gaussian and Poisson noise, motion and defocus blur, and
see-through text. The measure is the gain in PSNR over leaving the picture as it is.
"""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.task import Ask, Image, Label, Metric, Task, psnr

Parameters = dict[str, Any]
WORDS = ("SAMPLE", "DRAFT", "PREVIEW", "PHOTO", "DEMO", "COPY", "STOCK", "PROOF")
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
)


class Restoration(Task):
    """Label: the `clean` picture and the parameters of the `damage`."""

    family = "restoration"
    needs = ("clean",)
    gain: ClassVar[float]

    def stage(self, studio: Studio, rng: Random) -> tuple[Image, Label]:
        clean = studio.scene(rng).render() if rng.random() < 0.7 else studio.background(rng)
        source, parameters = self.damage(clean, rng)
        return source, {"clean": clean, "damage": parameters, "held_out": False}

    def damage(self, clean: Image, rng: Random) -> tuple[Image, Parameters]:
        """Damage a picture at random and say how."""
        raise NotImplementedError

    def ask(self, label: Label, rng: Random) -> Ask:
        self.check(label)
        return Ask(self.name, rng.choice(self.templates))

    def paint(self, source: Image, label: Label, ask: Ask) -> Image:
        return np.asarray(label["clean"]).copy()

    def read(self, output: Image, source: Image, ask: Ask) -> dict[str, Any]:
        return {}

    def score(self, output: Image, source: Image, label: Label, ask: Ask) -> dict[str, float]:
        return {
            "gain": psnr(output, label["clean"]) - psnr(source, label["clean"]),
            "psnr": psnr(output, label["clean"]),
        }


class Denoise(Restoration):
    """Gaussian and Poisson noise."""

    name = "denoise"
    weight = 5.0
    metric = Metric("gain", "dB of PSNR over doing nothing", 5.0)
    templates = (
        "Remove the noise.",
        "Denoise this picture.",
        "Clean up the grain.",
        "Get rid of the grain and noise.",
        "Make this noisy photo clean.",
        "Reduce the noise in the photo.",
        "Take the noise out of this picture.",
        "Suppress the speckles in the photo.",
        "This picture is noisy, clean it.",
        "Give me a version without noise.",
    )

    def damage(self, clean: Image, rng: Random) -> tuple[Image, Parameters]:
        sigma, peak = rng.uniform(12, 45), rng.uniform(40, 400)
        return add_noise(clean, sigma, peak, rng), {"sigma": round(sigma, 1), "poisson_peak": round(peak)}


class Deblur(Restoration):
    """Motion and defocus blur; sizes in pixels grow with the picture."""

    name = "deblur"
    weight = 8.0
    metric = Metric("gain", "dB of PSNR over doing nothing", 1.0)
    templates = (
        "Remove the blur.",
        "Deblur this picture.",
        "Make the photo sharp.",
        "Sharpen this blurry picture.",
        "Bring the photo into focus.",
        "Undo the motion blur.",
        "The picture is blurred, restore it.",
        "Make the details crisp again.",
        "Fix the focus of this photo.",
        "Give me a sharp version.",
    )

    def damage(self, clean: Image, rng: Random) -> tuple[Image, Parameters]:
        scale = clean.shape[0] / 64
        if rng.random() < 0.5:
            length, angle = rng.uniform(3, 7) * scale, rng.uniform(0, 180)
            return convolve(clean, motion_kernel(length, angle)), {
                "motion": round(length, 1),
                "angle": round(angle),
            }
        radius = rng.uniform(1.2, 2.6) * scale
        return convolve(clean, defocus_kernel(radius)), {"defocus": round(radius, 2)}


class Watermark(Restoration):
    """See-through text over the picture."""

    name = "watermark"
    weight = 7.0
    metric = Metric("gain", "dB of PSNR over doing nothing", 3.0)
    templates = (
        "Remove the watermark.",
        "Take the text off this picture.",
        "Erase the watermark from the photo.",
        "Get rid of the text overlay.",
        "Clear the watermark away.",
        "Give me the photo without the watermark.",
        "Delete the letters over the picture.",
        "Remove the overlaid text.",
        "Restore what is under the watermark.",
        "Make the watermark disappear.",
    )

    def damage(self, clean: Image, rng: Random) -> tuple[Image, Parameters]:
        word, opacity = rng.choice(WORDS), rng.uniform(0.35, 0.75)
        level = rng.choice((255, 255, 230, 20))
        cover = _text(clean.shape[0], word, rng)[..., None] * opacity
        return (clean * (1 - cover) + cover * level).round().astype(np.uint8), {
            "text": word,
            "opacity": round(opacity, 2),
        }


def add_noise(clean: Image, sigma: float, peak: float, rng: Random) -> Image:
    """Poisson noise of `peak` photons at white, then Gaussian noise of deviation `sigma` (0..255)."""
    source = np.random.default_rng(rng.getrandbits(64))
    light = source.poisson(clean / 255.0 * peak) * (255.0 / peak)
    noisy: NDArray[np.float64] = light + source.normal(0, sigma, clean.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def motion_kernel(length: float, angle: float) -> NDArray[np.float32]:
    """A straight stroke `length` pixels long at `angle` degrees; sums to 1."""
    size = 2 * int(np.ceil(length / 2)) + 3
    canvas = np.zeros((size * 8, size * 8), np.float32)
    middle = np.array([size * 4, size * 4])
    way = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * length * 4
    start, end = (middle - way).astype(int).tolist(), (middle + way).astype(int).tolist()
    cv2.line(canvas, start, end, 1.0, 8)
    kernel = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(kernel / kernel.sum(), np.float32)


def defocus_kernel(radius: float) -> NDArray[np.float32]:
    """A disc of `radius` pixels; sums to 1."""
    reach = int(np.ceil(radius)) + 1
    ys, xs = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(xs, ys), 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def convolve(picture: Image, kernel: NDArray[np.float32]) -> Image:
    """Filter every channel, mirroring at the border."""
    return np.asarray(cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.uint8)


def _text(side: int, word: str, rng: Random) -> NDArray[np.float32]:
    """Coverage 0..1 of a word drawn once or tiled, turned, at a random size."""
    canvas = np.zeros((side * 4, side * 4), np.uint8)
    font, scale = rng.choice(_FONTS), side / 64 * rng.uniform(1.2, 2.2)
    thick = max(2, round(scale * 3))
    (width, height), _ = cv2.getTextSize(word, font, scale, thick)
    rows = rng.choice((1, 2, 3))
    for row in range(rows):
        x = round((side * 4 - width) * rng.uniform(0.2, 0.8))
        y = round(side * 4 * (row + 1) / (rows + 1) + height / 2)
        cv2.putText(canvas, word, (x, y), font, scale, 255, thick, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D((side * 2, side * 2), rng.choice((0, 0, 30, -30)), 1.0)
    turned = cv2.warpAffine(canvas, turn, canvas.shape)
    small = cv2.resize(turned, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


TASKS = (Denoise(), Deblur(), Watermark())
