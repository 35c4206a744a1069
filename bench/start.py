"""How long the command takes to start, and a process that computes to start and end.

python bench/start.py           # two minutes; writes bench/results/*.json
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from figures import record

REPEATS = 5
IMPORT = "from instructdiffusion.model import network"
SELDOM = "from instructdiffusion.model.startup import collect_seldom; collect_seldom(); "


def seconds(*arguments: str) -> float:
    """Of a Python process with these arguments."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
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


if __name__ == "__main__":
    main()
