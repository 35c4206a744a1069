"""What makes a step of a training no good: data and gradients without numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.network import Model


def spoil(folder: Path, numbers: Iterable[int], value: float = float("nan")) -> None:
    """Make the targets of some triplets no numbers, or others."""
    manifest = Manifest.load(folder)
    assert len(manifest.shards) == 1
    path = folder / manifest.shards[0].name
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for number in numbers:
        tensors["target"][number] = value
    save_file(tensors, path, metadata)


def overflow(model: Model, calls: set[int]) -> None:
    """Give one number of one weight's gradient no value, in those backward passes, counted from 0."""
    count = iter(range(1000))

    def changed(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        if next(count) in calls:
            gradient.view(-1)[0] = float("inf")
        return gradient

    model.unet.conv_in.weight.requires_grad_(True).register_hook(changed)
