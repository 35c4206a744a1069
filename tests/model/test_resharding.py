"""A checkpoint is read by any number of processes, at every stage of ZeRO."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import resharding
import torch
from resharding import STAGES, same, state

pytest.importorskip("deepspeed")
pytestmark = [
    pytest.mark.xdist_group("training in the tests' own process"),
    pytest.mark.usefixtures("alone"),
]


@pytest.mark.slow
def test_any_number_of_processes_goes_on_from_what_any_other_wrote(tmp_path: Path) -> None:
    resharding.go_on_with(tmp_path, ["one=2", "whole=4"])
    copy(tmp_path, "one", "one-by-two")
    go_on(tmp_path, 2, "two=2", "two-whole=4", "two-cut=2", "two-cut=4", "one-by-two=2")
    copy(tmp_path, "two", "two-by-one")
    copy(tmp_path, "two", "two-by-four")
    resharding.go_on_with(tmp_path, ["two-by-one=2", "two-by-one=4"])
    go_on(tmp_path, 4, "two-by-four=2", "two-by-four=4")

    for stage in STAGES:
        for name in ("one-by-two", "two-by-one", "two-by-four"):  # nothing was to do at first but write what was read
            assert same(state(tmp_path / f"{name}-{stage}", 2), state(tmp_path / f"{name[:3]}-{stage}", 2)), name
        assert same(state(tmp_path / f"two-cut-{stage}", 4), state(tmp_path / f"two-whole-{stage}", 4))
        for name in ("two-whole", "two-by-one", "two-by-four"):
            ended, whole = state(tmp_path / f"{name}-{stage}", 4), state(tmp_path / "whole-0", 4)
            assert ended.keys() == whole.keys()
            assert len(ended) == 4 * 4 + 1  # kinds, weights that learn; a buffer
            for key, value in ended.items():
                torch.testing.assert_close(value, whole[key], rtol=1e-4, atol=1e-6)


def go_on(folder: Path, processes: int, *orders: str) -> None:
    """Do it under torchrun, in one launch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [*command, "--", resharding.__file__, str(folder), *orders],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def copy(folder: Path, name: str, to: str) -> None:
    for stage in STAGES:
        shutil.copytree(folder / f"{name}-{stage}", folder / f"{to}-{stage}")
