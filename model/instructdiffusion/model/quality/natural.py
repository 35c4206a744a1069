"""How natural pictures look, without a reference: BRISQUE, and the distance to a gallery of good ones (KNN-GIQA)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.quality import Options, Score, Values
from instructdiffusion.model.quality.gallery import Gallery
from instructdiffusion.model.task import Image

if TYPE_CHECKING:
    from instructdiffusion.model.metrics.networks import Encoder

SMALLEST = 32  # pixels: BRISQUE looks at windows, also in a picture of half the size


class Brisque(Score):
    """Noise, blur and blocks, as people notice them (Mittal et al., 2012)."""

    name = "brisque"
    about = f"BRISQUE of the target, about 0 to 100; none for pictures below {SMALLEST} px"

    def load(self) -> str:
        try:
            from brisque import BRISQUE, __version__
        except ModuleNotFoundError as error:
            raise ConfigError(f"{error.name} is not installed; run: pip install 'instructdiffusion[quality]'") from None

        class Flat(BRISQUE):
            """The package hands arrays of one number to `float`, which numpy refuses."""

            def scale_features(self, features: Sequence[Any]) -> NDArray[np.float64]:
                return np.asarray(super().scale_features([np.squeeze(value) for value in features]))

        self.network: Any = Flat()
        return f"brisque {__version__}"

    def values(self, triplets: Sequence[Triplet]) -> Values:
        return [None if min(t.target.shape[:2]) < SMALLEST else self._of(t.target) for t in triplets]

    def _of(self, picture: Image) -> float:
        with np.errstate(all="ignore"):  # a picture of one colour has no spread; its value is no number, so none
            return float(self.network.score(picture))


class GiqaOptions(Options):
    """Which pictures are good, and who compares."""

    files = ("gallery",)
    gallery: Path = Field(description="file that `instructdiffusion data gallery` wrote")
    network: str = Field(min_length=1, description="folder or hub id of the network that it was made with")
    neighbours: int = Field(7, ge=1, description="how many of the nearest count")


class Giqa(Score):
    """How far the target is from pictures that are known to be good (KNN-GIQA; Gu et al., 2020)."""

    name = "giqa"
    about = "mean squared distance of the target's features, each of unit spread, to the nearest of a gallery"
    Options = GiqaOptions
    network: Encoder

    def load(self) -> str:
        from instructdiffusion.model.metrics.networks import encoder

        self.gallery = Gallery.load(self.options.gallery)
        self.network = encoder(self.options.network)
        self.gallery.require(self.network.name, self.options.neighbours)
        return f"{self.network.name} {self.gallery.digest}"

    def values(self, triplets: Sequence[Triplet]) -> Values:
        vectors = self.network.pictures([t.target for t in triplets])
        return list(self.gallery.distances(np.stack(vectors), self.options.neighbours))


SCORES = (Brisque, Giqa)
