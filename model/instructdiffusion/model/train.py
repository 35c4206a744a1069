"""The one training loop, for every stage: what differs is in the run.

run, latents, model  ->  checkpoints while it runs, `model/` and `training.json` when it is done
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel
from transformers import CLIPTextModel

from instructdiffusion.model import account, checkpoint, curve, device, engine, lora, network, speed
from instructdiffusion.model.config import Run
from instructdiffusion.model.data import draws
from instructdiffusion.model.data.ahead import ahead
from instructdiffusion.model.data.away import Shards
from instructdiffusion.model.data.batches import Batches
from instructdiffusion.model.data.draws import Draws
from instructdiffusion.model.data.live import open_batches
from instructdiffusion.model.data.mixture import Mixture
from instructdiffusion.model.diffusion import Objective
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.gauges import Gauges
from instructdiffusion.model.inputs import data_digest, inputs, settle
from instructdiffusion.model.job import CHECKPOINTS, Job, check_weights, save, take_step
from instructdiffusion.model.network import Model
from instructdiffusion.model.report import SILENT, Clock, Reporter
from instructdiffusion.model.samples import Samples
from instructdiffusion.model.weights import model_digest

MODEL, SUMMARY, ADAPTER = "model", "training.json", "adapter"


def train(
    run: Run, data: Path | str | Shards, model: Path | Model | None, out: Path | str, report: Reporter = SILENT
) -> Path:
    """Train `model` and write the averaged weights to `out/model`; returns that folder.

    `data` is a folder of latents, or of shards, which are then encoded as they are drawn; or either of them elsewhere.
    Every process of a torchrun group calls this; alone, it is a group of one. Called again after a kill it goes on from
    the last checkpoint; called again when done it does nothing.

    Raises:
        DataError: data or model are missing, damaged, or don't fit each other; `out` holds a training of another run,
            of other data or from another start; a checkpoint can't be written; `run.optim.bad_steps` steps in a row
            were left out, for a loss that was a spike or no number (the batch is kept in `out`) or for such a gradient.
        ServiceError: data that is elsewhere does not come any more; the last checkpoint is as it was.
        Interrupted: SIGTERM came to any process; all steps that were done are saved.
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
                take_step(job, batches, stream, out)
            job.step += 1
            if job.step % run.log_every == 0 or job.step == run.optim.steps:
                _tell(job, drawn, clock, report, out)
            if job.step < run.optim.steps and job.step % run.checkpoint_every == 0:
                save(job, out)
            if run.samples_every and (job.step % run.samples_every == 0 or job.step == run.optim.steps):
                _show(job, report, out)
        return _finish(job, nets, out, drawn)


def _start(run: Run, nets: Model, data: Path | Shards, batches: Batches[Any], out: Path, stop: engine.Stop) -> Job:
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
    written, tasks = account.Account(out if run.account else None, rank), sorted({*batches.tasks.tolist()})
    job = Job(run, way, wrapped, ema, null_tokens, rank, world, stop, written, tasks, samples)
    done = checkpoint.resume(out / CHECKPOINTS, wrapped, ema.shadow_params)
    job.step, job.before, job.usual, job.left_out = done
    job.saved = job.step
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


def _parts(job: Job, batches: Batches[Any], mixture: Mixture) -> Iterator[list[int]]:
    """Those of this process from here to the end."""
    for step in range(job.step, job.run.optim.steps):
        batches.expect(mixture, step * job.run.optim.batch_size, job.run.optim.batch_size)
        yield from parts(mixture, job.run, job.rank, job.world, step)


def _tell(job: Job, drawn: Draws, clock: Clock, report: Reporter, out: Path) -> None:
    """Read the gauges and begin anew; every process does, the first one tells."""
    optim = job.run.optim
    metrics = job.gauges.read(job.engine, job.ema.shadow_params, optim.batch_size, job.tasks)
    job.gauges = Gauges()
    if job.rank:
        return
    metrics["learning_rate"] = engine.learning_rate(job.run, job.step - 1)
    metrics |= draws.figures(drawn.shares(job.step * optim.batch_size))
    report.metrics(metrics, job.step)
    text = clock.text(job.step, "triplets", optim.batch_size)
    report.progress(job.step, optim.steps, f"loss {metrics.get('loss', float('nan')):.4f}, {text}")
    curve.append(out, {"step": job.step, "seconds": job.seconds, **metrics})


def _show(job: Job, report: Reporter, out: Path) -> None:
    """A sheet of samples, by the first process; the average's parts are those of all."""
    average = engine.whole(job.engine, job.ema.shadow_params)
    if job.samples is not None:
        report.image("samples", job.samples.sheet(average, out, job.step), job.step)


def _finish(job: Job, nets: Model, out: Path, drawn: Draws) -> Path:
    check_weights(job)
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
