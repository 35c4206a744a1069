"""Versions of data sets: what differs between two, and what one was made of. Of manifests alone, no shard is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from instructdiffusion.model.data.shards import MANIFEST, Manifest
from instructdiffusion.model.files import digest_of


class Change(NamedTuple):
    """A fact in which two versions differ; None: one of them has no such thing."""

    what: str
    before: Any
    after: Any


class Made(NamedTuple):
    """A version in the line of a data set: how many steps back, which, of what step, and how many triplets."""

    back: int
    digest: str
    made: str
    triplets: int
    settings: Mapping[str, Any]


def changes(before: Manifest, after: Manifest) -> Iterator[Change]:
    """What differs, counts first; equal manifests differ in nothing."""
    yield from _differing("triplets", {"": before.total}, {"": after.total})
    yield from _differing("triplets of task", before.counts, after.counts)
    yield from _differing("triplets of source", _of_sources(before), _of_sources(after))
    for name in ("size", "split", "seed"):
        yield from _differing(name, {"": getattr(before, name)}, {"": getattr(after, name)})
    yield from _differing("licence", dict.fromkeys(before.licences, "used"), dict.fromkeys(after.licences, "used"))
    yield from _differing("", _settings(before), _settings(after))
    old, new = ({shard.digest for shard in manifest.shards} for manifest in (before, after))
    if old != new:
        yield Change("shards that only one has", len(old - new), len(new - old))


def lineage(folder: Path) -> Iterator[Made]:
    """A data set and everything it was made of, the youngest first."""
    manifest = Manifest.load(folder)
    digest = digest_of(folder / MANIFEST)
    yield Made(0, digest, manifest.made, manifest.total, manifest.settings)
    for back, version in enumerate(manifest.history, 1):
        yield Made(back, version.digest, version.made, sum(version.counts.values()), version.settings)


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """A tree of settings by path, as in `sources.people.limit`; lists of named things go by their names."""
    if isinstance(tree, list) and tree and all(isinstance(each, dict) and "name" in each for each in tree):
        tree = {each["name"]: {k: v for k, v in each.items() if k != "name"} for each in tree}
    if not isinstance(tree, dict):
        return {name: tree}
    return {path: value for k, v in tree.items() for path, value in flat(v, f"{name}.{k}" if name else str(k)).items()}


def _differing(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield Change(f"{what} {name}".strip(), before.get(name), after.get(name))


def _of_sources(manifest: Manifest) -> dict[str, int]:
    return {name: sum(origin.counts.values()) for name, origin in manifest.sources.items()}


def _settings(manifest: Manifest) -> dict[str, Any]:
    """All settings in a version's line, by step."""
    told = {version.made: version.settings for version in reversed(manifest.history)}
    return flat({**told, manifest.made: manifest.settings})
