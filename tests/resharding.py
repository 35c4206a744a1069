"""Goes on with a small training at every stage of ZeRO, with as many processes as torchrun started.

python resharding.py FOLDER NAME=STEPS...      each NAME is a folder of checkpoints; STEPS, how many are due there

Every process learns from the same numbers, so that how many there are makes no difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from instructdiffusion.model import checkpoint, engine, recipes
from instructdiffusion.model.config import override

STAGES = (0, 1, 2, 3)


class Small(nn.Module):
    """Weights of sizes that no number of processes divides, and one that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
        self.register_buffer("factor", torch.tensor(0.5))  # of the loss: a step in which it is lost shows
        self.factor: Tensor
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, numbers: Tensor) -> Tensor:
        loss: Tensor = (self.layers(numbers) * self.fixed - 1).square().mean()
        return loss * self.factor


def go_on(folder: Path, stage: int, steps: int) -> None:
    """Train until `steps` are done, and save."""
    torch.manual_seed(0)
    engine.join()
    run = override(recipes.smoke(), [f"optim.zero_stage={stage}"])
    wrapped = engine.start(run, Small())
    average = [weight.detach().clone() for weight in engine.held(wrapped)]
    done = checkpoint.resume(folder, wrapped, average)
    for step in range(done.step, steps):
        numbers = torch.randn(4, 7, generator=torch.Generator().manual_seed(step))
        for _ in range(wrapped.gradient_accumulation_steps()):
            wrapped.backward(wrapped(numbers))
            engine.step(wrapped, run.optim.clip)
        wrapped.module.factor.mul_(1.1)
        for mean, weight in zip(average, engine.held(wrapped), strict=True):
            mean.lerp_(weight.detach(), 0.5)
    checkpoint.save(folder, wrapped, average, done._replace(step=steps))


def go_on_with(folder: Path, orders: list[str]) -> None:
    """Each order at each stage."""
    for order in orders:
        name, _, steps = order.partition("=")
        for stage in STAGES:
            go_on(folder / f"{name}-{stage}", stage, int(steps))


def state(folder: Path, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint by kind and name, whichever process wrote them."""
    files = (folder / f"step-{step:07d}").glob("*.safetensors")
    return {f"{f.stem.rpartition('-')[0]} {name}": tensor for f in files for name, tensor in load_file(f).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether the same tensors are in both, to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


if __name__ == "__main__":
    go_on_with(Path(sys.argv[1]), sys.argv[2:])
