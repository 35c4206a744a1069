"""What a source offers, one thing at a time: examples of a public data set, or scenes to compose.

Offers come always in the same order and cost little until a triplet is made of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from instructdiffusion.model.data.augment import generator
from instructdiffusion.model.data.looks import LOOK, looked
from instructdiffusion.model.data.readers import EDIT, PHOTO, PROMPT, REGION, Example, reader_for
from instructdiffusion.model.data.readers.walk import Skip, Walker
from instructdiffusion.model.data.samples import Unusable, licence_of, loaded, origin, safe_key, trainable, triplets_of
from instructdiffusion.model.data.shards import PER_SHARD, Origin, Triplet
from instructdiffusion.model.data.sources import DataSet, Pairs, Scenes, Source, Sources, Synthesis
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.instructions.bank import Bank, bank, reword
from instructdiffusion.model.quality.clip import eyes
from instructdiffusion.model.synthesis import degrade, guessed, pairs, removal, replacement
from instructdiffusion.model.synthesis.captioners import captioner
from instructdiffusion.model.synthesis.detectors import Found, detector
from instructdiffusion.model.synthesis.exemplars import exemplars
from instructdiffusion.model.synthesis.inpainters import inpainter
from instructdiffusion.model.synthesis.painters import painter
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.synthesis.write import compose, licences, mixture, plan

if TYPE_CHECKING:
    from instructdiffusion.model.synthesis.prompt_to_prompt import Twins

LICENCE = "licence: not on the list"
#: What can be synthesised of which examples.
MAKES = {REGION: (*removal.OPERATIONS, replacement.OPERATION), PHOTO: degrade.DAMAGES, PROMPT: (EDIT,)}
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
    each, place = max(1, order.per_shard // _of_one(source)), 0
    words = bank(order.sources.instructions)
    for offer in _scenes(source, order) if isinstance(source, Scenes) else _examples(source, order):
        if isinstance(offer, Offer) and words:
            yield place // each, Offer(offer.key, partial(_reworded, offer.make, words, order.seed))
        else:
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
    usual = 1.0 if isinstance(source, Synthesis | Pairs) else reader.weight  # of regions as they are it is 0
    return Origin(dataset=reader.name, weight=usual if source.weight is None else source.weight)


def walker(source: DataSet) -> Walker:
    """The reader of a source's data set.

    Raises:
        DataError: there is no data set in its folder, or no such split of it.
    """
    folder = Path(source.path)
    reader = reader_for(folder, source.dataset)
    assert isinstance(reader, Walker)
    if source.split not in (there := reader.splits(folder)):
        raise DataError(
            f"source {source.name}: {folder} has no split {source.split!r} of {reader.name}; it has {', '.join(there)}"
        )
    return reader


def twins_of(source: Pairs) -> Twins:
    """The model that a source's pairs are painted with, loaded once.

    Raises:
        DataError: it is missing or broken.
    """
    from instructdiffusion.model.synthesis.prompt_to_prompt import twins

    return twins(source.model)


def _reworded(make: Callable[[], Iterable[Triplet]], words: Bank, seed: int) -> Iterator[Triplet]:
    """The same triplets asked for in words of the bank."""
    for triplet in make():
        rng = generator(f"words/{triplet.key}", seed=seed)
        yield replace(triplet, ask=reword(triplet.ask, triplet.label, words, rng))


def taken(source: DataSet, reader: Walker) -> Iterator[Example | Skip]:
    """What a source takes of its data set, by licence and limit."""
    count = 0
    for found in reader.walk(Path(source.path), source.split):
        if isinstance(found, Skip):
            yield found
        elif not source.allows(licence_of(found, reader)):
            yield Skip(LICENCE, found.key)
        elif count == source.limit:
            return
        else:
            count += 1
            yield found


def _examples(source: DataSet, order: Order) -> Iterator[Offer | Skip]:
    reader = _reader(source)
    for found in taken(source, reader):
        if isinstance(found, Skip):
            yield found
        else:
            yield Offer(found.key, partial(_made, found, reader, source, order))


def _of_one(source: Source) -> int:
    """How many triplets are made of one offer, at most."""
    if isinstance(source, Scenes):
        return 1
    if not isinstance(source, Synthesis):
        return source.copies
    return source.copies * len(source.make) * (guessed.MOST if source.detector else 1)


def _made(example: Example, reader: Walker, source: DataSet, order: Order) -> Iterator[Triplet]:
    train = order.sources.split == "train"
    try:
        if isinstance(source, Synthesis):
            yield from _synthesised(example, reader, source, order)
        elif isinstance(source, Pairs):
            yield from _painted(example, reader, source, order)
        else:
            yield from triplets_of(
                example, reader, source=source.name, size=order.size, seed=order.seed, train=train, copies=source.copies
            )
    except Unusable as error:
        if reader.recognises(Path(source.path)):
            raise
        # Else a disk that was taken away would pass for a data set without a single good picture.
        fix = "mount it again and run the same command: finished shards are kept"
        raise DataError(f"{source.path} can't be read any more ({error}); {fix}") from error


def _synthesised(example: Example, reader: Walker, source: Synthesis, order: Order) -> Iterator[Triplet]:
    """What is made of a region or a photograph, named and described as the triplets of other sources are."""
    picture, label = loaded(example)
    whole = replace(example, source=lambda: picture, label=label, lazy={})
    train = order.sources.split == "train"
    things = detector(source.detector).find(picture) if source.detector else []
    for copy in range(source.copies):
        rng = generator(f"{reader.name}/{example.key}", seed=order.seed, epoch=copy)
        facts = {**origin(example, reader, source.name, copy, order.seed), LOOK: looked(picture)}
        if reader.task == REGION:
            made = _of_region(whole, source, rng, order.size, train)
        else:
            made = _of_photo(whole, things, source, rng, order.size, train)
        for triplet in made:
            key = safe_key(source.name, triplet.key, copy if source.copies > 1 else None)
            yield replace(triplet, key=key, provenance=_licensed({**facts, **triplet.provenance}))


def _painted(example: Example, reader: Walker, source: Pairs, order: Order) -> Iterator[Triplet]:
    """What is painted of two captions; a pair that is no edit doesn't stop the others."""
    refused, kept = list[Unusable](), 0
    judge = eyes(source.clip) if source.clip else None
    for copy in range(source.copies):
        rng = generator(f"{reader.name}/{example.key}", seed=order.seed, epoch=copy)
        facts = origin(example, reader, source.name, copy, order.seed)
        try:
            for triplet in pairs.edits(example, twins_of(source), judge, rng, order.size):
                key = safe_key(source.name, triplet.key, copy if source.copies > 1 else None)
                yield replace(triplet, key=key, provenance={**facts, **triplet.provenance})
                kept += 1
        except Unusable as error:
            refused.append(error)
    if not kept:
        raise refused[0]


