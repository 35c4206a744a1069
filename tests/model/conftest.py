"""Tiny real networks and a tiny data set, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from stable import tiny_stable_diffusion

from instructdiffusion.model import network, recipes
from instructdiffusion.model.data.latents import encode
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.network import Model
from instructdiffusion.model.synthesis.write import mixture, synthesize


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three triplets of every task at 32 pixels, from held-out photographs."""
    folder = tmp_path_factory.mktemp("shards")
    synthesize(folder, split="test", counts=dict.fromkeys(mixture(1), 3), size=32, seed=5, workers=1)
    return folder


@pytest.fixture
def tiny(shards: Path) -> Model:
    """A model of the smoke recipe's size, untrained."""
    run = recipes.smoke()
    return network.create(run.network, run.diffusion, [t.source for t in read_triplets(shards)], seed=0)


@pytest.fixture
def tiny_folder(tiny: Model, tmp_path: Path) -> Path:
    """The tiny model on disk."""
    return network.save(tiny, tmp_path / "tiny")


@pytest.fixture
def latents(tiny: Model, shards: Path, tmp_path: Path) -> Path:
    """The tiny data set encoded for a run that trains the text encoder."""
    encode(shards, tiny, tmp_path / "latents", states=False)
    return tmp_path / "latents"


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model of Stable Diffusion's classes."""
    return tiny_stable_diffusion(tmp_path_factory.mktemp("sd") / "stable-diffusion")
