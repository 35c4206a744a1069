"""Run a benchmark: sample by sample into a file that a killed run goes on with, in parts that machines share.

`part-1-of-2.jsonl` holds a row for each sample that is done; `merge` makes the numbers of all parts. What the numbers
depend on stands in `part-1-of-2.json`: parts that were made differently are not merged.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from instructdiffusion.model.benchmark import UNJUDGED, Benchmark, Case, Measure, Order, Row, Sample, Tools
from instructdiffusion.model.benchmarks import benchmark_named
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.metrics import Spec, Value, measured, missing
from instructdiffusion.model.metrics.value import mean
from instructdiffusion.model.part_files import (
    PICTURES,
    Head,
    append,
    data_named,
    files,
    finished,
    hold,
    keys_done,
    read_head,
    read_rows,
)
from instructdiffusion.model.seeds import seed_of
from instructdiffusion.model.task import Image

if TYPE_CHECKING:
    from instructdiffusion.model.endpoints import Endpoint

REPORT = "benchmark.json"
BATCH = 16  # samples edited at once, and the most that a killed run does again
RESAMPLES = 1000
Progress = Callable[[int, int], None]


class Report(BaseModel):
    """A benchmark's numbers, of all samples and of each part of the benchmark."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    benchmark: str
    editor: str
    data: str
    split: str
    n: int
    values: dict[str, Value]
    slices: dict[str, dict[str, Value]]
    latency: dict[str, float] = Field(
        description="seconds a sample, each one's being its share of a batch of up to `batch`, hence of no single "
        "request: mean, p50 and p95"
    )
    scores: dict[str, dict[str, float]] = Field(
        {}, description="of metrics that are means: each independent sample's, by its group; what pairs two reports"
    )


def run(
    benchmark: Benchmark,
    endpoint: Endpoint,
    out: Path,
    order: Order,
    *,
    tools: Tools | None = None,
    part: tuple[int, int] = (1, 1),
    progress: Progress = lambda done, total: None,
) -> Path:
    """Measure one part of a benchmark's samples; what is in `out` already is not done again.

    Args:
        part: number of this part, from 1, and how many there are.
        progress: told the samples done; in all is 0, since data is streamed.

    Raises:
        DataError: data or an earlier run's files are broken, or were made with other settings.
        ConfigError: there is no such part.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise ConfigError(f"part {number}/{parts} does not exist; count from 1/{parts} to {parts}/{parts}")
    tools = tools or Tools()
    rows, head = files(out, number, parts)
    if not rows.is_file():
        head.unlink(missing_ok=True)  # nothing was measured yet: what is mended in between may change the head
    hold(head, _head(benchmark, endpoint, order, parts, tools, out))
    done = set(keys_done(rows))
    mine = itertools.islice(_unique(benchmark.cases(order)), number - 1, None, parts)
    for batch in _batches(case for case in mine if case.key not in done):
        append(rows, _measured(benchmark, endpoint, [case.load() for case in batch], order.seed, tools))
        done |= {case.key for case in batch}
        progress(len(done), 0)
    if not done and number == 1:
        raise DataError(f"benchmark {benchmark.name} found no samples; look at the data, or ask for more")
    write_atomic(finished(out, number, parts), json.dumps(sorted(done)))
    return rows


def merge(out: Path, *, resamples: int = RESAMPLES) -> Report:
    """Make the numbers of all parts in `out`, and write `benchmark.json`.

    Raises:
        DataError: a part is missing, unfinished, of another run or made with other settings; names it.
    """
    heads = sorted(out.glob("part-*.json"))
    if not heads:
        raise DataError(f"{out} holds no part of a benchmark; run it first")
    found = [read_head(head) for head in heads]
    first = found[0]
    if other := next((path for path, head in zip(heads, found, strict=True) if head.parts != first.parts), None):
        raise DataError(f"{out} holds parts of two runs, {heads[0].name} and {other.name}; delete those of one")
    rows: dict[str, Row] = {}
    for number in range(1, first.parts + 1):
        file, head = files(out, number, first.parts)
        if not head.is_file() or not finished(out, number, first.parts).is_file():
            raise DataError(f"part {number}/{first.parts} in {out} is not finished; run it with --part")
        hold(head, first)
        rows |= {row["key"]: row for row in read_rows(file)}
    ordered = [rows[key] for key in sorted(rows)]
    report = _report(first, ordered, resamples)
    write_atomic(out / REPORT, report.model_dump_json(indent=1))
    return report


def _report(head: Head, rows: Sequence[Row], resamples: int) -> Report:
    known = {m.spec.name: m for m in benchmark_named(head.benchmark).measures(Tools())}

    def values(some: Sequence[Row]) -> dict[str, Value]:
        return {
            name: missing(spec, head.missing[name])
            if name in head.missing
            else _value(spec, known[name], some, resamples)
            for name, spec in head.specs.items()
        }

    whole = values(rows)
    means = [name for name, value in whole.items() if value.value is not None and known[name].statistic is mean]
    parts = sorted({row["part"] for row in rows} - {""})
    seconds = np.array([row["seconds"] for row in rows])
    return Report(
        benchmark=head.benchmark,
        editor=head.editor,
        data=head.data,
        split=head.split,
        n=len(rows),
        values=whole,
        slices={part: values([row for row in rows if row["part"] == part]) for part in parts},
        latency={
            "mean": float(seconds.mean()),
            "p50": float(np.quantile(seconds, 0.5)),
            "p95": float(np.quantile(seconds, 0.95)),
            "batch": float(BATCH),
        },
        scores={name: {g: float(np.mean(unit)) for g, unit in _units(known[name], rows).items()} for name in means},
    )


def _value(spec: Spec, measure: Measure, rows: Sequence[Row], resamples: int) -> Value:
    """One metric of some rows; those of a group are one unit, of which a bound is known where all its rows have it."""

    def units(of: str) -> list[Any]:
        return list(_units(measure, rows, of).values())

    unjudged = [row[of][UNJUDGED] for row in rows for of in PICTURES if UNJUDGED in row[of]]
    if unjudged and spec.model:
        return missing(spec, f"{len(unjudged)} pictures were not judged ({unjudged[0]}); run again")
    return measured(
        spec, units("output"), measure.statistic, floor=units("floor"), bound=units("bound"), resamples=resamples
    )


def _units(measure: Measure, rows: Sequence[Row], of: str = "output") -> dict[str, Any]:
    """What a metric is made of, by group; none of a group whose rows lack it."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    picked = {name: measure.pick([r[of] for r in group]) for name, group in groups.items() if all(r[of] for r in group)}
    return {name: unit for name, unit in picked.items() if unit is not None}


