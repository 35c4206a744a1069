"""Parts of a data set, each in a folder and with a manifest of its own, and the whole that they make.

The whole's manifest is the one that a build in a single part would have written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from instructdiffusion.model.data.shards import Manifest, Origin, Shard
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import share


@dataclass(frozen=True)
class Part:
    """One of `count` parts, from 1."""

    number: int = 1
    count: int = 1

    @staticmethod
    def of(text: str) -> Part:
        """Read `3/16`.

        Raises:
            ConfigError: it is no part.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ConfigError(f"part {text!r}: write which of how many, from 1, as in 3/16")
        return Part(int(number), int(count))

    @staticmethod
    def held(manifest: Manifest) -> Part:
        """Which part a manifest is of."""
        return Part.of(manifest.report.get("part", "1/1"))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def join(parts: Sequence[Path], out: Path) -> Manifest:
    """Make one data set of its parts: their shards, linked where the disk can, and one manifest.

    Raises:
        DataError: a part is missing, given twice, or of another order; names it.
    """
    manifests = _fitting(parts)
    first, *_ = manifests.values()
    for folder, manifest in manifests.items():
        for shard in manifest.shards:
            share(folder / shard.name, out / shard.name)
    sources = {name: summed([m.sources[name] for m in manifests.values()]) for name in first.sources}
    shards = [shard for manifest in manifests.values() for shard in manifest.shards]
    licences = [licence for manifest in manifests.values() for licence in manifest.licences]
    return with_contents(first, Part(), sources, shards, licences).save(out)


def with_contents(
    order: Manifest, part: Part, sources: Mapping[str, Origin], shards: Iterable[Shard], licences: Iterable[str]
) -> Manifest:
    """The manifest of a part; the only part is the whole, which must hold something.

    Args:
        order: what says size, split and seed.
        sources: by name, in the order of the sources file; shards are put into that order.

    Raises:
        DataError: the whole holds nothing.
    """
    names = [*sources]
    ordered = sorted(shards, key=lambda shard: (names.index(shard.name.rpartition("-")[0]), shard.name))
    if not ordered and part == Part():
        why = {name: origin.skipped for name, origin in sources.items()}
        raise DataError(f"no triplet could be made of any source ({why}); `instructdiffusion data check` tells more")
    return order.model_copy(
        update={
            "counts": _added(origin.counts for origin in sources.values()),
            "shards": tuple(ordered),
            "licences": tuple(sorted(set(licences))),
            "sources": dict(sources),
            "report": {} if part == Part() else {"part": str(part)},
        }
    )


def summed(origins: Sequence[Origin]) -> Origin:
    """What several shards or parts have of one source."""
    new = {
        "offered": sum(origin.offered for origin in origins),
        "counts": _added(origin.counts for origin in origins),
        "skipped": _added(origin.skipped for origin in origins),
    }
    return origins[0].model_copy(update=new)


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def _fitting(parts: Sequence[Path]) -> dict[Path, Manifest]:
    """The manifests of parts 1 to n, which fit together."""
    found: dict[Part, Path] = {}
    manifests = {folder: Manifest.load(folder) for folder in parts}
    for folder, manifest in manifests.items():
        part = Part.held(manifest)
        if part in found:
            raise DataError(f"{folder} and {found[part]} both hold part {part}; leave one out")
        found[part] = folder
    if not found:
        raise DataError("no parts to join; name their folders")
    wanted = [Part(number, max(part.count for part in found)) for number in range(1, max(p.count for p in found) + 1)]
    if missing := [str(part) for part in wanted if part not in found]:
        raise DataError(f"part {', '.join(missing)} is missing; build it and name its folder too")
    first = found[wanted[0]]
    for part, folder in found.items():
        if part not in wanted or _told(manifests[folder]) != _told(manifests[first]):
            raise DataError(f"{folder} is of other sources, size, seed or number of parts than {first}; build it again")
    return {found[part]: manifests[found[part]] for part in wanted}


def _told(manifest: Manifest) -> tuple[object, ...]:
    """What all parts of a data set have in common."""
    sources = [(name, origin.dataset, origin.weight) for name, origin in manifest.sources.items()]
    return manifest.size, manifest.split, manifest.seed, sources
