"""The recipe of the embedded base, at the smallest size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from instructdiffusion.model import network, text_training
from instructdiffusion.model.config import override
from instructdiffusion.model.editor import Editor
from instructdiffusion.model.recipes import recipe
from instructdiffusion.model.tasks import TASKS
from instructdiffusion.pipelines.base import card, make, start
from instructdiffusion.pipelines.work import synthesized

SETTINGS = ["optim.steps=2", "checkpoint_every=1"]


def test_a_base_is_made_scored_and_described_and_made_once(tmp_path: Path) -> None:
    console = Console(quiet=True)
    made = make(tmp_path, "smoke", SETTINGS, triplets=40, held_out=2, install=False, console=console)
    assert set(made["tasks"]) == set(TASKS)
    model = tmp_path / "model"
    assert Editor.load(model).resolution == 32
    assert Image.open(model / "sheet.png").width > 200
    assert "<svg" in (model / "curve.svg").read_text()
    assert sum(json.loads((model / "manifest.json").read_text())["counts"].values()) <= 40
    text = (model / "README.md").read_text()
    assert all(f"| {name} |" in text for name in TASKS)
    before = (model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    again = make(tmp_path, "smoke", SETTINGS, triplets=40, held_out=2, install=False, console=console)
    assert again["digest"] == made["digest"]
    assert (model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_a_text_encoder_that_does_not_learn_with_the_pictures_learns_to_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_training, "STEPS", 1)
    quiet, run = Console(quiet=True), override(recipe("smoke"), ["train_text=false"])
    synthesized(tmp_path / "data", "train", 20, False, run.network.size, run.seed, quiet)
    read = network.load(start(tmp_path, run, quiet)).text_encoder
    shutil.rmtree(tmp_path / "start")
    learning = network.load(start(tmp_path, override(run, ["train_text=true"]), quiet)).text_encoder
    assert not all(torch.equal(w, learning.get_parameter(name)) for name, w in read.named_parameters())


def test_a_card_says_which_bars_are_reached() -> None:
    measure = {"value": 0.7, "low": 0.65, "high": 0.75, "n": 200, "slices": {"seen pairs": [0.71, 0.66, 0.76]}}
    task = {**measure, "metric": "iou", "bar": 0.6, "floor": 0.1, "bound": 0.99}
    missed = {**measure, "bar": 0.85}
    text = card(
        {"name": "base", "seed": 3},
        {"size": 64, "counts": {"referring": 10}, "seed": 1, "split": "train", "licences": ["CC0"]},
        {"seconds": 3600, "steps": 5, "triplets_per_second": 80.0},
        {"tasks": {"referring": {**task, "also": {"right_object": missed}}}, "autoencoder": [40.0, 39.0, 41.0]},
    )
    assert "| referring | iou | **0.70** | 0.65 to 0.75 | 0.71 (0.66 to 0.76) |  | 0.6 | 0.10 | 0.99 | 200 |" in text
    assert "| | right_object | 0.70 | 0.65 to 0.75 |" in text
