"""Pictures and words compared in a network's space: CLIP-Sim, CLIP-I, CLIP-T, DINO, directional likeness, aesthetics.

The functions take vectors and know no network; `networks` makes vectors. MagicBrush's recipe is ViT-B/32 of CLIP, and
ViT-S/16 of DINO on pictures resized to 256 and cut to 224 (evaluation/image_eval.py of its release).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.metrics.spec import Preprocessing, Spec

Vector = NDArray[np.floating]

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_224 = Preprocessing(resize=224, crop=224, mean=_MEAN, std=_STD)
DINO_224 = Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

CLIP_SIM = Spec(name="clip_sim", unit="100 x cosine of output and target caption", preprocessing=CLIP_224)
CLIP_T = Spec(name="clip_t", unit="cosine of output and local caption", preprocessing=CLIP_224)
CLIP_I = Spec(name="clip_i", unit="cosine of output and target", preprocessing=CLIP_224)
DINO = Spec(name="dino", unit="cosine of output and target", preprocessing=DINO_224)
DIRECTION = Spec(name="direction", unit="cosine of the change in pictures and in captions", preprocessing=CLIP_224)
AESTHETIC = Spec(name="aesthetic", unit="LAION's score, about 1 to 10", preprocessing=CLIP_224)


def cosine(one: Vector, other: Vector) -> float:
    """Cosine of two vectors, -1 to 1; 0 where one of them is nothing."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.dot(one, other) / lengths) if lengths else 0.0


def direction(source: Vector, output: Vector, source_caption: Vector, target_caption: Vector) -> float:
    """Whether a picture changed the way its caption did (InstructPix2Pix); of unit vectors. Nothing done is 0."""
    return cosine(unit(output) - unit(source), unit(target_caption) - unit(source_caption))


def aesthetic(picture: Vector, layers: Mapping[str, Vector]) -> float:
    """LAION's aesthetic score of a CLIP vector: linear layers one after the other, on the vector at length 1.

    Args:
        layers: `NAME.weight` and `NAME.bias`, in order; the linear predictor has one, the improved one five.
    """
    value = unit(picture)
    for name in [key.removesuffix("weight") for key in layers if key.endswith("weight")]:
        value = layers[f"{name}weight"] @ value + layers[f"{name}bias"]
    return float(value.item())


def unit(vector: Vector) -> Vector:
    """The vector at length 1."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))
