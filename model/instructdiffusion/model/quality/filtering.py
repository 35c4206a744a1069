"""Shards in, shards out: what a policy keeps, what it rejects, and every value.

    out/manifest.json                 the data set of what was kept; its report counts and sums up
    out/shard-00000.tar               what was kept of the source's shard of that name
    out/rejected/                     a data set of what was not; each sample holds its `verdict.json`
    out/verdicts/shard-00000.jsonl    a line a triplet: the rule that rejected it, and its value for every rule

Shards are written one after the other. A run that was cut off goes on behind the last one it finished, and ends with
the same bytes as one that was not. Samples are copied as they lie in their shard, never encoded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from instructdiffusion.model.data.shards import (
    Manifest,
    Sample,
    Shard,
    read_samples,
    triplet_of,
    write_samples,
)
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.quality.judging import Judge, Verdict
from instructdiffusion.model.quality.policy import Policy
from instructdiffusion.model.quality.summary import Summary

BATCH = 32  # triplets that are decoded and scored at once
REJECTED, VERDICTS = "rejected", "verdicts"
Progress = Callable[[int, int], None]


class Part(BaseModel):
    """A shard that is done, and what its verdicts depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    request: str
    kept: Shard | None
    rejected: Shard | None
    verdicts: str


def filter_shards(
    source: Path,
    out: Path,
    policy: Policy | None = None,
    *,
    here: Callable[[str], str] = str,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Split the triplets of `source` into those that a policy keeps, in `out`, and those in `out/rejected`.

    Args:
        policy: None for the embedded one, which needs no network.
        here: as of `Judge.load`.
        progress: called with (shards done, shards in all).

    Raises:
        ConfigError: a network that the policy names is not there; told before anything is scored.
        DataError: a shard is damaged, the disk is full, or nothing is left.
    """
    parent, judge = Manifest.load(source), Judge.load(policy or Policy.read("embedded"), here)
    summary, parts, before = Summary(judge.policy), list[Part](), ""
    for shard in parent.shards:
        request = hashlib.sha256("\n".join((judge.request, before, shard.digest)).encode()).hexdigest()
        part = _finished(out, shard, request)
        if part is None:
            part = _filtered(source, shard, out, judge, request)
        else:
            _recall(out, part, judge)
        for verdict in verdicts(out, shard):
            summary.add(verdict)
        parts.append(part)
        before = request if judge.remembers else ""
        progress(len(parts), len(parent.shards))
    return _save(source, parent, out, judge, summary, parts)


def verdicts(out: Path, shard: Shard) -> Iterator[Verdict]:
    """What became of the triplets of one of the source's shards, in order.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = _lines(out, shard)
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield Verdict.model_validate_json(line)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read ({type(error).__name__}); delete it and filter again") from error


def _filtered(source: Path, shard: Shard, out: Path, judge: Judge, request: str) -> Part:
    kept: list[Sample] = []
    rejected: list[Sample] = []
    lines: list[str] = []
    for samples in _batches(read_samples(source, shard)):
        triplets = [triplet_of(sample, source / shard.name) for sample in samples]
        for sample, verdict in zip(samples, judge.judged(triplets), strict=True):
            line = verdict.model_dump_json()
            lines.append(line)
            if verdict.rule:
                rejected.append({**sample, "verdict.json": line.encode()})
            else:
                kept.append(sample)
    write_atomic(_lines(out, shard), "".join(f"{line}\n" for line in lines))
    part = Part(
        request=request,
        kept=_written(out / shard.name, kept),
        rejected=_written(out / REJECTED / shard.name, rejected),
        verdicts=digest_of(_lines(out, shard)),
    )
    write_atomic(_mark(out, shard), part.model_dump_json())
    return part


def _finished(out: Path, shard: Shard, request: str) -> Part | None:
    """What an earlier run made of a shard; None where it made nothing, something else, or it was damaged since."""
    mark, lines = _mark(out, shard), _lines(out, shard)
    if not mark.is_file() or not lines.is_file():
        return None
    part = Part.model_validate_json(mark.read_text())
    there = [(out, part.kept), (out / REJECTED, part.rejected)]
    whole = all(one is None or _is(folder / one.name, one.digest) for folder, one in there)
    return part if part.request == request and whole and _is(lines, part.verdicts) else None


def _recall(out: Path, part: Part, judge: Judge) -> None:
    """Let the judge remember what an earlier run kept."""
    if judge.remembers and part.kept is not None:
        for sample in read_samples(out, part.kept):
            judge.remember(triplet_of(sample, out / part.kept.name))


def _save(source: Path, parent: Manifest, out: Path, judge: Judge, summary: Summary, parts: Iterable[Part]) -> Manifest:
    parts = list(parts)
    kept = tuple(part.kept for part in parts if part.kept is not None)
    rejected = tuple(part.rejected for part in parts if part.rejected is not None)
    report = summary.report()
    if not kept:
        raise DataError(
            f"the filter dropped all {parent.total} triplets of {source} ({report['dropped']}); "
            f"look at them in {out / REJECTED}, then change the policy or build from other sources"
        )
    settings = {"policy": judge.policy.told(), "networks": dict(judge.models)}
    parent.heir(source, "filter", settings, **parent.contents(rejected)).save(out / REJECTED)
    return parent.heir(source, "filter", settings, report=report, **parent.contents(kept)).save(out)


def _batches(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    while batch := list(islice(samples, BATCH)):
        yield batch


def _written(path: Path, samples: list[Sample]) -> Shard | None:
    if samples:
        return write_samples(path, samples)
    path.unlink(missing_ok=True)  # of a run with another policy
    return None


def _lines(out: Path, shard: Shard) -> Path:
    return (out / VERDICTS / shard.name).with_suffix(".jsonl")


def _mark(out: Path, shard: Shard) -> Path:
    lines = _lines(out, shard)
    return lines.with_name(f".{lines.stem}.json")  # hidden: no part of the content


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and digest_of(path) == digest
