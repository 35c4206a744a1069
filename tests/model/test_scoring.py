"""Runs in parts: what a killed run did is kept, what was made otherwise is not mixed, each number says what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructdiffusion.model.benchmark import Benchmark, Case, Measure, Order, Row, Sample, Tools, each
from instructdiffusion.model.benchmarks import benchmark_named
from instructdiffusion.model.endpoints import Endpoint, Still
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.metrics import Spec
from instructdiffusion.model.metrics.pixels import L1, l1
from instructdiffusion.model.metrics.value import mean
from instructdiffusion.model.scoring import BATCH, Report, merge, run
from instructdiffusion.model.task import Ask, Image

FEW = Order(samples=3)


def scored(benchmark: Benchmark, endpoint: Endpoint, out: Path, order: Order = FEW, **more: Any) -> Report:
    run(benchmark, endpoint, out, order, **more)
    return merge(out, resamples=20)


class Counted(Benchmark):
    """Gray pictures that are to be made white; counts how often each is loaded."""

    name = "magicbrush"  # merging finds the statistics by a name that is registered
    about = "for tests"

    def __init__(self, count: int) -> None:
        self.size, self.loaded = count, list[str]()

    def cases(self, order: Order) -> Any:
        return (Case(f"{i:03d}", partial(self.load, f"{i:03d}", i)) for i in range(self.size))

    def load(self, key: str, level: int) -> Sample:
        self.loaded.append(key)
        gray = np.full((8, 8, 3), level, np.uint8)
        return Sample(key, gray, (Ask("edit", "Make it white."),), (np.full_like(gray, 255),), {}, key)

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        target = sample.targets[-1]
        assert target is not None
        return {"l1": l1(outputs[-1], target)}

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        return (Measure(L1, each("l1"), mean),)


class Killed(Still):
    """Ends like a machine that is switched off, after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def edit(self, pictures: Sequence[Image], asks: Sequence[Ask], seeds: Sequence[int]) -> list[Image]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().edit(pictures, asks, seeds)


def test_a_killed_run_goes_on_where_it_stopped_and_does_nothing_twice(tmp_path: Path) -> None:
    counted = Counted(40)
    with pytest.raises(KeyboardInterrupt):
        run(counted, Killed(1), tmp_path, FEW)
    with pytest.raises(DataError, match=r"part 1/1 in .* is not finished"):
        merge(tmp_path)
    rows = tmp_path / "part-1-of-1.jsonl"
    rows.write_text(rows.read_text() + '{"key": "016", "outp')  # cut off in the middle of a line
    kept = len(rows.read_text().splitlines()) - 1
    counted.loaded.clear()
    run(counted, Still(), tmp_path, FEW)
    assert counted.loaded == [f"{i:03d}" for i in range(kept, 40)]
    keys = [json.loads(line)["key"] for line in rows.read_text().splitlines()]
    assert keys == [f"{i:03d}" for i in range(40)]
    counted.loaded.clear()
    again = run(counted, Still(), tmp_path, FEW)
    assert counted.loaded == []
    assert again == rows


def test_parts_make_the_same_numbers_as_the_whole(tmp_path: Path) -> None:
    whole = scored(Counted(11), Still(), tmp_path / "whole")
    for number in (3, 1, 2):
        run(Counted(11), Still(), tmp_path / "parts", FEW, part=(number, 3))
    merged = merge(tmp_path / "parts", resamples=20)
    assert (merged.values, merged.n) == (whole.values, 11)


def test_a_part_that_is_missing_or_was_made_otherwise_is_named(tmp_path: Path) -> None:
    run(Counted(5), Still(), tmp_path, FEW, part=(1, 2))
    with pytest.raises(DataError, match=r"part 2/2 in .* is not finished"):
        merge(tmp_path)
    with pytest.raises(DataError, match="made with another seed; choose another folder"):
        run(Counted(5), Still(), tmp_path, Order(samples=3, seed=1), part=(1, 2))
    with pytest.raises(ConfigError, match="part 3/2 does not exist"):
        run(Counted(5), Still(), tmp_path, FEW, part=(3, 2))
    with pytest.raises(DataError, match="holds no part"):
        merge(tmp_path / "elsewhere")


class Wrong(Still):
    """Makes something that is no edit."""

    def __init__(self, made: np.ndarray) -> None:
        self.made = made

    def edit(self, pictures: Sequence[Image], asks: Sequence[Ask], seeds: Sequence[int]) -> list[Image]:
        return [self.made for _ in pictures]


@pytest.mark.parametrize("made", [np.zeros((4, 4, 3), np.uint8), np.full((8, 8, 3), np.nan)])
def test_an_editor_that_makes_no_picture_of_the_size_is_named(made: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"do-nothing made .* of sample 000"):
        run(Counted(2), Wrong(made), tmp_path, FEW)


