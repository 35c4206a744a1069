"""The one training loop, for every stage: what differs is in the run.

run, latents, model  ->  checkpoints while it runs, `model/` and `training.json` when it is done
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel
from safetensors.torch import save
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import CLIPTextModel

from instructdiffusion.model import account, checkpoint, curve, device, engine, lora, network, speed
from instructdiffusion.model.config import Run
from instructdiffusion.model.data import draws
from instructdiffusion.model.data.ahead import Batch, ahead
from instructdiffusion.model.data.away import Shards
from instructdiffusion.model.data.batches import Batches
from instructdiffusion.model.data.draws import Draws
from instructdiffusion.model.data.live import open_batches
from instructdiffusion.model.data.mixture import Mixture
from instructdiffusion.model.diffusion import Objective
from instructdiffusion.model.errors import DataError, Interrupted
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.gauges import Gauges
from instructdiffusion.model.inputs import data_digest, inputs, settle
from instructdiffusion.model.latest import Done
from instructdiffusion.model.network import Model
from instructdiffusion.model.report import SILENT, Clock, Reporter
from instructdiffusion.model.samples import Samples
from instructdiffusion.model.speed import Way
from instructdiffusion.model.weights import model_digest

log = logging.getLogger(__name__)
MODEL, SUMMARY, ADAPTER = "model", "training.json", "adapter"
USUAL = 0.98  # share that the usual loss keeps of itself in a step
BAD = "bad-batch-{rank}.safetensors"


def train(
    run: Run, data: Path | str | Shards, model: Path | Model | None, out: Path | str, report: Reporter = SILENT
) -> Path:
    """Train `model` and write the averaged weights to `out/model`; returns that folder.

    `data` is a folder of latents, or of shards, which are then encoded as they are drawn; or either of them elsewhere.
    Every process of a torchrun group calls this; alone, it is a group of one. Called again after a kill it goes on from
    the last checkpoint; called again when done it does nothing.

    Raises:
        DataError: data or model are missing, damaged, or don't fit each other; `out` holds a training of another run,
            of other data or from another start; a checkpoint can't be written; the
            loss was a spike or no number for `run.optim.bad_steps` steps in a row, and the batch is kept in `out`.
        ServiceError: data that is elsewhere does not come any more; the last checkpoint is as it was.
        Interrupted: SIGTERM came to any process; the step was finished and saved.
    """
    data, out = Path(data) if isinstance(data, str) else data, Path(out)
    if engine.is_first():
        settle(out, run, inputs(run, data_digest(data), "" if isinstance(model, Model) else model_digest(model)))
    if (out / SUMMARY).is_file():
        return out / MODEL
    nets = model if isinstance(model, Model) else network.load(model)
    batches = open_batches(data, nets, run.train_text)
    mixture = batches.mixture(run.seed, run.weights)
    with engine.Stop() as stop:
        job = _start(run, nets, data, batches, out, stop)
        batches.to(job.engine.device)
        stream = ahead(batches, _parts(job, batches, mixture), job.engine.device)
        clock, drawn = Clock(run.optim.steps, job.step), Draws(mixture, batches.tasks)
        while job.step < run.optim.steps:
            with job.gauges.step():
                _step(job, batches, stream, out)
            job.step += 1
            if job.step % run.log_every == 0 or job.step == run.optim.steps:
                _tell(job, drawn, clock, report, out)
            if job.step < run.optim.steps:
                _keep(job, out)
            if run.samples_every and (job.step % run.samples_every == 0 or job.step == run.optim.steps):
                _show(job, report, out)
        return _finish(job, nets, out, drawn)


@dataclass
class _Job:
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
    samples: Samples | None = None  # of the first process, where they are asked for
    gauges: Gauges = field(default_factory=Gauges)
    step: int = 0
    usual: float = 0.0  # loss, over all processes, where spikes are told by it; 0: not known
    bad: int = 0  # steps in a row with a loss that was a spike or no number
    before: float = 0.0  # seconds of training before this process started
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began


def _start(run: Run, nets: Model, data: Path | Shards, batches: Batches[Any], out: Path, stop: engine.Stop) -> _Job:
    torch.manual_seed(run.seed)
    learn(run, nets.unet, nets.text_encoder)
    null_tokens = nets.tokens([""])
    null_text = None if run.train_text else nets.text([""])[0]
    text_encoder = nets.text_encoder if run.train_text else None
    diffusion = run.diffusion.read_as(nets.diffusion)
    pixel_scale = getattr(nets.vae, "spread", None) if diffusion.relative else None
    objective = Objective(nets.unet, text_encoder, null_text, nets.scheduler, diffusion, pixel_scale, nets.scale)
    samples = Samples.of(run, nets, data) if run.samples_every and engine.is_first() else None  # before any is split
    device.keep_memory()
    engine.join()
    way = speed.choose(run.optim, objective, (*batches.batch([0]), null_tokens), out)
    wrapped = engine.start(run, objective)
    ema = EMAModel(engine.held(wrapped), decay=run.ema_decay, foreach=True)
    null_tokens = null_tokens.to(wrapped.device)
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    written = account.Account(out if run.account else None, rank)
    job = _Job(run, way, wrapped, ema, null_tokens, rank, world, stop, written, samples)
    job.step, job.before, job.usual = checkpoint.resume(out / "checkpoints", wrapped, ema.shadow_params)
    if rank == 0:
        account.strike_out(out, job.step)
    torch.distributed.barrier()
    return job


def learn(run: Run, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
    """Set those weights learning that a run says, its adapters in place of the U-Net's own where it has any."""
    for part in (unet, text_encoder) if run.train_text else (unet,):
        part.train().requires_grad_(True)
    if run.lora.rank:
        lora.add(unet, run.lora)
    if run.optim.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        if run.train_text:
            text_encoder.gradient_checkpointing_enable()


