"""The page about a data set: what it holds, how its scores are spread, what each rule rejected; pictures inside."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructdiffusion.pipelines.pages import Strip, Table, origins, page, small
from instructdiffusion.pipelines.report import histogram

if TYPE_CHECKING:
    from instructdiffusion.model.data.shards import Manifest, Triplet

LOOKED = 200  # samples of each source's first shard that pictures are taken from
PAIRS = 4  # source and target of so many a task, or a rule


def page_of(folder: Path, name: str) -> str:
    """The page of a folder of shards; of a filter's output also its rules."""
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.quality.filtering import REJECTED

    manifest = Manifest.load(folder)
    found: Mapping[str, Any] = manifest.report.get("scores", {})
    report = manifest.report if found else {}
    counts: Table = [("task", "triplets"), *sorted(manifest.counts.items())]
    licences: Table = [("licence",), *((licence,) for licence in manifest.licences)]
    tables = [counts, origins(manifest), _rules(found, report), licences]
    drawn = {rule: spread for rule, spread in found.items() if "mean" in spread}
    strips = [Strip(_told(rule, spread), [histogram(rule, spread)]) for rule, spread in drawn.items()]
    strips += _sheets(folder, manifest)
    if (folder / REJECTED / "manifest.json").is_file():
        strips += _rejected(folder / REJECTED)
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
    pairs = defaultdict[str, list[str]](list)
    for triplet, _ in _some(folder, manifest):
        if len(pairs[triplet.ask.task]) < 2 * PAIRS:
            pairs[triplet.ask.task] += [small(triplet.source), small(triplet.target)]
    return [Strip(f"{task}: source and target", pictures) for task, pictures in sorted(pairs.items())]


def _rejected(folder: Path) -> list[Strip]:
    """The same of what each rule rejected, with the values."""
    from instructdiffusion.model.data.shards import Manifest

    pairs, told = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for triplet, verdict in _some(folder, Manifest.load(folder)):
        rule = verdict.get("rule", "")
        if len(told[rule]) < PAIRS:
            pairs[rule] += [small(triplet.source), small(triplet.target)]
            told[rule].append(verdict.get("told", ""))
    return [Strip(f"rejected by {rule}: {'; '.join(told[rule])}", pairs[rule]) for rule in sorted(pairs)]


def _some(folder: Path, manifest: Manifest) -> Iterator[tuple[Triplet, dict[str, Any]]]:
    """The first triplets of each source's first shard, and the filter's verdict on each where there is one."""
    from instructdiffusion.model.data.shards import read_samples, triplet_of

    for shard in {shard.name.rpartition("-")[0]: shard for shard in reversed(manifest.shards)}.values():
        if not shard.name.endswith(".tar"):  # latents have no pictures
            continue
        for sample in islice(read_samples(folder, shard), LOOKED):
            verdict = json.loads(sample.pop("verdict.json", b"{}"))
            yield triplet_of(sample, folder / shard.name), verdict
