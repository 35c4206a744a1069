"""Shards that kfp makes side by side in runs that are killed: the same bytes, and nothing finished is made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import published
import pytest
import yaml

from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.shards import MANIFEST, Manifest
from instructdiffusion.model.data.sources import read_sources

SHARDS, PARTS, KILLS = 16, 2, 1


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A source of three pairs for each shard."""
    rows = []
    for number in range(SHARDS):
        published.gopro(tmp_path / f"gopro-{number}")
        rows.append({"name": f"s{number}", "path": f"gopro-{number}", "split": "train"})
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"split": "train", "sources": rows}))
    return tmp_path / "sources.yaml"


def finished(folder: Path) -> dict[Path, tuple[int, int]]:
    """When each shard that has its mark was written, and as which file."""
    marks = folder.glob("work/jobs/*/s*.*.json")
    shards = [mark.with_name(json.loads(mark.read_text())["shard"]["name"]) for mark in marks]
    return {shard: ((stat := shard.stat()).st_ino, stat.st_mtime_ns) for shard in shards}


@pytest.mark.slow
def test_a_fan_out_of_kfp_killed_at_random_gives_the_same_bytes_and_makes_nothing_twice(
    sources: Path, tmp_path: Path
) -> None:
    folder, rng, before = tmp_path / "run", Random(1), dict[Path, tuple[int, int]]()
    command = [sys.executable, str(Path(__file__).with_name("fan_out.py")), str(folder), str(sources), str(PARTS)]
    for kill_at in [*sorted(rng.sample(range(1, SHARDS - 1), KILLS)), SHARDS]:
        with (tmp_path / "run.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None and (len(finished(folder)) < kill_at or kill_at == SHARDS):
            time.sleep(0.05)
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == (0 if kill_at == SHARDS else -signal.SIGKILL), (tmp_path / "run.log").read_text()
        now = finished(folder)
        assert before.items() <= now.items()
        before = now
    joined = Path(json.loads((folder / "made.json").read_text()))
    build(Order(read_sources(sources), size=32, seed=3), tmp_path / "whole", workers=1)
    names = [shard.name for shard in Manifest.load(tmp_path / "whole").shards]
    assert len(names) == SHARDS == len(before)
    for name in [*names, MANIFEST]:
        assert (joined / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
