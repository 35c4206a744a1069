"""How a training computes, chosen by measurement before its first step: attention, precision and layout.

What is fastest hangs on the machine and on the networks. The choice is kept in the run's folder, so that a training
that is resumed computes alike, to the last bit.
"""

from __future__ import annotations

import logging
import time
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from instructdiffusion.model import device
from instructdiffusion.model.attention import set_attention
from instructdiffusion.model.config import Optim
from instructdiffusion.model.diffusion import Objective
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.loss_scale import LossScale

log = logging.getLogger(__name__)
FILE = "speed.json"
TIMES = 2  # each way is measured, after once to warm up
MOST_TRIPLETS = 8  # that are measured with
SOON = 50  # steps: a training of fewer is over before what measuring costs it is won back
MOST_CELLS = 1024  # of latents whose attention is tried the plain way, which holds a number for each pair of them
MARGIN = 1.03  # as much faster has to be what is less usual: else chance decides, and no training is like another

ATTENTIONS = ("plain", "fused")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}


class Way(BaseModel):
    """One way to compute a step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attention: Literal["plain", "fused"] = "fused"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    layout: Literal["channels_first", "channels_last"] = "channels_first"

    def __str__(self) -> str:
        return f"{self.attention} attention, {self.precision}, {self.layout.replace('_', ' ')}"


class Speed(BaseModel):
    """What a run's folder holds: the way that was chosen, on what kind of machine, and the seconds of all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    way: Way
    seconds: dict[str, float] = {}


def choose(optim: Optim, objective: Objective, batch: tuple[Tensor, ...], out: Path) -> Way:
    """Make an objective compute in the way that all processes take; every one calls this, the first decides.

    It is what the settings say, or what was chosen when the training began on such a machine, or what is fastest.

    Args:
        batch: source and target latents, text and null tokens, as the objective takes them; any number of triplets.
    """
    told: list[Any] = [_decided(optim, objective, batch, out / FILE) if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(told)
    way: Way = told[0]
    use(way, objective)
    if way.precision == "fp16":
        objective.loss_scale = LossScale(weight for weight in objective.parameters() if weight.requires_grad)
    return way


def ways(optim: Optim, cells: int) -> list[Way]:
    """What the settings leave open, the most usual first, for pictures of so many latent cells."""
    gpu, fast = torch.cuda.is_available(), device.fast_bf16()
    attentions = ["fused"] if gpu or cells > MOST_CELLS else ["plain", "fused"] if fast else ["fused", "plain"]
    precisions = ["bf16", "fp32"] if fast else ["fp16", "fp32"] if gpu else ["fp32"]
    asked = (optim.attention, attentions), (optim.precision, precisions), (optim.layout, [*LAYOUTS])
    left = [some if setting == "auto" else [setting] for setting, some in asked]
    return [Way(attention=a, precision=p, layout=w) for a, p, w in product(*left)]


def use(way: Way, objective: Objective) -> None:
    """Make an objective compute in a way."""
    set_attention(objective.unet, fused=way.attention == "fused")
    objective.precision, objective.layout = PRECISIONS[way.precision], LAYOUTS[way.layout]


def measured(some: list[Way], objective: Objective, batch: tuple[Tensor, ...]) -> dict[Way, float]:
    """Seconds that a loss and its gradients take in each way, at best; in turns, so that noise meets all alike."""
    seconds: dict[Way, list[float]] = {way: [] for way in some}
    for _ in range(1 + TIMES):
        for way in some:
            use(way, objective)
            seconds[way].append(seconds_of(objective, batch))
    return {way: min(rest) for way, (_, *rest) in seconds.items()}


def seconds_of(objective: Objective, batch: tuple[Tensor, ...]) -> float:
    """Seconds of a loss and its gradients, which are forgotten; of the CPU's, without what others make it wait."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    objective(*batch, torch.Generator().manual_seed(0)).mean().backward()
    objective.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def fastest(seconds: dict[Way, float]) -> Way:
    """The first way, unless another is faster by more than chance."""
    first, best = next(iter(seconds)), min(seconds, key=seconds.__getitem__)
    return best if seconds[best] * MARGIN < seconds[first] else first


def _decided(optim: Optim, objective: Objective, batch: tuple[Tensor, ...], path: Path) -> Way:
    left = ways(optim, batch[0].shape[-1] * batch[0].shape[-2])
    kept = _kept(path)
    if kept is not None and kept.machine == device.kind() and kept.way in left:
        return kept.way
    seconds: dict[Way, float] = {}
    whole = optim.zero_stage < 3  # weights that are to be split may have no room here while they are
    if len(left) > 1 and whole and optim.steps >= SOON:
        count = min(optim.micro_batch, MOST_TRIPLETS)
        source, target, text, null_tokens = (tensor.to(device.best()) for tensor in batch)
        some = tuple(tensor[:1].expand(count, *tensor.shape[1:]) for tensor in (source, target, text))
        seconds = measured(left, objective.to(device.best()), (*some, null_tokens))
    way = fastest(seconds) if seconds else left[0]
    told = "; ".join(f"{one}: {s:.2g} s" for one, s in seconds.items())
    log.info("this training computes with %s%s", way, f" (measured: {told})" if told else "")
    speed = Speed(machine=device.kind(), way=way, seconds={str(one): s for one, s in seconds.items()})
    write_atomic(path, speed.model_dump_json(indent=1))
    return way


def _kept(path: Path) -> Speed | None:
    """What was chosen before; None if nothing was, or if it can't be read."""
    try:
        return Speed.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
