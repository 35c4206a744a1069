"""From sources to shards: every example becomes triplets, part by part.

A shard holds triplets of one source. Which examples are in it does not depend on who makes it: a part of n, on a
machine of its own, makes every n-th shard, and within it each worker every so many. Finished shards carry a mark, so a
build that was killed goes on where it stopped; a data set that has other examples since is noticed by their keys.

sources  ->  offers, in order  ->  every 1000 a shard  ->  a part with its manifest
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Event, Thread
from typing import Any
from zlib import crc32

from pydantic import BaseModel, ConfigDict, ValidationError

from instructdiffusion.model.addresses import parted
from instructdiffusion.model.data.offers import Offer, Order, numbered, origin_of
from instructdiffusion.model.data.parts import Part, summed, with_contents
from instructdiffusion.model.data.readers.walk import Skip
from instructdiffusion.model.data.samples import Unusable
from instructdiffusion.model.data.shards import MANIFEST, Manifest, Origin, Shard, Triplet, write_shard
from instructdiffusion.model.data.sources import DataSet, Scenes, Source, addresses_of
from instructdiffusion.model.data.workers import spread
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.files import digest_of, digest_once, write_atomic
from instructdiffusion.model.instructions.bank import told_of
from instructdiffusion.model.synthesis.exemplars import version_of
from instructdiffusion.model.synthesis.write import made_from

log = logging.getLogger(__name__)

LARGE = 500e6  # bytes of networks' files from which on there is one process, as where models are evaluated
SMALLEST = 32  # pixels: discs and objects need as many
WHOLE = Part()


class Finished(BaseModel):
    """The mark of a finished shard: what it was made of, what became of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    keys: str
    shard: Shard | None  # None: nothing that was offered could be used
    offered: int
    counts: dict[str, int]
    skipped: dict[str, int]


