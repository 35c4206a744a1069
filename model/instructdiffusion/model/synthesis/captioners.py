"""Captioners: words for a thing in a photograph. One interface, chosen by an address.

labels          the words of the data set
blip2:PATH      BLIP-2, a network that looks (Li et al., 2023), from its folder or hub id; as in the paper
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.synthesis.cutouts import Cutout
from instructdiffusion.model.synthesis.regions import bare

LABELS = "labels"
LONGEST = 20  # tokens of a caption


class Captioner(ABC):
    """A way to name things; `name` says which, for provenance. The same input gives the same words."""

    name: str

    @abstractmethod
    def phrase(self, cutout: Cutout, known: str) -> str:
        """The words for a thing, without an article: "red car".

        Args:
            known: what the data set calls it; empty where it doesn't.
        """


class Labels(Captioner):
    """The data set's own words."""

    name = LABELS

    def phrase(self, cutout: Cutout, known: str) -> str:
        return known


class Blip2(Captioner):
    """BLIP-2 in transformers' layout; what the data set says is not asked for."""

    def __init__(self, address: str) -> None:
        """Load it.

        Raises:
            DataError: there is no such network.
        """
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        from instructdiffusion.model.metrics.networks import loaded, named

        self.processor: Any = loaded(Blip2Processor, address)
        self.network: Any = loaded(Blip2ForConditionalGeneration, address)
        self.name = f"blip2:{named(address)}"

    def phrase(self, cutout: Cutout, known: str) -> str:
        import torch

        inputs = self.processor(images=cutout.picture, return_tensors="pt").to(self.network.device)
        with torch.inference_mode():
            tokens = self.network.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        (said,) = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return bare(said)


@lru_cache(maxsize=2)
def captioner(address: str) -> Captioner:
    """The captioner that an address names; see the top of this file.

    Raises:
        ConfigError: there is no such captioner.
        DataError: there is no network at its path.
    """
    kind, _, rest = address.partition(":")
    if address == LABELS:
        return Labels()
    if kind == "blip2" and rest:
        return Blip2(rest)
    raise ConfigError(f"no captioner {address!r}; choose labels or blip2:PATH")