def parts(order: Mixture, run: Run, rank: int, world: int, step: int) -> list[list[int]]:
    """The numbers of the triplets that a process takes in a step, counted from 0, one micro-batch after another.

    All processes together take every draw of the step once, however many they are.

    Raises:
        ConfigError: they can't share out a step evenly.
    """
    size, micro = run.optim.batch_size, engine.micro_batch(run.optim, world)
    mine = order.draws(range(step * size, (step + 1) * size))[rank::world]
    return [mine[start : start + micro] for start in range(0, len(mine), micro)]


def _parts(job: _Job, batches: Batches[Any], mixture: Mixture) -> Iterator[list[int]]:
    """Those of this process from here to the end."""
    for step in range(job.step, job.run.optim.steps):
        batches.expect(mixture, step * job.run.optim.batch_size, job.run.optim.batch_size)
        yield from parts(mixture, job.run, job.rank, job.world, step)


def _step(job: _Job, batches: Batches[Any], stream: Iterator[Batch], out: Path) -> None:
    """One optimizer step; the losses of this process's triplets are kept, but for those that are left out."""
    for group in job.engine.optimizer.param_groups:
        group["lr"] = engine.learning_rate(job.run, job.step)
    generator = torch.Generator().manual_seed(hash((job.run.seed, job.step, job.rank)) & 0x7FFFFFFF)
    bad: list[int] = []
    told: list[float] = []
    taken: list[int] = []
    left_out = False
    for _ in range(job.engine.gradient_accumulation_steps()):
        with job.gauges.waiting():
            part, source, target, text = next(stream)
        losses = job.engine(source, target, text, job.null_tokens, generator)
        taken += part
        fine = _is_fine(job, losses)
        if fine:
            told += losses.detach().tolist()
            for task, loss in zip(batches.tasks[part].tolist(), losses.detach().tolist(), strict=True):
                job.gauges.losses[task].append(loss)
        else:
            bad += part
        if engine.any_process(not fine):  # then nobody's part counts: DeepSpeed's processes step in time
            blank = torch.zeros_like(source), torch.ones_like(target), text
            losses, left_out = job.engine(*blank, job.null_tokens, generator) * 0.0, True
        engine.backward(job.engine, losses.mean())
        job.gauges.gradient_norm = engine.step(job.engine, job.run.optim.clip)
    follow = get_ema_multi_avg_fn(job.ema.get_decay(job.step + 1))  # in place, where diffusers' own makes copies
    follow(job.ema.shadow_params, engine.held(job.engine), job.step)
    job.bad = job.bad + 1 if left_out else 0
    if job.run.optim.spike and (mean := engine.mean_over_all(told)):
        job.usual = job.usual * USUAL + mean * (1 - USUAL) if job.usual else mean
    _leave_out(job, batches, bad, out)
    job.written.add(job.step + 1, taken)


