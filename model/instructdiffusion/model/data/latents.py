"""Latents: a data set's triplets encoded once, so that training runs neither the autoencoder nor a frozen text encoder.

One safetensors file per thousand triplets (source, target, tokens or text states, task, origin), and a manifest whose
parent is the triplets' manifest. Files are mapped into memory, not read. The first triplet of each task stays a
picture, for the sheets of samples that a training draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from instructdiffusion.model.data.away import Here, Shards
from instructdiffusion.model.data.batches import Batches
from instructdiffusion.model.data.shards import Manifest, Shard, Triplet, in_rows, read_triplets, source_of, write_shard
from instructdiffusion.model.device import best
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.network import Model, load
from instructdiffusion.model.tasks import EVERY
from instructdiffusion.model.weights import model_digest

BATCH = 250  # triplets encoded at once
FIRST = "first.tar"  # the first triplet of each task, as in a shard


def encode(
    shards: Path,
    model: Path | Model | None,
    out: Path,
    *,
    states: bool = True,
    progress: Callable[[int, int], None] = lambda d, t: None,
) -> Manifest:
    """Encode every triplet with a model's autoencoder and text encoder.

    Args:
        states: keep the text encoder's hidden states; False keeps token ids, for a run that trains the text encoder.

    Raises:
        DataError: shards are damaged, or their pictures are not of the model's resolution.
    """
    nets = model if isinstance(model, Model) else load(model).to(best())
    parent = Manifest.load(shards)
    if parent.size != nets.resolution:
        raise DataError(
            f"{shards} holds pictures of {parent.size} pixels, the model takes {nets.resolution}; "
            f"synthesize with size={nets.resolution}"
        )
    out.mkdir(parents=True, exist_ok=True)
    made: list[Shard] = []
    first: dict[str, Triplet] = {}
    for batch in _batches(read_triplets(shards), BATCH * 4):
        path = out / f"latents-{len(made):05d}.safetensors"
        made.append(_encode_batch(nets, batch, path, states))
        first = {triplet.ask.task: triplet for triplet in reversed(batch)} | first
        progress(sum(s.count for s in made), parent.total)
    write_shard(out / FIRST, [first[task] for task in sorted(first)])
    name = "embedded" if model is None else model_digest(model) if isinstance(model, Path) else "in memory"
    settings = {"model": name, "states": states}
    return parent.heir(shards, "encode", settings, shards=tuple(made), report=parent.report).save(out)


def _batches(triplets: Iterator[Triplet], size: int) -> Iterator[list[Triplet]]:
    batch: list[Triplet] = []
    for triplet in triplets:
        batch.append(triplet)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _encode_batch(nets: Model, batch: list[Triplet], path: Path, states: bool) -> Shard:
    instructions = [t.ask.instruction for t in batch]
    tasks = list(dict.fromkeys([*EVERY, *(t.ask.task for t in batch)]))  # some data is of no task, stage 1's for one
    origins = [source_of(t.provenance) for t in batch]
    names = sorted({*origins})
    text = nets.text(instructions).half() if states else nets.tokens(instructions).int()
    tensors = {
        "source": nets.encode(t.source for t in batch).half(),
        "target": (nets.encode(t.target for t in batch) * nets.scale).half(),
        "text": text,
        "task": torch.tensor([tasks.index(t.ask.task) for t in batch], dtype=torch.uint8),
        "origin": torch.tensor([names.index(name) for name in origins], dtype=torch.int16),
    }
    temporary = path.with_suffix(".part")
    save_file(
        {k: v.cpu().contiguous() for k, v in tensors.items()},
        temporary,
        {"tasks": json.dumps(tasks), "origins": json.dumps(names), "text": "states" if states else "tokens"},
    )
    temporary.replace(path)
    told = {"origins": in_rows(origins), "tasks": in_rows(t.ask.task for t in batch)}
    return Shard(name=path.name, digest=digest_of(path), count=len(batch), **told)


class Mapped(NamedTuple):
    """A file of latents: its tensors by name, and the names that its numbers of tasks and origins stand for."""

    tensors: dict[str, Tensor]
    tasks: list[str]
    origins: list[str]
    text: str  # states or tokens


@dataclass
class Latents(Batches[Mapped]):
    """Encoded triplets."""

    @staticmethod
    def open(data: Path | Shards) -> Latents:
        """Map latents into memory: a folder's all, others when they are needed.

        Raises:
            DataError: a file is missing or damaged.
        """
        shards = Here(data, check=False) if isinstance(data, Path) else data  # mapping is quick, a digest is not
        manifest = shards.manifest()
        if not manifest.total:
            raise DataError(f"{data} holds no latents; check the filter's report for why all were dropped")
        latents = Latents(shards, manifest, tokens=False)
        latents.tokens = latents.at(0)[0].text == "tokens"
        return latents

    def read(self, path: Path) -> Mapped:
        """Map a file."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                metadata = file.metadata()
            return Mapped(tensors, json.loads(metadata["tasks"]), json.loads(metadata["origins"]), metadata["text"])
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(
                f"latents {path} can't be read ({error}); delete {path.parent} and run the encode step again"
            ) from error

    def contents(self, opened: Mapped) -> Iterator[tuple[str, str]]:
        """Source and task of each triplet, by the file."""
        numbers = (opened.tensors[name].tolist() for name in ("origin", "task"))
        return ((opened.origins[origin], opened.tasks[task]) for origin, task in zip(*numbers, strict=True))

    def batch(self, numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Source and target latents (batch x channels x height x width, float32) and text of some triplets."""
        rows = [(file.tensors, row) for file, row in map(self.at, numbers)]
        source, target, text = (
            torch.stack([tensors[name][row] for tensors, row in rows]) for name in ("source", "target", "text")
        )
        return source.float(), target.float(), text.long() if self.tokens else text.float()
