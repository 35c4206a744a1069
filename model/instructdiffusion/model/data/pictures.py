"""Pictures from outside: any of the usual formats in, uint8 RGB out, or one line that names the file.

Files of public data sets are turned by a camera's note, printed in CMYK, stored in 16 bits, see-through, cut short or
made to fill the memory of whoever opens them. Every reader loads through here, so each case is met once.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image

MOST_PIXELS = 64_000_000  # 8000 x 8000: beyond every data set read here, and 192 MB when decoded
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO")  # none that starts a program or draws vectors
ClassMap = NDArray[np.uint8] | NDArray[np.uint16]  # height x width, one number a pixel
_SEE_THROUGH = ("RGBA", "LA", "PA", "RGBa", "La")
# What Pillow's decoders are known to raise on damaged bytes.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, struct.error)


def load(path: Path, *, most_pixels: int = MOST_PIXELS, size: tuple[int, int] | None = None) -> Image:
    """Load a picture as uint8 RGB, height x width x 3; what is see-through is laid over white.

    Args:
        path: of the file; its content decides the format, not its name.
        most_pixels: width times height beyond which nothing is decoded.
        size: width and height that the annotations were made for; a picture that has it as stored is left as stored,
            whatever the camera noted. Without it, a camera's note to turn the picture is followed.

    Raises:
        DataError: the file is missing, broken, too large, or of another size; names it.
    """
    try:
        with path.open("rb") as file:
            return _read(file, str(path), most_pixels, size)
    except FileNotFoundError as error:
        raise DataError(f"picture {path} is missing; download it again or take its annotations away") from error
    except OSError as error:
        raise DataError(f"picture {path} can't be opened ({error.strerror}); check its permissions") from error


def decode(data: bytes, name: str, *, most_pixels: int = MOST_PIXELS, size: tuple[int, int] | None = None) -> Image:
    """`load` for the bytes of a picture, from an archive for instance; `name` stands for the path in errors."""
    return _read(io.BytesIO(data), name, most_pixels, size)


def load_map(path: Path, *, most_pixels: int = MOST_PIXELS) -> ClassMap:
    """Load a map of classes, of 8 or 16 bits: the values as stored, never as colours of a palette.

    Raises:
        DataError: the file is missing, broken, too large, or holds colours.
    """
    try:
        with path.open("rb") as file:
            picture = _open(file, str(path), most_pixels)
            mode, values = picture.mode, _decoded(picture, str(path))
    except FileNotFoundError as error:
        raise DataError(f"map {path} is missing; download it again") from error
    if mode in ("I;16", "I;16B"):
        return np.asarray(values).astype(np.uint16)
    if mode not in ("L", "P", "1"):
        raise DataError(f"map {path} holds {mode} pixels where one number a pixel belongs; download it again")
    return np.asarray(values, np.uint8)


def size_of(path: Path, *, most_pixels: int = MOST_PIXELS) -> tuple[int, int]:
    """Width and height of a picture as stored, from its head alone.

    Raises:
        DataError: as `load`.
    """
    try:
        with path.open("rb") as file:
            return _open(file, str(path), most_pixels).size
    except FileNotFoundError as error:
        raise DataError(f"picture {path} is missing; download it again or take its annotations away") from error


def coco_picture(image_id: int) -> str:
    """The name of a COCO picture in every data set made from COCO: the releases of 2014 and 2017 share their ids."""
    return f"coco/{image_id:012d}"


def _read(file: BinaryIO, name: str, most_pixels: int, size: tuple[int, int] | None) -> Image:
    picture = _open(file, name, most_pixels)
    stored = picture.size
    turned = _upright(_decoded(picture, name), keep=size is not None and size == stored)
    if size is not None and turned.size != size:
        raise DataError(f"picture {name} is {_by(stored)} where its annotations say {_by(size)}; download it again")
    return _rgb(turned, name)


def _open(file: BinaryIO, name: str, most_pixels: int) -> Pillow.Image:
    """Read the head of a picture and refuse what is too large, before a pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # our own limit follows
            picture = Pillow.open(file, formats=FORMATS)
    except Pillow.DecompressionBombError as error:
        raise DataError(f"picture {name} is far too large ({error}); leave it out") from error
    except _DAMAGE as error:
        raise DataError(f"picture {name} is broken or of an unknown format; download it again") from error
    if picture.width * picture.height > most_pixels:
        raise DataError(f"picture {name} is {_by(picture.size)}, more than {most_pixels} pixels; make it smaller")
    return picture


def _decoded(picture: Pillow.Image, name: str) -> Pillow.Image:
    try:
        picture.load()
    except (*_DAMAGE, MemoryError) as error:
        raise DataError(f"picture {name} is broken ({error}); download it again") from error
    return picture


def _upright(picture: Pillow.Image, keep: bool) -> Pillow.Image:
    """Turn a picture as its camera noted; a note that can't be read counts as none."""
    if keep:
        return picture
    try:
        return ImageOps.exif_transpose(picture)
    except (*_DAMAGE, AttributeError, ZeroDivisionError):
        return picture


def _rgb(picture: Pillow.Image, name: str) -> Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _from_deep(np.asarray(picture), name)
    if picture.mode in _SEE_THROUGH or "transparency" in picture.info:
        above = picture.convert("RGBA")
        picture = Pillow.alpha_composite(Pillow.new("RGBA", above.size, "white"), above)
    return np.array(picture.convert("RGB"), np.uint8)


def _from_deep(values: np.ndarray, name: str) -> Image:
    """8-bit RGB of one channel of 16-bit integers (0..65535) or of floats (0..1, or 0..255 when any is above 1)."""
    if not np.isfinite(values).all():
        raise DataError(f"picture {name} holds NaN or infinite pixels; make it again")
    whole = 65535 if values.dtype.kind != "f" else 1 if values.max(initial=0) <= 1 else 255
    gray = np.clip(np.rint(values * (255 / whole)), 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
