"""An audit: people look at some of what a filter kept and rejected, and their verdicts say how good the filter is.

    audit/pictures/001.png    source and target side by side
    audit/verdicts.csv        number, instruction and an empty column: `good` or `bad`, to be filled in
    audit/drawn.json          what each number is; it gives the filter's own verdict away

The draw is even over rules and tasks, so that rare ones are looked at too; each verdict is weighted by how many it
stands for.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from instructdiffusion.model.data.png import encode_png
from instructdiffusion.model.data.shards import Manifest, Shard, Triplet, read_samples, triplet_of
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.interval import interval_of
from instructdiffusion.model.quality.filtering import REJECTED, verdicts
from instructdiffusion.model.quality.judging import Verdict

VERDICTS, DRAWN, PICTURES = "verdicts.csv", "drawn.json", "pictures"
GOOD, BAD = "good", "bad"
Which = NDArray[np.bool_]
GAP = 4  # white columns between source and target


class Drawn(BaseModel):
    """A triplet that people are shown; `weight` is how many of its rule and task it stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    number: str
    key: str
    task: str
    rule: str  # empty: the filter kept it
    weight: float


def draw(filtered: Path, out: Path, *, count: int, seed: int) -> list[Drawn]:
    """Draw triplets of a filter's output and write what people need to judge them.

    Args:
        filtered: folder that `filter_shards` wrote.
        count: how many; fewer where there are fewer.

    Raises:
        DataError: the folder is no filter's output.
    """
    chosen = _chosen(list(_verdicts(filtered)), count, Random(seed))
    rows = [("number", "instruction", "verdict")]
    drawn = list[Drawn]()
    for number, triplet in enumerate(_triplets(filtered, chosen), 1):
        verdict, weight = chosen[triplet.key]
        name = f"{number:03d}"
        white = np.full((triplet.source.shape[0], GAP, 3), 255, np.uint8)
        pair = np.hstack([triplet.source, white, triplet.target])
        write_atomic(out / PICTURES / f"{name}.png", encode_png(pair))
        rows.append((name, triplet.ask.instruction, ""))
        drawn.append(Drawn(number=name, key=triplet.key, task=verdict.task, rule=verdict.rule, weight=weight))
    write_atomic(out / DRAWN, json.dumps([each.model_dump() for each in drawn], indent=1))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(out / VERDICTS, text.getvalue())
    return drawn


def score(audit: Path) -> dict[str, Any]:
    """Hold the filter against people's verdicts.

    Returns:
        `judged` and `left`: numbers of triplets. `precision`: of what the filter kept, the share that is good.
        `recall`: of what is good, the share that it kept. Each with `value`, `low` and `high`, its 95 % interval, or
        None where nothing says anything of it. `rules`: by rule, the share of what it rejected that is bad.

    Raises:
        DataError: a file is missing, or a verdict is neither good nor bad.
    """
    drawn, said = _read(audit)
    judged = [(each, said[each.number] == GOOD) for each in drawn if said.get(each.number)]
    weights = np.array([each.weight for each, _ in judged])
    kept, good = (np.array(values, bool) for values in ([not e.rule for e, _ in judged], [g for _, g in judged]))
    rules = sorted({each.rule for each, _ in judged if each.rule})
    of = np.array([each.rule for each, _ in judged])
    return {
        "judged": len(judged),
        "left": len(drawn) - len(judged),
        "precision": _share(good, kept, weights),
        "recall": _share(kept, good, weights),
        "rules": {rule: _share(~good, of == rule, weights) for rule in rules},
    }


def _share(wanted: Which, among: Which, weights: NDArray[np.float64]) -> dict[str, float] | None:
    """The weighted share of `among` that is `wanted`."""
    where = np.flatnonzero(among)
    if not len(where):
        return None

    def share(places: NDArray[np.intp]) -> float:
        at = where[places]
        return float((weights[at] * wanted[at]).sum() / weights[at].sum())

    value, low, high = interval_of(share, len(where))
    return {"value": value, "low": low, "high": high}


def _verdicts(filtered: Path) -> Iterator[Verdict]:
    for shard in _sources(filtered):
        yield from verdicts(filtered, shard)


def _sources(filtered: Path) -> list[Shard]:
    """The shards that were filtered; those of which everything was kept, or nothing, have one half alone."""
    manifests = [Manifest.load(filtered), Manifest.load(filtered / REJECTED)]
    return list({shard.name: shard for manifest in manifests for shard in manifest.shards}.values())


def _chosen(every: Sequence[Verdict], count: int, rng: Random) -> Mapping[str, tuple[Verdict, float]]:
    """Verdicts by key, with their weights: in turn one of each rule and task, until there are enough."""
    strata = defaultdict[tuple[str, str], list[Verdict]](list)
    for verdict in every:
        strata[verdict.rule, verdict.task].append(verdict)
    for stratum in strata.values():
        rng.shuffle(stratum)
    order = [(place, name) for name in sorted(strata) for place in range(len(strata[name]))]
    taken = defaultdict[tuple[str, str], list[Verdict]](list)
    for place, name in sorted(order)[:count]:
        taken[name].append(strata[name][place])
    return {v.key: (v, len(strata[name]) / len(vs)) for name, vs in taken.items() for v in vs}


def _triplets(filtered: Path, chosen: Mapping[str, Any]) -> Iterator[Triplet]:
    """The chosen triplets, kept and rejected ones mixed by their keys."""
    found = []
    for folder in (filtered, filtered / REJECTED):
        for shard in Manifest.load(folder).shards:
            for sample in read_samples(folder, shard):
                if sample["__key__"] in chosen:
                    sample.pop("verdict.json", None)
                    found.append(triplet_of(sample, folder / shard.name))
    Random(len(found)).shuffle(found)
    yield from found


def _read(audit: Path) -> tuple[list[Drawn], dict[str, str]]:
    try:
        drawn = TypeAdapter(list[Drawn]).validate_json((audit / DRAWN).read_text())
        with (audit / VERDICTS).open(encoding="utf-8", newline="") as file:
            said = {row["number"]: row["verdict"].strip().lower() for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{audit} holds no audit that can be read ({type(error).__name__}); draw one again") from error
    for number, verdict in said.items():
        if verdict not in ("", GOOD, BAD):
            raise DataError(f"{audit / VERDICTS}: number {number} is called {verdict!r}; write {GOOD} or {BAD}")
    return drawn, said
