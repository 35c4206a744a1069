"""Restoration of tones: gray, dark and hazy photographs. Made of photographs alone, not of composed scenes.

The target is the photograph; the damage and its parameters are in the label, as in `restoration`.
"""

from __future__ import annotations

from random import Random

import cv2
import numpy as np

from instructdiffusion.model.task import Image, Metric
from instructdiffusion.model.tasks.restoration import Parameters, Restoration


class Colorize(Restoration):
    """A gray photograph gets its colours."""

    name = "colorize"
    weight = 3.0
    composed = False
    metric = Metric("gain", "dB of PSNR over doing nothing", 1.0)
    templates = (
        "Colorize this photo.",
        "Add color to this black and white picture.",
        "Bring color into this gray photo.",
        "Turn this gray picture into a color photo.",
        "Restore the colors of this photo.",
        "Give this gray photo its colors back.",
        "This picture is black and white, color it.",
        "Make this black and white photo colorful.",
        "Fill this gray picture with natural colors.",
        "Paint this old photo in natural colors.",
    )

    def damage(self, clean: Image, rng: Random) -> tuple[Image, Parameters]:
        gray = cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY)
        return np.repeat(gray[..., None], 3, axis=-1), {"gray": True}


class Brighten(Restoration):
    """A photograph taken in little light: darker, by a power and a share, and noisier for it."""

    name = "brighten"
    weight = 3.0
    composed = False
    metric = Metric("gain", "dB of PSNR over doing nothing", 3.0)
    templates = (
        "Brighten this photo.",
        "Make this dark picture bright.",
        "Turn up the light in this photo.",
        "Lighten up this dark photo.",
        "This picture is too dark, brighten it.",
        "Correct the low light of this photo.",
        "Bring light into this dark picture.",
        "Raise the exposure of this photo.",
        "Make the dark photo look well lit.",
        "Give me a well lit version of this picture.",
    )

    def damage(self, clean: Image, rng: Random) -> tuple[Image, Parameters]:
        power, share, photons = rng.uniform(1.5, 2.5), rng.uniform(0.3, 0.6), rng.uniform(300, 1500)
        source = np.random.default_rng(rng.getrandbits(64))
        light = source.poisson((clean / 255.0) ** power * share * photons) / photons
        dark = (light * 255).clip(0, 255).round().astype(np.uint8)
        return dark, {"power": round(power, 2), "share": round(share, 2), "photons": round(photons)}


class Dehaze(Restoration):
    """Haze: light of the air over the picture, more of it the higher up, where things are farther away."""

    name = "dehaze"
    weight = 3.0
    composed = False
    metric = Metric("gain", "dB of PSNR over doing nothing", 3.0)
    templates = (
        "Remove the haze.",
        "Dehaze this picture.",
        "Clear the fog from this photo.",
        "Take the mist out of this picture.",
        "Get rid of the fog.",
        "Make this hazy photo clear.",
        "This picture is foggy, clear it.",
        "Lift the haze from the photo.",
        "Restore the contrast that the haze took.",
        "Give me a version without fog.",
    )

    def damage(self, clean: Image, rng: Random) -> tuple[Image, Parameters]:
        near, far, air = rng.uniform(0.2, 0.4), rng.uniform(0.5, 0.8), rng.uniform(200, 250)
        cover = np.linspace(far, near, clean.shape[0])[:, None, None]
        hazy = (clean * (1 - cover) + air * cover).round().astype(np.uint8)
        return hazy, {"near": round(near, 2), "far": round(far, 2), "air": round(air)}


TASKS = (Colorize(), Brighten(), Dehaze())
