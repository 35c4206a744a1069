"""Latents: a data set's triplets encoded once, so that training runs neither the autoencoder nor a frozen text encoder.

One safetensors file per shard: source, target, task and origin of each triplet, and the number of its instruction,
whose tokens or text states are there once. A manifest, whose parent is the triplets' manifest, lists them. Files are
mapped into memory, not read. The first triplet of each task stays a picture, for the sheets of samples that a training
draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor

from instructdiffusion.model.data.away import Here, Shards
from instructdiffusion.model.data.batches import Batches
from instructdiffusion.model.data.shards import (
    Manifest,
    Shard,
    Triplet,
    head_of,
    in_rows,
    read_samples,
    source_of,
    triplet_of,
    write_once,
    write_shard,
)
from instructdiffusion.model.device import best
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.network import Model, load
from instructdiffusion.model.task import Ask
from instructdiffusion.model.tasks import EVERY
from instructdiffusion.model.weights import model_digest

LAYOUT = 2  # of the files; those of another are encoded again
PIXELS = 250 * 64 * 64  # of the pictures that are encoded at once, whatever their size; one picture at least
INSTRUCTIONS = 250  # encoded at once
ABOUT = "latents"  # entry of a file's metadata: what its numbers stand for
FIRST = "first.tar"  # the first triplet of each task, as in a shard
Item = TypeVar("Item")


def encode(
    shards: Path,
    model: Path | Model | None,
    out: Path,
    *,
    states: bool = True,
    progress: Callable[[int, int], None] = lambda d, t: None,
) -> Manifest:
    """Encode every triplet with a model's autoencoder and text encoder; files that an earlier run finished stay.

    Args:
        model: its folder, None: the embedded base; of one in memory nothing that was finished is used again.
        states: keep the text encoder's hidden states; False keeps token ids, for a run that trains the text encoder.
        progress: called with (triplets done, triplets in all).

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
    known = "" if isinstance(model, Model) else model_digest(model)
    made: list[Shard] = []
    for shard in parent.shards:
        if shard.count:
            path = out / f"latents-{len(made):05d}.safetensors"
            write = partial(_encode_shard, nets, shards, shard, path, states)
            made.append(write_once(path, repr((shard.digest, known, states, LAYOUT)), write) if known else write())
            progress(sum(s.count for s in made), parent.total)
    write_shard(out / FIRST, _first_of_each_task(shards, parent))
    name = "embedded" if model is None else known or "in memory"
    settings = {"model": name, "states": states}
    return parent.heir(shards, "encode", settings, shards=tuple(made), report=parent.report).save(out)


def _encode_shard(nets: Model, shards: Path, shard: Shard, path: Path, states: bool) -> Shard:
    """Encode the triplets of a shard, so many at a time, into one file."""
    asks, origins = list[Ask](), list[str]()
    parts: dict[str, list[Tensor]] = {"source": [], "target": [], "text": []}
    triplets = (triplet_of(sample, shards / shard.name) for sample in read_samples(shards, shard))
    for some in _so_many(triplets, max(1, PIXELS // nets.resolution**2)):
        parts["source"].append(nets.encode(t.source for t in some).half().cpu())
        parts["target"].append((nets.encode(t.target for t in some) * nets.scale).half().cpu())
        asks += [t.ask for t in some]
        origins += [source_of(t.provenance) for t in some]
    instructions = {ask.instruction: None for ask in asks}  # each once, in their order
    for texts in _so_many(instructions, INSTRUCTIONS):
        parts["text"].append(nets.text(texts).half().cpu() if states else nets.tokens(texts).int())
    rows = {instruction: row for row, instruction in enumerate(instructions)}
    tasks = list(dict.fromkeys([*EVERY, *(ask.task for ask in asks)]))  # some data is of no task, stage 1's for one
    names = sorted({*origins})
    tensors = {name: torch.cat(some) for name, some in parts.items()} | {
        "instruction": torch.tensor([rows[ask.instruction] for ask in asks], dtype=torch.int32),
        "task": torch.tensor([tasks.index(ask.task) for ask in asks], dtype=torch.uint8),
        "origin": torch.tensor([names.index(name) for name in origins], dtype=torch.int16),
    }
    about = {"tasks": tasks, "origins": names, "text": "states" if states else "tokens"}
    # In one entry: safetensors writes several in any order, and the same latents are to be the same bytes.
    metadata = {ABOUT: json.dumps(about)}
    write_atomic(path, as_bytes({name: part.contiguous() for name, part in tensors.items()}, metadata))
    told = {"origins": in_rows(origins), "tasks": in_rows(ask.task for ask in asks)}
    return Shard(name=path.name, digest=digest_of(path), count=len(asks), **told)


def _first_of_each_task(shards: Path, manifest: Manifest) -> list[Triplet]:
    """The first triplet of each task, by the names of the tasks; shards with nothing new are not read."""
    first: dict[str, Triplet] = {}
    for shard in manifest.shards:
        if shard.tasks and {task for task, _ in shard.tasks} <= first.keys():
            continue
        for sample in read_samples(shards, shard):
            if (task := head_of(sample, shards / shard.name)["task"]) not in first:
                first[task] = triplet_of(sample, shards / shard.name)
    return [first[task] for task in sorted(first)]


def _so_many(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


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
        """Map latents into memory: a folder's all, others when they are needed; before, digests are compared.

        Raises:
            DataError: a file is missing, damaged or another than the manifest's.
        """
        shards = Here(data) if isinstance(data, Path) else data
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
                about = json.loads(file.metadata()[ABOUT])
            return Mapped(tensors, **about)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
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
        source, target = (torch.stack([tensors[name][row] for tensors, row in rows]) for name in ("source", "target"))
        text = torch.stack([tensors["text"][tensors["instruction"][row]] for tensors, row in rows])
        return source.float(), target.float(), text.long() if self.tokens else text.float()
