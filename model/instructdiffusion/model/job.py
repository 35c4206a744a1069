"""What a training carries from step to step, and one step of it: the weights move, or it is left out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import save as as_bytes
from torch.optim.swa_utils import get_ema_multi_avg_fn

from instructdiffusion.model import account, checkpoint, engine
from instructdiffusion.model.config import Run
from instructdiffusion.model.data.ahead import Batch
from instructdiffusion.model.data.batches import Batches
from instructdiffusion.model.errors import DataError, Interrupted
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.gauges import Gauges
from instructdiffusion.model.latest import Done
from instructdiffusion.model.samples import Samples
from instructdiffusion.model.speed import Way

log = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"  # folder
USUAL = 0.98  # share that the usual loss keeps of itself in a step
BAD = "bad-batch-{rank}.safetensors"


@dataclass
class Job:
    """What the loop carries: the engine, the moving average, and how many optimizer steps are done."""

    run: Run
    way: Way
    engine: Any
    ema: EMAModel
    null_tokens: torch.Tensor
    rank: int
    world: int
    stop: engine.Stop
    written: account.Account
    tasks: Sequence[str]  # all that the data has
    samples: Samples | None = None  # of the first process, where they are asked for
    gauges: Gauges = field(default_factory=Gauges)
    step: int = 0  # that are done
    left_out: int = 0  # of them: moved nothing
    saved: int = 0  # the step of the last checkpoint
    usual: float = 0.0  # loss, over all processes, where spikes are told by it; 0: not known
    bad: int = 0  # steps in a row that were left out
    before: float = 0.0  # seconds of training before this process started
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began


class Part(NamedTuple):
    """A micro-batch that was computed: numbers of its triplets, their losses, and whether those may count."""

    numbers: list[int]
    losses: torch.Tensor
    fine: torch.Tensor


def take_step(job: Job, batches: Batches[Any], stream: Iterator[Batch], out: Path) -> None:
    """One optimizer step: the weights move, or it is left out and they don't, nor their average nor AdamW's sums.

    Which of both, the norm of the gradient decides. All processes have added that up, so it is the same on each, and it
    is a number only if every part on each of them may count. Until then nothing waits for the device.

    Raises:
        DataError: too many steps in a row are left out.
        Interrupted: a process was told to stop; the step is as if it had not begun, and those before it are saved.
    """
    for group in job.engine.optimizer.param_groups:
        group["lr"] = engine.learning_rate(job.run, job.step) * group["share"]
    generator = torch.Generator().manual_seed(hash((job.run.seed, job.step, job.rank)) & 0x7FFFFFFF)
    done: list[Part] = []
    norm = None
    for _ in range(job.engine.gradient_accumulation_steps()):
        if job.stop.on_any():
            _stop(job, out)
        with job.gauges.waiting():
            numbers, source, target, text = next(stream)
        losses = job.engine(source, target, text, job.null_tokens, generator)
        part = Part(numbers, losses.detach(), _are_fine(job, losses.detach()))
        engine.backward(job.engine, losses.mean(), part.fine)
        norm = engine.step(job.engine, job.run.optim.clip)
        done.append(part)
    if norm is not None and math.isfinite(norm):
        job.gauges.gradient_norm = norm
        _count(job, batches, done)
    else:
        _leave_out(job, batches, done, out)


def _are_fine(job: Job, losses: torch.Tensor) -> torch.Tensor:
    """Whether all are numbers, and no spike among losses as they usually are; a flag where they are."""
    limit = job.run.optim.spike * job.usual or float("inf")
    return losses.isfinite().all() & (losses.mean() <= limit)


def _count(job: Job, batches: Batches[Any], done: list[Part]) -> None:
    """What follows when the weights have moved: their average, what is usual, the account."""
    follow = get_ema_multi_avg_fn(job.ema.get_decay(job.step - job.left_out + 1))  # diffusers' own makes copies
    follow(job.ema.shadow_params, engine.held(job.engine), job.step)
    numbers = [number for part in done for number in part.numbers]
    losses = torch.cat([part.losses for part in done]).tolist()
    for task, loss in zip(batches.tasks[numbers].tolist(), losses, strict=True):
        job.gauges.losses[task].append(loss)
    if job.run.optim.spike:
        total, count = engine.totals([sum(losses), len(losses)])
        mean = total / count
        job.usual = job.usual * USUAL + mean * (1 - USUAL) if job.usual else mean
    if job.engine.module.loss_scale is not None:
        job.engine.module.loss_scale.grow()
    job.bad = 0
    job.written.add(job.step + 1, numbers)


def _leave_out(job: Job, batches: Batches[Any], done: list[Part], out: Path) -> None:
    """Say why a step moved nothing; too often in a row, give up."""
    bad = [number for part in done if not part.fine for number in part.numbers]
    scale = job.engine.module.loss_scale
    overflow = False
    if engine.any_process(bool(bad)):
        whose = f"triplets {bad}" if bad else "another process's triplets"
        why = f"the loss is a spike or no number for some of {whose}"
    elif overflow := scale is not None and scale.shrink():
        why = f"a gradient is too large for fp16, and the loss scaled by {float(scale.factor):g} from here on"
    else:
        why = "the gradient is no number, though every loss is"
    if bad or job.rank == 0:
        log.warning("step %d is left out: %s", job.step + 1, why)
    job.written.add(job.step + 1, [])
    job.bad += not overflow  # of which some are usual, until a scale is found
    if job.bad >= job.run.optim.bad_steps:
        _give_up(job, batches, bad, why, out)
    job.left_out += 1


def _give_up(job: Job, batches: Batches[Any], bad: list[int], why: str, out: Path) -> NoReturn:
    """Say what is known of steps that were left out; triplets with a bad loss are kept."""
    check_weights(job)
    kept = ""
    if bad:
        names = ("source", "target", "text")
        batch = dict(zip(names, batches.batch(bad), strict=True)) | {"numbers": torch.tensor(bad)}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in batch.items()}
        kept = f", kept in {write_atomic(out / BAD.format(rank=job.rank), as_bytes(tensors))}"
    raise DataError(
        f"{job.bad} steps in a row were left out, the last of them step {job.step + 1}: {why}{kept}; "
        f"{'look at them, or ' if kept else ''}lower optim.learning_rate; the last checkpoint is as it was"
    )


def check_weights(job: Job) -> None:
    """All processes do.

    Raises:
        DataError: a weight is no number.
    """
    if engine.any_process(not all(bool(average.isfinite().all()) for average in job.ema.shadow_params)):
        raise DataError(
            "the weights that the training began with are no numbers; begin with another model"
            if job.step == job.left_out
            else f"weights are no numbers after step {job.step}; the last checkpoint is as it was: "
            "lower optim.learning_rate"
        )


def save(job: Job, out: Path) -> None:
    """Write a checkpoint of the steps that are done.

    Raises:
        DataError: a weight is no number, or it can't be written; those before it are as they were.
    """
    check_weights(job)
    done = Done(job.step, job.seconds, job.usual, job.left_out)
    checkpoint.save(out / CHECKPOINTS, job.engine, job.ema.shadow_params, done)
    job.saved = job.step


def _stop(job: Job, out: Path) -> NoReturn:
    """Save, unless that was done; the gradients of a step that was begun are forgotten."""
    if job.step > job.saved:
        save(job, out)
    raise Interrupted(f"told to stop after step {job.step} of {job.run.optim.steps}; the same command goes on")