def build(
    order: Order,
    out: Path | str,
    *,
    part: Part = WHOLE,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write a part's shards into `out`, a folder of its own, and return its manifest; finished shards are kept.

    Args:
        workers: processes on this machine; None: one for each core, or one alone where large networks are at work, of
            which each process has its own, or a GPU.
        progress: called with (shards finished, 0: how many there will be is not known).

    Raises:
        ConfigError: a source can't be trained on, or `out` holds another part.
        DataError: a data set is missing or broken or can't be read any more, nothing in it is of use, or the disk is
            full.
    """
    out = Path(out)
    _check(order, part, out)
    origins = {source.name: origin_of(source) for source in order.sources.sources}
    count = min(workers or hands(order), _most_shards(order, part))
    with _watched(out, progress):
        made = [*spread(partial(_shards, order, part, out, count), range(count), count)]
    marks = [pair for worker in made for pair in worker]
    sources = {
        name: summed([start, *(_of(start, m) for n, m in marks if n == name)]) for name, start in origins.items()
    }
    shards = [mark.shard for _, mark in marks if mark.shard]
    licences = [licence for shard in shards for licence, _ in shard.licences]
    told = {"size": order.size, "split": order.sources.split, "seed": order.seed}
    settings = {
        "per_shard": order.per_shard,
        "instructions": told_of(order.sources.instructions),
        "sources": [_told(source) for source in order.sources.sources],
    }
    empty = Manifest(**told, counts={}, shards=(), made="build", settings=settings)
    return with_contents(empty, part, sources, shards, licences).save(out)


def _shards(order: Order, part: Part, out: Path, workers: int, worker: int) -> list[tuple[str, Finished]]:
    """One worker's shards, each with the name of its source."""
    made = []
    for at, source in enumerate(order.sources.sources):

        def mine(number: int, at: int = at) -> bool:
            turn, whose = divmod(number + at, part.count)  # sources of one shard each are not all the first part's
            return whose == part.number - 1 and turn % workers == worker

        made += [(source.name, mark) for mark in _of_source(order, source, out, mine)]
    return made


def _of_source(order: Order, source: Source, out: Path, mine: Callable[[int], bool]) -> list[Finished]:
    made, changed = [], False
    for number, offered in groupby(numbered(source, order), key=lambda pair: pair[0]):
        if mine(number):
            finished = _once(order, source, out / f"{source.name}-{number:05d}.tar", (offer for _, offer in offered))
            changed |= finished is None
            made += [finished] if finished else []
    # The offers of a shard that turned out to be of other examples are used up: it is made in a second walk.
    return _of_source(order, source, out, mine) if changed else made


def _once(order: Order, source: Source, path: Path, offered: Iterator[Offer | Skip]) -> Finished | None:
    """Write a shard unless it is finished; None when it was finished of other examples, which is forgotten then."""
    mark = path.with_suffix(f".{crc32(_request(order, source).encode()):08x}.json")
    known = _known(mark, path)
    if known is None:
        return _written(path, mark, offered)
    if known.keys == _digest(offer.key for offer in offered):
        return known
    mark.unlink()
    return None


def _written(path: Path, mark: Path, offered: Iterator[Offer | Skip]) -> Finished:
    keys, counts, skipped = list[str](), Counter[str](), Counter[str]()

    def triplets() -> Iterator[Triplet]:
        for one in offered:
            keys.append(one.key)
            if isinstance(one, Skip):
                skipped[one.reason] += 1
                continue
            try:
                for triplet in one.make():
                    counts[triplet.ask.task] += 1
                    yield triplet
            except Unusable as error:
                skipped[error.reason] += 1
                log.warning("left out: %s", error)

    shard = write_shard(path, triplets())
    if not shard.count:
        path.unlink()
    finished = Finished(
        keys=_digest(keys),
        shard=shard if shard.count else None,
        offered=len(keys),
        counts=dict(sorted(counts.items())),
        skipped=dict(sorted(skipped.items())),
    )
    write_atomic(mark, finished.model_dump_json())
    return finished


def _known(mark: Path, path: Path) -> Finished | None:
    """The mark of a shard that is there and whole."""
    try:
        known = Finished.model_validate_json(mark.read_text())
    except (FileNotFoundError, ValidationError):
        return None
    whole = known.shard is None or (path.is_file() and digest_of(path) == known.shard.digest)
    return known if whole else None


def _digest(keys: Iterator[str] | list[str]) -> str:
    digest = hashlib.sha256()
    for key in keys:
        digest.update(f"{key}\n".encode())
    return digest.hexdigest()


def _request(order: Order, source: Source) -> str:
    """What a shard depends on besides its examples; not on where they lie, nor on how often they will be drawn."""
    words, split = told_of(order.sources.instructions), order.sources.split
    material = made_from(split) if isinstance(source, Scenes) else {}
    return repr((_told(source), material, words, split, order.size, order.seed, order.per_shard))


def _told(source: Source) -> dict[str, Any]:
    """What a source file says of it that makes a difference to its triplets; networks by what is in their files."""
    told: dict[str, Any] = source.model_dump(mode="json", exclude={"path", "weight", "dataset"})
    made_with = {f: _version(address, sure) for f, address, sure in addresses_of(source) if f != "path"}
    return {**told, **made_with}


def _version(address: str, sure: bool) -> str:
    """A digest in place of a file or folder, wherever it lies; words and hub ids as they are."""
    kind, place = parted(address)
    path = Path(place)
    if not (sure or kind or "/" in place) or not path.exists():
        return address
    return f"{kind}{version_of(path) if (path / MANIFEST).is_file() else digest_once(path)}"


def _of(start: Origin, mark: Finished) -> Origin:
    return start.model_copy(update={"offered": mark.offered, "counts": mark.counts, "skipped": mark.skipped})


def _check(order: Order, part: Part, out: Path) -> None:
    if order.size < SMALLEST:
        raise ConfigError(f"size={order.size} is too small for discs and objects; use {SMALLEST} or more")
    if (out / MANIFEST).is_file() and (there := Part.held(Manifest.load(out))) != part:
        raise ConfigError(f"{out} holds part {there} of a data set; give part {part} a folder of its own")
    out.mkdir(parents=True, exist_ok=True)


def hands(order: Order) -> int:
    """How many processes to build an order with, if nobody says: see `build`."""
    addresses = [told for source in order.sources.sources for told in addresses_of(source)]
    weights = sum(_bytes(address) for field, address, _ in addresses if field not in ("path", "exemplars"))
    if not weights:
        return os.cpu_count() or 1
    from instructdiffusion.model.device import best

    return 1 if weights > LARGE or best().type != "cpu" else os.cpu_count() or 1


def _bytes(address: str) -> float:
    """Bytes of a network's files; of one that is not on disk, as many as there may be."""
    kind, place = parted(address)
    if Path(place).exists():
        path = Path(place)
        return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")))
    return float("inf") if kind or "/" in place else 0  # else it is a word


def _most_shards(order: Order, part: Part) -> int:
    """More workers than this would have nothing to do; how long a data set is, only a walk would tell."""
    triplets = 0
    for source in order.sources.sources:
        if isinstance(source, DataSet):
            return os.cpu_count() or 1
        triplets += source.scenes
    return max(1, -(-triplets // (order.per_shard * part.count)))


@contextmanager
def _watched(out: Path, progress: Callable[[int, int], None]) -> Iterator[None]:
    """Tell once a second how many shards are finished: workers are busy, but what they finished can be counted."""
    over = Event()

    def watch() -> None:
        while not over.wait(1.0):
            progress(sum(1 for _ in out.glob("*.tar")), 0)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
