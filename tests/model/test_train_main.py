"""What torchrun starts: it works while torchrun lives, and never without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")

RANK = """
import os, runpy, time
while os.environ["WAITS"] and os.getppid() == int(os.environ["PARENT"]):
    time.sleep(0.01)
runpy.run_module("instructdiffusion.model.train_main", run_name="__main__", alter_sys=True)
"""
TORCHRUN = f"""
import os, subprocess, sys
os.environ["PARENT"] = str(os.getpid())
rank = subprocess.Popen([sys.executable, "-c", {RANK!r}, *sys.argv[1:]])
if not os.environ["WAITS"]:
    rank.wait()
"""


def told(folder: Path, waits: str) -> str:
    """What a rank says of a run that is not there; one that waits begins when what started it is gone."""
    paths = os.pathsep.join(p for p in sys.path if p)
    names = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WAITS": waits, "PYTHONPATH": paths}
    arguments = ["--run", str(folder / "no.json"), "--data", str(folder), "--out", str(folder / "out")]
    command = [sys.executable, "-c", TORCHRUN, *arguments]
    ended = subprocess.run(command, env=os.environ | names, capture_output=True, text=True, timeout=120, check=False)
    return ended.stderr


def test_a_rank_that_begins_when_torchrun_is_gone_ends_at_once(tmp_path: Path) -> None:
    assert told(tmp_path, "yes").startswith("error: torchrun was gone before this process began")


def test_a_rank_whose_torchrun_lives_begins(tmp_path: Path) -> None:
    assert "no.json" in told(tmp_path, "")
