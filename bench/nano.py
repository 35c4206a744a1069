"""In what ways the nano base can be trained on this machine, and how fast.

python bench/nano.py    # some minutes on one core; writes bench/results/*.json
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from figures import record
from torch import Tensor

from instructdiffusion.model import network, recipes
from instructdiffusion.model.device import keep_memory, kind
from instructdiffusion.model.diffusion import Objective
from instructdiffusion.model.speed import ATTENTIONS, LAYOUTS, Way, seconds_of, use

BATCH = 8  # triplets
USUAL, BF16 = Way(attention="plain"), Way(attention="plain", precision="bf16")


def base() -> tuple[Objective, tuple[Tensor, ...]]:
    """The loss of the embedded base, as its recipe trains it, and a batch for it; what is in it takes no other time."""
    nets, run = network.load(None), recipes.base()
    for part in (nets.unet, nets.text_encoder):
        part.train().requires_grad_(True)
    meaning = run.diffusion.read_as(nets.diffusion)
    objective = Objective(nets.unet, nets.text_encoder, None, nets.scheduler, meaning, nets.vae.spread)
    shape = nets.encode([np.zeros((nets.resolution, nets.resolution, 3), np.uint8)]).shape[1:]
    source, target = torch.randn(2, BATCH, *shape, generator=torch.Generator().manual_seed(0))
    return objective, (source, target, nets.tokens(["remove the red car"] * BATCH), nets.tokens([""]))


def rate(way: Way, repeats: int) -> float:
    """Triplets a second, forward and backward, in a way; once to warm up is not counted."""
    objective, batch = base()
    use(way, objective)
    _, *seconds = (seconds_of(objective, batch) for _ in range(repeats + 1))
    return BATCH / statistics.median(seconds)


def measure(repeats: int) -> None:
    """Measure and record everything beside the usual way."""

    def tell(name: str, value: float) -> None:
        what = f"Training the base on a core of {kind()}: {name}"
        record(what, value, "triplets/s", usual, held=str(USUAL), repeats=repeats)

    before = rate(USUAL, repeats)
    keep_memory()
    usual = rate(USUAL, repeats)
    tell("memory handed back to the system in every step", before)
    for way in (*(Way(attention=a, layout=w) for a in ATTENTIONS for w in LAYOUTS), BF16):
        if way != USUAL:
            tell(str(way), rate(way, repeats))


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    measure(parser.parse_args().repeats)