def _measured(
    benchmark: Benchmark, endpoint: Endpoint, samples: Sequence[Sample], seed: int, tools: Tools
) -> Iterator[Row]:
    began = time.perf_counter()
    outputs = _edited(endpoint, samples, seed)
    seconds = (time.perf_counter() - began) / len(samples)
    for sample, made, rebuilt in zip(samples, outputs, _rebuilt(endpoint, samples), strict=True):
        yield {
            "key": sample.key,
            "group": sample.group,
            "part": sample.part,
            "seconds": seconds,
            "output": benchmark.row(sample, made, tools),
            "floor": benchmark.row(sample, [sample.source] * len(made), tools),
            "bound": benchmark.row(sample, rebuilt, tools) if rebuilt else {},
        }


def _edited(endpoint: Endpoint, samples: Sequence[Sample], seed: int) -> list[list[Image]]:
    """The outputs of every sample, one a turn; a turn is given what the turn before made."""
    outputs: list[list[Image]] = [[] for _ in samples]
    for turn in range(max(len(sample.asks) for sample in samples)):
        at = [i for i, sample in enumerate(samples) if turn < len(sample.asks)]
        before = [outputs[i][-1] if turn else samples[i].source for i in at]
        seeds = [seed_of(f"{samples[i].key}/{turn}", seed) for i in at]
        for i, picture, made in zip(
            at, before, endpoint.edit(before, [samples[i].asks[turn] for i in at], seeds), strict=True
        ):
            if made.shape != picture.shape or made.dtype != np.uint8:
                raise DataError(
                    f"{endpoint.name} made {made.dtype} {made.shape} of sample {samples[i].key}, "
                    f"which is {picture.shape}; an editor must keep the size"
                )
            outputs[i].append(made)
    return outputs


def _rebuilt(endpoint: Endpoint, samples: Sequence[Sample]) -> list[list[Image]]:
    """For each sample its turns' targets after the autoencoder; none where they or it are unknown."""
    known = [
        i
        for i, sample in enumerate(samples)
        if all(target is not None and target.shape == sample.source.shape for target in sample.targets)
    ]
    targets = [target for i in known for target in samples[i].targets if target is not None]
    sources = [samples[i].source for i in known for _ in samples[i].targets]
    made = iter(endpoint.rebuilt(sources, targets) or [] if targets else [])
    found: list[list[Image]] = [[] for _ in samples]
    for i in known:
        found[i] = list(itertools.islice(made, len(samples[i].targets)))
    return found


def _head(benchmark: Benchmark, endpoint: Endpoint, order: Order, parts: int, tools: Tools, out: Path) -> Head:
    measures = benchmark.measures(tools)
    made = {"resolution": order.size if order.data is None or benchmark.cuts else 0, "seed": order.seed}
    return Head(
        benchmark=benchmark.name,
        editor=endpoint.name,
        data=data_named(order.data, out, order.name) if order.data else "embedded",
        split=order.split,
        samples=order.samples,
        size=order.size,
        seed=order.seed,
        parts=parts,
        specs={m.spec.name: m.spec.model_copy(update=made) for m in measures},
        missing={m.spec.name: m.why for m in measures if m.why},
    )


def _unique(cases: Iterator[Case]) -> Iterator[Case]:
    seen: set[str] = set()
    for case in cases:
        if case.key in seen:
            raise DataError(f"two samples have the key {case.key}; make the keys of the data unique")
        seen.add(case.key)
        yield case


def _batches(cases: Iterator[Case]) -> Iterator[list[Case]]:
    while batch := list(itertools.islice(cases, BATCH)):
        yield batch
