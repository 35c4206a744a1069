"""What exactly a number is: the metric, its version, and all that another program would need to compute it again."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field

from instructdiffusion.model.task import Image

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Preprocessing(BaseModel):
    """How a picture becomes what a network is given: resize, crop, scale to 0..1, normalise. 0 leaves a step out."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    resize: int = Field(0, ge=0, description="pixels of the shorter side")
    resample: Resample = "bicubic"
    crop: int = Field(0, ge=0, description="side in pixels of the square cut from the middle")
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __call__(self, picture: Image) -> NDArray[np.float32]:
        """The picture as 3 x height x width, in the steps and with the rounding of torchvision's transforms."""
        made = Pillow.fromarray(picture)
        if self.resize:
            short = min(made.size)
            size = (self.resize * made.width // short, self.resize * made.height // short)
            made = made.resize(size, Pillow.Resampling[self.resample.upper()])
        if self.crop:
            left, top = round((made.width - self.crop) / 2), round((made.height - self.crop) / 2)
            made = made.crop((left, top, left + self.crop, top + self.crop))
        values = np.asarray(made, np.float32) / 255
        normal = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))


class Spec(BaseModel):
    """A metric as it was computed; stored with every value."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    version: int = Field(1, ge=1, description="raised when the same pictures may score differently than before")
    unit: str
    better: Literal["higher", "lower"] = "higher"
    preprocessing: Preprocessing | None = Field(None, description="of what a network is given; null: none is")
    model: str = Field(
        "", description="the network: its address, and its digest or its revision on the hub; empty: none"
    )
    resolution: int = Field(0, ge=0, description="side in pixels that pictures are compared at; 0: the source's own")
    seed: int = Field(0, ge=0, description="of the intervals, and of whatever else is random")
    parameters: tuple[tuple[str, float | str], ...] = Field((), description="thresholds and the like, by name")

    @property
    def digest(self) -> str:
        """`sha256:...` of all fields: equal digests, comparable numbers."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def parameter(self, name: str) -> float:
        """A parameter that is a number."""
        return float(dict(self.parameters)[name])
