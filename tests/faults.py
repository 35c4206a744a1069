"""What is no good: data and gradients without numbers, for a step of a training, pickles that do harm, a full disk."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.network import Model


def spoil(folder: Path, numbers: Iterable[int], value: float = float("nan")) -> None:
    """Make the targets of some triplets no numbers, or others, as if they had been encoded so."""
    manifest = Manifest.load(folder)
    (shard,) = manifest.shards
    path = folder / shard.name
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for number in numbers:
        tensors["target"][number] = value
    save_file(tensors, path, metadata)
    changed = shard.model_copy(update={"digest": digest_of(path)})
    manifest.model_copy(update={"shards": (changed,)}).save(folder)


def overflow(model: Model, calls: set[int]) -> None:
    """Give one number of one weight's gradient no value, in those backward passes, counted from 0."""
    count = iter(range(1000))

    def changed(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        if next(count) in calls:
            gradient.view(-1)[0] = float("inf")
        return gradient

    model.unet.conv_in.weight.requires_grad_(True).register_hook(changed)


class Harm:
    """A pickle that calls what it likes."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


@contextmanager
def full(after: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what a process sees of a full disk, as an error of another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
