"""How long the embedded base is evaluated on this machine.

python bench/evaluate.py        # some minutes; writes bench/results/*.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import record

from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.evaluate import evaluate, hands
from instructdiffusion.model.synthesis.write import synthesize
from instructdiffusion.model.tasks import TASKS


def seconds(samples: int, workers: int = 0) -> float:
    """Seconds of an evaluation with so many samples of each task; `workers` 0: as many as the command takes."""
    with TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        synthesize(data, split="test", counts=dict.fromkeys(TASKS, samples), size=64, seed=7)
        total = Manifest.load(data).total
        began = time.perf_counter()
        evaluate(None, data, out, workers=workers or hands(None, total))
        return time.perf_counter() - began


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000, help="of each task")
    samples = parser.parse_args().samples
    apart, alone = seconds(samples), seconds(samples, workers=1)
    told = f"Evaluating the base on {samples} samples of each task"
    record(told, apart, "s", 180, held="the bar", repeats=1)
    record(f"{told} in one process", alone, "s", apart, held="spread over processes", repeats=1)


if __name__ == "__main__":
    main()
