"""The page about a data set: what it holds, how its scores are spread, what each rule rejected; pictures inside."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from instructdiffusion.pipelines.pages import Strip, Table, origins, page, small
from instructdiffusion.pipelines.report import histogram

if TYPE_CHECKING:
    from instructdiffusion.model.data.shards import Manifest, Shard, Triplet

PAIRS = 4  # source and target of so many a task, or a rule
Place = tuple[int, int]  # of a triplet: the number of its shard, and its own in it


def page_of(folder: Path, name: str) -> str:
    """The page of a folder of shards; of a filter's output also its rules."""
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.quality.filtering import REJECTED

    manifest = Manifest.load(folder)
    found: Mapping[str, Any] = manifest.report.get("scores", {})
    report = manifest.report if found else {}
    counts: Table = [("task", "triplets"), *sorted(manifest.counts.items())]
    tables = [counts, origins(manifest), _rules(found, report), _licences(manifest)]
    drawn = {rule: spread for rule, spread in found.items() if "mean" in spread}
    strips = [Strip(_told(rule, spread), [histogram(rule, spread)]) for rule, spread in drawn.items()]
    strips += _sheets(folder, manifest)
    if (folder / REJECTED / "manifest.json").is_file():
        strips += _rejected(folder)
    facts = {"triplets": manifest.total, "split": manifest.split, "side": f"{manifest.size} px", "seed": manifest.seed}
    read = {"looked at": report["read"], "kept": report["kept"]} if report else {}
    return page(name, {**facts, **read}, tables=[table for table in tables if len(table) > 1], strips=strips)


def _rules(found: Mapping[str, Any], report: Mapping[str, Any]) -> Table:
    """How many each rule rejected, and where its values lie."""
    rows: list[tuple[object, ...]] = []
    for name in {**found, **report.get("dropped", {})}:
        spread = found.get(name, {})
        quantiles = spread.get("quantiles", {})
        middle = [f"{quantiles[q]:.3g}" if q in quantiles else "" for q in ("0.05", "0.5", "0.95")]
        dropped = report["dropped"].get(name, 0)
        rows.append(
            (name, spread.get("about", ""), spread.get("limits", ""), dropped, spread.get("missing", 0), *middle)
        )
    return [("rule", "value", "passes", "rejected", "no value", "5 %", "median", "95 %"), *rows]


def _told(rule: str, spread: Mapping[str, Any]) -> str:
    return f"{rule}: {spread['about']}; " + (f"passes: {spread['limits']}" if spread["limits"] else "no limit")


def _sheets(folder: Path, manifest: Manifest) -> list[Strip]:
    """Source and target of some triplets of each task."""
    from instructdiffusion.model.data.shards import one_by_one

    pairs = defaultdict[str, list[str]](list)
    for task, triplet, _ in _some(folder, manifest, lambda shard: one_by_one(shard.tasks)):
        pairs[task] += [small(triplet.source), small(triplet.target)]
    return [Strip(f"{task}: source and target", pictures) for task, pictures in sorted(pairs.items())]


def _rejected(folder: Path) -> list[Strip]:
    """The same of what each rule rejected, with the values; of the folder that the filter wrote."""
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.quality.filtering import REJECTED, verdicts

    def rules(shard: Shard) -> list[str]:
        return [verdict.rule for verdict in verdicts(folder, shard) if verdict.rule]

    pairs, told = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for rule, triplet, verdict in _some(folder / REJECTED, Manifest.load(folder / REJECTED), rules):
        pairs[rule] += [small(triplet.source), small(triplet.target)]
        told[rule].append(verdict.get("told", ""))
    return [Strip(f"rejected by {rule}: {'; '.join(told[rule])}", pairs[rule]) for rule in sorted(pairs)]


def _some(
    folder: Path, manifest: Manifest, kinds: Callable[[Shard], Iterable[str]]
) -> Iterator[tuple[str, Triplet, dict[str, Any]]]:
    """A few triplets of each kind, drawn from all shards, with the filter's verdict on each where there is one.

    Args:
        kinds: of the triplets of a shard, in order.
    """
    from instructdiffusion.model.data.shards import read_samples, triplet_of

    shards = [shard for shard in manifest.shards if shard.name.endswith(".tar")]  # latents have no pictures
    places = ((kind, (number, at)) for number, shard in enumerate(shards) for at, kind in enumerate(kinds(shard)))
    wanted = {place: kind for kind, drawn in _drawn(places).items() for place in drawn}
    for number in sorted({number for number, _ in wanted}):
        for at, sample in enumerate(read_samples(folder, shards[number])):
            if (number, at) in wanted:
                verdict = json.loads(sample.pop("verdict.json", b"{}"))
                yield wanted[number, at], triplet_of(sample, folder / shards[number].name), verdict


def _drawn(places: Iterable[tuple[str, Place]]) -> dict[str, list[Place]]:
    """Some places of each kind, each as likely as another, and the same ones whenever there are the same."""
    rng, seen, drawn = Random(0), Counter[str](), defaultdict[str, list[Place]](list)
    for kind, place in places:
        seen[kind] += 1
        if len(drawn[kind]) < PAIRS:
            drawn[kind].append(place)
        elif (at := rng.randrange(seen[kind])) < PAIRS:
            drawn[kind][at] = place
    return drawn


def _licences(manifest: Manifest) -> Table:
    """Each licence, and how many triplets state it."""
    stated = Counter[str]()
    for shard in manifest.shards:
        stated.update(dict(shard.licences))
    return [("licence", "triplets"), *((licence, stated[licence] or "") for licence in manifest.licences)]
