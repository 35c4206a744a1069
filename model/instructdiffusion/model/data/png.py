"""Pictures, masks and maps as PNG, without a loss."""

from __future__ import annotations

import cv2
import numpy as np

# OpenCV's options: what is quickest to decode without being large, of photographs and of pictures that are nearly zero.
QUICK = (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
SPARSE = (
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
)


def encode_png(picture: np.ndarray, *options: int) -> bytes:
    """PNG bytes of a picture (RGB), a mask (bool) or a map (uint8); `options` are OpenCV's."""
    array = picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture
    stored = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    return bytes(cv2.imencode(".png", stored, options or QUICK)[1])


def decode_png(data: bytes, kind: str = "picture") -> np.ndarray:
    """The array that `encode_png` encoded; `kind` is picture, mask or map."""
    flags = cv2.IMREAD_COLOR_RGB if kind == "picture" else cv2.IMREAD_GRAYSCALE
    array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if array is None:
        raise ValueError("a picture in it is no PNG")
    return array > 127 if kind == "mask" else array
