"""Package: make a Bento of a promoted model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from instructdiffusion.model.errors import DataError


class Packaged(TypedDict):
    """What a release records: the Bento's tag, where it lives, and the version that callers will see."""

    tag: str
    home: str
    model_version: str


def run(model: Path, version: str, home: Path, metadata: Mapping[str, str] | None = None) -> Packaged:
    """Build a Bento from the folder of a promoted model; the same model and version give the same tag.

    Args:
        model: the model's folder in the diffusers layout.
        version: its version in the registry, as callers will see it.
        home: folder of Bento's stores, made where it is missing.
        metadata: what else to keep beside the weights, for instance the registry's name and the run's id.

    Raises:
        DataError: `model` is not a model's folder.
        ConfigError: `version` can't be part of a tag.
        ServiceError: Bento could not build it.
    """
    from instructdiffusion.serving.bento import build

    if not model.is_dir():
        raise DataError(f"{model} is not a folder; give the folder of the promoted model")
    return Packaged(tag=build(model, version, home, metadata), home=str(home.absolute()), model_version=version)
