"""Masks as COCO's uncompressed run-length encoding: runs down the columns, starting with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np

from instructdiffusion.model.task import Mask


def encode_rle(mask: Mask) -> dict[str, Any]:
    """`{"size": [height, width], "counts": [...]}`."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.concatenate([[0], edges, [] if mask.ravel(order="F")[-1:].any() else [mask.size]]).astype(int)
    return {"size": [int(n) for n in mask.shape], "counts": np.diff(ends).tolist()}


def decode_rle(rle: dict[str, Any]) -> Mask:
    """The mask that `encode_rle` encoded."""
    values = np.arange(len(rle["counts"])) % 2 == 1
    return np.repeat(values, rle["counts"]).reshape(rle["size"], order="F")
