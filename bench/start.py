"""How long the command takes to start, and a process that computes to start and end.

python bench/start.py           # five minutes; writes bench/results/*.json
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from figures import record

REPEATS = 5
IMPORT = "from instructdiffusion.model import network"
SELDOM = "from instructdiffusion.model.startup import collect_seldom; collect_seldom(); "
# What a training imports until its first step: networks, DeepSpeed, and what DeepSpeed looks at to know an optimizer.
TRAINING = "import deepspeed, instructdiffusion.model.train, deepspeed.runtime.zero.muon.muon_optimizer"
ALONE = f"""
import os
from instructdiffusion.model.startup import ADAPTERS, UNUSED, hidden
os.environ["TORCHDYNAMO_DISABLE"] = "1"
with hidden(*UNUSED, *ADAPTERS):
    {TRAINING}
"""


def seconds(*arguments: str) -> float:
    """Of a Python process with these arguments."""
    began = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**os.environ, "DS_ACCELERATOR": "cpu"}}
    subprocess.run([sys.executable, *arguments], check=True, **quiet)
    return time.perf_counter() - began


def median(*arguments: str) -> float:
    """Of so many runs, after one that is not counted."""
    _, *rest = (seconds(*arguments) for _ in range(REPEATS + 1))
    return statistics.median(rest)


def main() -> None:
    """Measure, and write the figures."""
    told = median("-m", "instructdiffusion.pipelines", "--help")
    record("Help of the command", told, "s", 0.3, held="the bar", repeats=REPEATS)
    usual, ours = median("-c", IMPORT), median("-c", SELDOM + IMPORT)
    what = "A process that imports the networks and ends"
    record(what, ours, "s", usual, held="with garbage collected as usual", repeats=REPEATS)
    usual, ours = median("-c", SELDOM + TRAINING), median("-c", SELDOM + ALONE)
    what = "A process that imports what a training does and ends"
    record(what, ours, "s", usual, held="with all that its libraries find", repeats=REPEATS)


if __name__ == "__main__":
    main()