def _is_fine(job: _Job, losses: torch.Tensor) -> bool:
    """Whether all are numbers, and no spike among losses as they usually are."""
    limit = job.run.optim.spike * job.usual or float("inf")
    return bool(losses.isfinite().all() and losses.mean() <= limit)


def _leave_out(job: _Job, batches: Batches[Any], bad: list[int], out: Path) -> None:
    """Say which triplets have a loss that is a spike or no number; too often in a row, keep them and stop."""
    if not job.bad:
        return
    if bad:
        log.warning(
            "step %d: the loss is a spike or no number for some of triplets %s; they are left out", job.step + 1, bad
        )
    if job.bad < job.run.optim.bad_steps:
        return
    kept = out / BAD.format(rank=job.rank)
    if bad:
        names = ("source", "target", "text")
        batch = dict(zip(names, batches.batch(bad), strict=True)) | {"numbers": torch.tensor(bad)}
        write_atomic(kept, save({name: tensor.cpu().contiguous() for name, tensor in batch.items()}))
    what = f"triplets {bad}, kept in {kept}" if bad else "those of another process"
    raise DataError(
        f"the loss was a spike or no number in {job.bad} steps in a row, last in step {job.step + 1} ({what}); "
        "look at them, or lower optim.learning_rate; the last checkpoint is as it was"
    )


def _check_weights(job: _Job) -> None:
    """DataError if a weight is no number; then nothing is saved."""
    if engine.any_process(not all(bool(average.isfinite().all()) for average in job.ema.shadow_params)):
        raise DataError(
            f"weights are no numbers after step {job.step}; the last checkpoint is as it was: lower optim.learning_rate"
        )


def _keep(job: _Job, out: Path) -> None:
    """Save when it is time, and when told to stop; then stop."""
    stop = job.stop.on_any()
    if stop or job.step % job.run.checkpoint_every == 0:
        _check_weights(job)
        done = Done(job.step, job.seconds, job.usual)
        checkpoint.save(out / "checkpoints", job.engine, job.ema.shadow_params, done)
    if stop:
        raise Interrupted(f"told to stop after step {job.step} of {job.run.optim.steps}; the same command goes on")


def _tell(job: _Job, drawn: Draws, clock: Clock, report: Reporter, out: Path) -> None:
    """Read the gauges and begin anew; every process does, the first one tells."""
    optim = job.run.optim
    metrics = job.gauges.read(job.engine, job.ema.shadow_params, optim.batch_size)
    job.gauges = Gauges()
    if job.rank:
        return
    metrics["learning_rate"] = engine.learning_rate(job.run, job.step - 1)
    metrics |= draws.figures(drawn.shares(job.step * optim.batch_size))
    report.metrics(metrics, job.step)
    text = clock.text(job.step, "triplets", optim.batch_size)
    report.progress(job.step, optim.steps, f"loss {metrics.get('loss', float('nan')):.4f}, {text}")
    curve.append(out, {"step": job.step, "seconds": job.seconds, **metrics})


def _show(job: _Job, report: Reporter, out: Path) -> None:
    """A sheet of samples, by the first process; the average's parts are those of all."""
    average = engine.whole(job.engine, job.ema.shadow_params)
    if job.samples is not None:
        report.image("samples", job.samples.sheet(average, out, job.step), job.step)


def _finish(job: _Job, nets: Model, out: Path, drawn: Draws) -> Path:
    _check_weights(job)
    job.ema.copy_to(engine.held(job.engine))
    engine.gather(job.engine)
    if job.rank == 0:
        if job.run.lora.rank:
            lora.save(nets.unet, out / ADAPTER)
            lora.merge(nets.unet)
        network.save(nets, out / MODEL)
        run = job.run
        summary = {
            "run": run.model_dump(),
            "steps": job.step,
            "triplets": drawn.count,
            "triplets_per_second": job.step * run.optim.batch_size / job.seconds,
            "seconds": job.seconds,
            "processes": job.world,
            "way": job.way.model_dump(),
            "mixture": drawn.shares(job.step * run.optim.batch_size),
            "curve": curve.read(out),
        }
        write_atomic(out / SUMMARY, json.dumps(summary, indent=1))
    torch.distributed.barrier()
    return out / MODEL
