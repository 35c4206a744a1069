"""Names of colours: one lexicon for marks, masks and objects.

The original paints "green" as (0, 255, 0) on keypoints and (0, 128, 0) on masks; one word here means one colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]

#: The nine colours of keypoint discs (paper, section 3.1; their values from the release).
MARKS: dict[str, Color] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "gray": (128, 128, 128),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}

#: The eight colours of masks; the release's list with the green of the discs.
TINTS: dict[str, Color] = {
    "red": (255, 0, 0),
    "purple": (128, 0, 128),
    "blue": (0, 0, 255),
    "green": (0, 255, 0),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
}

#: The colours that drawn objects come in.
OBJECTS: dict[str, Color] = {
    "red": (215, 35, 40),
    "orange": (240, 135, 25),
    "yellow": (240, 220, 50),
    "green": (45, 155, 60),
    "cyan": (60, 205, 215),
    "blue": (45, 75, 210),
    "purple": (135, 45, 160),
    "pink": (245, 150, 195),
}


def nearest(color: NDArray[np.floating], palette: dict[str, Color]) -> str:
    """The name in `palette` nearest to an RGB value (0..255), by hue and lightness rather than by shade.

    Colours are compared after removing their brightness by half, so that a shaded red stays red.
    """
    return min(palette, key=lambda name: float(((_flat(color) - _flat(np.array(palette[name], float))) ** 2).sum()))


def _flat(color: NDArray[np.floating]) -> NDArray[np.floating]:
    gray = color.mean()
    return (color - gray) + 0.5 * gray
