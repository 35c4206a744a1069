"""Gather exemplars: cut the regions of data sets out, name them, look at them, and index what was seen.

sources file  ->  regions  ->  cutouts with words and features  ->  shards, an index and their manifest
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from instructdiffusion.model.data.looks import LOOK, looked
from instructdiffusion.model.data.offers import taken, walker
from instructdiffusion.model.data.readers import REGION, Example
from instructdiffusion.model.data.readers.walk import Walker
from instructdiffusion.model.data.samples import Unusable, licence_of, safe_key
from instructdiffusion.model.data.shards import (
    PER_SHARD,
    Manifest,
    Sample,
    Shard,
    head_of,
    read_samples,
    write_samples_once,
)
from instructdiffusion.model.data.sources import DataSet, Source, Sources
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.synthesis.captioners import Captioner
from instructdiffusion.model.synthesis.cutouts import LARGEST, cut
from instructdiffusion.model.synthesis.exemplars import KIND, Exemplar, sample_of, vector_of, write_index
from instructdiffusion.model.synthesis.features import Features, Vectors
from instructdiffusion.model.synthesis.regions import Region, whole_of, wordless

log = logging.getLogger(__name__)

BATCH = 32  # things that are looked at together
SMALLEST = 32  # pixels of a thing's longer side: smaller ones have nothing to show
Offered = tuple[DataSet, Walker, Example]


def gather(
    sources: Sources,
    out: Path,
    features: Features,
    captioner: Captioner,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write the exemplars that the regions of data sets give into `out`; called again it goes on where it stopped.

    Args:
        progress: called with (exemplars written, 0: how many there will be is not known).

    Raises:
        ConfigError: a source holds no regions.
        DataError: a data set is missing, nothing in them is of use, or the disk is full.
    """
    sets = [_regions(source) for source in sources.sources]
    offered = chain.from_iterable(_offered(source, reader) for source, reader in sets)
    shards: list[Shard] = []
    total = 0
    while part := list(islice(offered, PER_SHARD)):
        request = repr((features.name, captioner.name, LARGEST, [(s.name, e.key, e.picture) for s, _, e in part]))
        path = out / f"exemplars-{len(shards):05d}.tar"
        shards.append(write_samples_once(path, request, _samples(part, features, captioner)))
        total += len(part)
        progress(sum(shard.count for shard in shards), 0)
    if not any(shard.count for shard in shards):
        raise DataError("no region of these data sets can be cut out; see the log for each")
    licences = set[str]()
    index = write_index(out, _rows(out, shards, licences))
    told = [source.model_dump(mode="json", exclude={"path", "weight"}) for source in sources.sources]
    made = sum(shard.count for shard in shards)
    return Manifest(
        size=LARGEST,
        split=sources.split,
        seed=0,
        counts={KIND: made},
        shards=tuple(shards),
        licences=tuple(sorted(licences)),
        made="exemplars",
        settings={"features": features.name, "captioner": captioner.name, "index": index, "sources": told},
        report={"offered": total, "kept": made},
    ).save(out)


def _samples(part: Sequence[Offered], features: Features, captioner: Captioner) -> Iterator[Sample]:
    """What can be cut out; the rest is left out with a line in the log."""
    cut_out = (found for offered in part if (found := _exemplar(*offered, captioner)))
    while batch := list(islice(cut_out, BATCH)):
        vectors = features.of([exemplar.thing for _, exemplar in batch])
        yield from (sample_of(key, exemplar, vector) for (key, exemplar), vector in zip(batch, vectors, strict=True))


def _exemplar(source: DataSet, reader: Walker, example: Example, captioner: Captioner) -> tuple[str, Exemplar] | None:
    try:
        region = whole_of(example)
        _check(region, example)
        thing = cut(region)
        phrase = captioner.phrase(thing, region.phrase)
        if not phrase:
            raise wordless(example)
    except Unusable as error:
        log.warning("left out: %s", error)
        return None
    own = {"dataset": reader.name, "source": source.name, "example": example.key, "picture": example.picture}
    facts = {**example.facts, **own, "licence": licence_of(example, reader), LOOK: looked(region.picture)}
    return safe_key(source.name, example.key), Exemplar(thing, phrase, facts)


def _check(region: Region, example: Example) -> None:
    """Refuse what is too small, and what its picture cuts off: the rest of it would be missing elsewhere too."""
    left, top, right, bottom = region.box
    height, width = region.mask.shape
    if max(right - left, bottom - top) < SMALLEST:
        raise Unusable("thing: too small", f"{example.key}: it is less than {SMALLEST} pixels wide and high")
    if min(left, top) == 0 or right == width or bottom == height:
        raise Unusable("thing: cut off", f"{example.key}: it reaches beyond its picture")


def _regions(source: Source) -> tuple[DataSet, Walker]:
    reader = walker(source) if type(source) is DataSet else None
    if not isinstance(source, DataSet) or reader is None or reader.task != REGION:
        raise ConfigError(f"source {source.name}: exemplars are cut out of data sets of regions; name those alone")
    return source, reader


def _offered(source: DataSet, reader: Walker) -> Iterator[Offered]:
    return ((source, reader, found) for found in taken(source, reader) if isinstance(found, Example))


def _rows(out: Path, shards: Iterable[Shard], licences: set[str]) -> Iterator[Vectors]:
    """The features of all exemplars in order; their licences are noted on the way."""
    for shard in shards:
        for sample in read_samples(out, shard):
            licences.add(head_of(sample, out / shard.name)["facts"]["licence"])
            yield vector_of(sample)
