"""Inpainters: what stood behind a region, guessed. One interface, chosen by an address.

    opencv, opencv:ns       Telea's or Navier-Stokes' method of OpenCV: quick, smears where the region is large
    patchmatch              PatchMatch: copies texture from the rest of the picture; needs the extra `synthesis`
    lama:PATH               LaMa, a network that has seen photographs, from its file: TorchScript or safetensors

Pixels outside the mask stay as they are, to the bit, whatever the method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.task import Image, Mask

RADIUS = 5  # pixels around a pixel that OpenCV's methods look at
PATCH = 2  # PatchMatch compares squares of 2 x 2 + 1 pixels; larger ones copy whole things, faces for instance


class Inpainter(ABC):
    """A way to fill a hole; `name` says which, for provenance. The same input gives the same output."""

    name: str

    def fill(self, picture: Image, mask: Mask) -> Image:
        """The picture with what the mask covers replaced by a guess; all else is as it was.

        Raises:
            DataError: the mask is of another size, or covers everything.
        """
        if mask.shape != picture.shape[:2]:
            raise DataError(f"the mask is {mask.shape} where its picture is {picture.shape[:2]}; resize it")
        if not mask.any():
            return picture.copy()
        if mask.all():
            raise DataError("the mask covers the whole picture: nothing is left to go by; leave it out")
        return np.where(mask[..., None], self.guess(picture, mask), picture)

    @abstractmethod
    def guess(self, picture: Image, mask: Mask) -> Image:
        """A picture that is right where the mask is; what it holds elsewhere is not used."""


class OpenCv(Inpainter):
    """OpenCV's two methods, `telea` and `ns`."""

    def __init__(self, method: str = "telea") -> None:
        self.name = f"opencv:{method}"
        self.method = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}[method]

    def guess(self, picture: Image, mask: Mask) -> Image:
        return np.asarray(cv2.inpaint(picture, mask.astype(np.uint8), RADIUS, self.method), np.uint8)


class PatchMatch(Inpainter):
    """Patches of the picture itself, found by random search from a fixed seed (Barnes et al., SIGGRAPH 2009)."""

    name = "patchmatch"

    def __init__(self) -> None:
        try:
            import patchmatch
        except ModuleNotFoundError as error:
            raise ConfigError("patchmatch is not installed; run: pip install 'instructdiffusion[synthesis]'") from error
        if not patchmatch.patchmatch_available:
            raise ConfigError("patchmatch has no library for this machine; use opencv or lama:PATH")
        self.library = patchmatch

    def guess(self, picture: Image, mask: Mask) -> Image:
        self.library.set_random_seed(0)
        return np.asarray(self.library.inpaint(picture, mask, patch_size=PATCH), np.uint8)


@lru_cache(maxsize=4)
def inpainter(address: str) -> Inpainter:
    """The inpainter that an address names; see the top of this file.

    Raises:
        ConfigError: there is no such inpainter, or its package is missing.
        DataError: its file is missing or is not LaMa.
    """
    kind, _, rest = address.partition(":")
    if kind == "opencv" and rest in ("", "telea", "ns"):
        return OpenCv(rest or "telea")
    if address == "patchmatch":
        return PatchMatch()
    if kind == "lama" and rest:
        from instructdiffusion.model.synthesis.lama import Lama

        return Lama.load(Path(rest))
    raise ConfigError(f"no inpainter {address!r}; choose one of opencv, opencv:ns, patchmatch, lama:PATH")
