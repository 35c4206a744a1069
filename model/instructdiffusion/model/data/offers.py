"""What a source offers, one thing at a time: examples of a public data set, or scenes to compose.

Offers come always in the same order and cost little until a triplet is made of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from instructdiffusion.model.data.readers import Example, reader_for
from instructdiffusion.model.data.readers.walk import Skip, Walker
from instructdiffusion.model.data.samples import Unusable, licence_of, trainable, triplets_of
from instructdiffusion.model.data.shards import PER_SHARD, Origin, Triplet
from instructdiffusion.model.data.sources import DataSet, Scenes, Source, Sources
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.synthesis.write import compose, licences, mixture, plan

LICENCE = "licence: not on the list"
SCENES = "composed scenes"  # what stands where the name of a public data set would


@dataclass(frozen=True)
class Order:
    """What to build, everything that the bytes depend on: the same order gives the same shards."""

    sources: Sources
    size: int  # side of the pictures, pixels
    seed: int
    per_shard: int = PER_SHARD  # triplets, where none is left out


class Offer(NamedTuple):
    """What triplets can be made of: its key, and how."""

    key: str
    make: Callable[[], Iterable[Triplet]]


def numbered(source: Source, order: Order) -> Iterator[tuple[int, Offer | Skip]]:
    """Everything of a source with the number of the shard that it belongs to.

    Making triplets of an offer raises Unusable where none can be made.
    """
    copies = source.copies if isinstance(source, DataSet) else 1
    each, place = max(1, order.per_shard // copies), 0
    for offer in _scenes(source, order) if isinstance(source, Scenes) else _examples(source, order):
        yield place // each, offer
        place += isinstance(offer, Offer)


def origin_of(source: Source) -> Origin:
    """A source of which nothing is made yet.

    Raises:
        ConfigError: its data set is none to train on.
        DataError: there is no data set in its folder, or no such split of it.
    """
    if isinstance(source, Scenes):
        return Origin(dataset=SCENES, weight=source.weight)
    reader = _reader(source)
    return Origin(dataset=reader.name, weight=reader.weight if source.weight is None else source.weight)


def _examples(source: DataSet, order: Order) -> Iterator[Offer | Skip]:
    reader, taken = _reader(source), 0
    for found in reader.walk(Path(source.path), source.split):
        if isinstance(found, Skip):
            yield found
        elif not source.allows(licence_of(found, reader)):
            yield Skip(LICENCE, found.key)
        elif taken == source.limit:
            return
        else:
            taken += 1
            yield Offer(found.key, partial(_made, found, reader, source, order))


def _made(example: Example, reader: Walker, source: DataSet, order: Order) -> Iterator[Triplet]:
    train = order.sources.split == "train"
    try:
        yield from triplets_of(
            example, reader, source=source.name, size=order.size, seed=order.seed, train=train, copies=source.copies
        )
    except Unusable as error:
        if reader.recognises(Path(source.path)):
            raise
        # Else a disk that was taken away would pass for a data set without a single good picture.
        fix = "mount it again and run the same command: finished shards are kept"
        raise DataError(f"{source.path} can't be read any more ({error}); {fix}") from error


def _scenes(source: Scenes, order: Order) -> Iterator[Offer]:
    # No two sources share a scene; those of the default name are what `synthesize` makes.
    start = str(order.seed) if source.name == Scenes.model_fields["name"].default else f"{order.seed}-{source.name}"
    for task, seed in plan(mixture(source.scenes), start, order.sources.split):
        yield Offer(seed, partial(_composed, source, order, task, seed))


def _composed(source: Scenes, order: Order, task: str, seed: str) -> Iterator[Triplet]:
    studio = Studio.open(order.size, order.sources.split)
    triplet = compose(studio, task, seed)
    facts = {"dataset": SCENES, "source": source.name, "licence": "; ".join(licences(studio))}
    yield replace(triplet, provenance={**triplet.provenance, **facts})


def _reader(source: DataSet) -> Walker:
    folder = Path(source.path)
    reader = reader_for(folder)
    assert isinstance(reader, Walker)
    if not trainable(reader):
        use = "holds what triplets are synthesised from, none itself; leave it out"
        raise ConfigError(f"source {source.name}: {reader.name} in {folder} {use}")
    if source.split not in (there := reader.splits(folder)):
        raise DataError(
            f"source {source.name}: {folder} has no split {source.split!r} of {reader.name}; it has {', '.join(there)}"
        )
    return reader
