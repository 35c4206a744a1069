"""How near plans of trainings are to what they took: three sizes, every stage of ZeRO, one process or two.

python bench/plan.py    # twenty minutes on two cores; writes bench/results/*.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from itertools import product
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import record

from instructdiffusion.model import network, planner, recipes
from instructdiffusion.model.config import Run, override
from instructdiffusion.model.data.latents import encode
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.speed import Way
from instructdiffusion.model.synthesis.write import mixture, synthesize

SIZES = {"small": (128, 192, 256), "middling": (256, 384, 384), "large": (320, 512, 768)}  # widths of the U-Net
STAGES = 0, 1, 2, 3
GIB, KIB = 2**30, 2**10
WAY = Way(attention="plain")


def settings(size: str, stage: int, processes: int) -> Run:
    """A few steps of a network of that size, a checkpoint in the midst of them."""
    changed = {
        "network.widths": list(SIZES[size]),
        "optim.steps": 3,
        "optim.warmup": 0,
        "optim.batch_size": 16 * processes,
        "optim.micro_batch": 16,
        "optim.zero_stage": stage,
        "optim.precision": WAY.precision,
        "optim.attention": WAY.attention,
        "optim.layout": WAY.layout,
        "checkpoint_every": 2,
        "samples_every": 0,
        "network.text_layers": 2,  # a text encoder that learns takes part in the plan, too
        "train_text": "true",
    }
    return override(recipes.base(), [f"{name}={value}" for name, value in changed.items()])


def prepare(folder: Path, size: str) -> Path:
    """A model of that size and triplets for it, below a folder."""
    place, run = folder / size, settings(size, 0, 1)
    if not place.is_dir():
        synthesize(place / "shards", split="test", counts=mixture(80), size=run.network.size, seed=0, workers=1)
        nets = network.create(run.network, run.diffusion, [t.source for t in read_triplets(place / "shards")])
        network.save(nets, place / "model")
        encode(place / "shards", nets, place / "latents", states=False)
    return place


def measured(place: Path, run: Run, processes: int) -> dict[str, int]:
    """Bytes that the first process of a training took at most, and with nothing in it but its libraries."""
    with TemporaryDirectory() as name:
        out = Path(name)
        (out / "order.json").write_text(run.model_dump_json())
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        subprocess.run([*torchrun, "--", __file__, "--train", str(place), str(out)], env=alone, check=True)
        told: dict[str, int] = json.loads((out / "took.json").read_text())
        return told


def train(place: Path, out: Path) -> None:
    """What `measured` starts."""
    import deepspeed  # noqa: F401

    from instructdiffusion.model.train import train

    run, libraries = Run.model_validate_json((out / "order.json").read_bytes()), most()
    train(run, place / "latents", place / "model", out / "training")
    if os.environ["RANK"] == "0":
        (out / "took.json").write_text(json.dumps({"libraries": libraries, "took": most()}))


def most() -> int:
    """The most memory that this process took so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def compare(folder: Path, size: str, stage: int, processes: int, repeats: int) -> tuple[int, int]:
    """Bytes as planned and as measured: the median of so many trainings."""
    place, run = prepare(folder, size), settings(size, stage, processes)
    took = sorted((measured(place, run, processes) for _ in range(repeats)), key=itemgetter("took"))[repeats // 2]
    shapes = planner.shapes_of(place / "model", run.network.size)
    return planner.plan(run, shapes, processes, WAY, took["libraries"]).alone, took["took"]


def main() -> None:
    """Measure and record everything, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--stages", nargs="+", type=int, choices=STAGES, default=list(STAGES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(*given.train)
        return
    with TemporaryDirectory() as name:
        for size, stage in product(given.sizes, given.stages):
            processes = 1 if size == "large" else 2
            planned, took = compare(Path(name), size, stage, processes, given.repeats)
            what = f"Memory as planned, {size} U-Net, ZeRO {stage}, {processes} process{'es' * (processes > 1)}"
            record(what, planned / GIB, "GiB", took / GIB, held="measured", repeats=given.repeats)


if __name__ == "__main__":
    main()