def _of_region(example: Example, source: Synthesis, rng: Random, size: int, train: bool) -> Iterator[Triplet]:
    if operations := tuple(name for name in source.make if name in removal.OPERATIONS):
        yield from removal.edits(example, inpainter(source.inpainter), rng, size, operations=operations, train=train)
    if replacement.OPERATION in source.make:
        yield from replacement.edits(example, _workshop(source), rng, size, allows=source.allows, train=train)


def _workshop(source: Synthesis) -> replacement.Workshop:
    """What a source's replacements are made with; whatever is large in it is loaded once."""
    assert source.exemplars
    return replacement.Workshop(
        exemplars(Path(source.exemplars), source.features),
        painter(source.painter, source.inpainter),
        captioner(source.captioner),
    )


def _prepare(source: Synthesis | Pairs) -> None:
    """Load whatever a source is made with."""
    if isinstance(source, Pairs):
        twins_of(source)
        if source.clip:
            eyes(source.clip)
        return
    inpainter(source.inpainter)
    if replacement.OPERATION in source.make:
        _workshop(source)


def _licensed(facts: dict[str, Any]) -> dict[str, Any]:
    """Provenance with the licences of all pictures that a triplet shows parts of."""
    all_of = (facts["licence"], facts.get("exemplar", facts)["licence"])
    return {**facts, "licence": "; ".join(dict.fromkeys(all_of))}


def _of_photo(
    example: Example, things: Sequence[Found], source: Synthesis, rng: Random, size: int, train: bool
) -> Iterator[Triplet]:
    """A photograph damaged, and what was found in it."""
    if damages := tuple(name for name in source.make if name in degrade.DAMAGES):
        yield from degrade.edits(example, rng, size, operations=damages, train=train)
    if operations := tuple(name for name in source.make if name in guessed.OPERATIONS):
        fill, marked = inpainter(source.inpainter), {"labels": f"guessed by {detector(source.detector or '').name}"}
        for triplet in guessed.edits(example, things, fill, rng, size, operations=operations, train=train):
            yield replace(triplet, provenance={**triplet.provenance, **marked})


def _scenes(source: Scenes, order: Order) -> Iterator[Offer]:
    # No two sources share a scene; those of the default name are what `synthesize` makes.
    start = str(order.seed) if source.name == Scenes.model_fields["name"].default else f"{order.seed}-{source.name}"
    for task, seed in plan(mixture(source.scenes), start, order.sources.split):
        yield Offer(seed, partial(_composed, source, order, task, seed))


def _composed(source: Scenes, order: Order, task: str, seed: str) -> Iterator[Triplet]:
    studio = Studio.open(order.size, order.sources.split)
    triplet = compose(studio, task, seed)
    facts = {"dataset": SCENES, "source": source.name, "licence": "; ".join(licences(order.sources.split))}
    yield replace(triplet, provenance={**triplet.provenance, **facts})


def _reader(source: DataSet) -> Walker:
    """The reader of a source's data set, of which all that is wanted can be made."""
    reader = walker(source)
    possible = MAKES.get(reader.task, ())
    if isinstance(source, Synthesis) and source.detector:
        if reader.task != PHOTO:
            raise ConfigError(f"source {source.name}: {reader.name} has labels of its own; leave detector out")
        detector(source.detector)
        possible = (*possible, *guessed.OPERATIONS)
    if isinstance(source, Synthesis | Pairs):
        if beyond := [name for name in source.make if name not in possible]:
            fix = f"choose from {', '.join(possible)}" if possible else "leave make out"
            if reader.task == PHOTO and isinstance(source, Synthesis) and set(beyond) <= set(guessed.OPERATIONS):
                fix = f"{fix}, or add detector: packaged"
            raise ConfigError(f"source {source.name}: {', '.join(beyond)} can't be made of {reader.name}; {fix}")
        _prepare(source)  # an error now, not after hours
    elif not trainable(reader):
        use = f"holds what triplets are synthesised from; add make: [{', '.join(possible)}]"
        raise ConfigError(f"source {source.name}: {reader.name} in {source.path} {use}")
    return reader