class Kept(Still):
    """Keeps targets as they are, as an autoencoder without loss would."""

    def rebuilt(self, pictures: Sequence[Image], targets: Sequence[Image]) -> list[Image] | None:
        return list(targets)


class Pairs(Counted):
    """Two samples a group; the target of the last one is unknown."""

    def load(self, key: str, level: int) -> Sample:
        made = super().load(key, level)
        known = made.targets if level + 1 < self.size else (None,)
        return replace(made, targets=known, group=str(level // 2))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        return {"l1": l1(outputs[-1], np.full_like(outputs[-1], 255))}


def test_a_bound_is_of_the_groups_that_have_it_of_all_their_samples(tmp_path: Path) -> None:
    value = scored(Pairs(6), Kept(), tmp_path / "some").values["l1"]
    assert (value.n, value.bound, value.bound_n) == (3, 0, 2)
    assert scored(Pairs(6), Still(), tmp_path / "none").values["l1"].bound is None
    value = scored(Counted(6), Kept(), tmp_path / "all").values["l1"]
    assert (value.n, value.bound, value.bound_n) == (6, 0, None)


def test_a_report_holds_the_score_of_each_independent_sample_of_what_is_a_mean(tmp_path: Path) -> None:
    report = scored(Pairs(5), Still(), tmp_path / "pairs")
    levels = {"0": 0.5, "1": 2.5, "2": 4.0}  # of two gray pictures, and of the last one alone
    assert report.scores["l1"] == pytest.approx({group: 1 - level / 255 for group, level in levels.items()})
    alone = scored(Counted(3), Still(), tmp_path / "alone")
    assert np.mean([*alone.scores["l1"].values()]) == pytest.approx(alone.values["l1"].value)
    assert scored(benchmark_named("detection"), Still(), tmp_path / "boxes").scores == {}  # no sample has an AP


class Cut(Counted):
    """Cuts what it scores out of its data."""

    cuts = True


def test_numbers_of_another_size_or_seed_have_another_digest(tmp_path: Path) -> None:
    def spec(kind: type[Counted], order: Order) -> Spec:
        return scored(kind(2), Still(), tmp_path / f"{kind.__name__}{hash(order)}", order).values["l1"].spec

    one = spec(Counted, Order(size=64))
    assert (one.resolution, one.seed) == (64, 0)
    assert one.digest == spec(Counted, Order(size=64, samples=1)).digest
    assert len({one.digest, spec(Counted, Order(size=256)).digest, spec(Counted, Order(size=64, seed=9)).digest}) == 3
    # pictures of a data set come in their own size, whatever the model's is, unless something is cut out of them
    data = tmp_path / "data"
    assert spec(Counted, Order(data, size=256)).resolution == 0
    assert spec(Cut, Order(data, size=256)).resolution == 256


def test_rows_of_data_that_changed_are_not_mixed(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "data/out"
    data.mkdir()
    (data / "samples.jsonl").write_text('{"key": "red"}')
    (data / "1.png").write_bytes(b"picture")
    order = Order(data=data)
    run(Counted(2), Still(), out, order)
    named = merge(out).data
    assert named.startswith("data@sha256:")
    run(Counted(2), Still(), out, order)  # nothing changed but what the run wrote itself
    (data / "samples.jsonl").write_text('{"key": "tan"}')
    with pytest.raises(DataError, match="made with another data; choose another folder"):
        run(Counted(2), Still(), out, order)
    (data / "samples.jsonl").write_text('{"key": "red"}')
    (data / "2.png").write_bytes(b"picture")
    with pytest.raises(DataError, match="made with another data"):
        run(Counted(2), Still(), out, order)
    shutil.copytree(data, tmp_path / "elsewhere/data", ignore=lambda *_: ["out", "2.png"])
    run(Counted(2), Still(), out, Order(data=tmp_path / "elsewhere/data"))  # the same on another machine


def test_a_run_that_measured_nothing_starts_over_with_data_that_was_mended(tmp_path: Path) -> None:
    order = Order(data=tmp_path / "data")
    with pytest.raises(DataError, match="found no samples"):
        run(Counted(0), Still(), tmp_path / "out", order)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/1.png").write_bytes(b"picture")
    assert scored(Counted(1), Still(), tmp_path / "out", order).n == 1


def test_parts_of_two_runs_are_not_merged(tmp_path: Path) -> None:
    run(Counted(4), Still(), tmp_path, FEW)
    for number in (1, 2):
        run(Counted(4), Still(), tmp_path, FEW, part=(number, 2))
    with pytest.raises(DataError, match=r"two runs, part-1-of-1\.json and part-1-of-2\.json; delete those of one"):
        merge(tmp_path)


def test_how_long_a_sample_takes_is_told_with_the_batch_that_it_is_a_share_of(tmp_path: Path) -> None:
    latency = scored(Counted(3), Still(), tmp_path).latency
    assert latency["p95"] == latency["p50"] > 0  # one batch: nobody knows which of its samples was slow
    assert latency["batch"] == BATCH
