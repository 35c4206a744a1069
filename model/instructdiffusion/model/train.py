"""The one training loop, for every stage: what differs is in the run.

run, latents, model  ->  checkpoints while it runs, `model/` and `training.json` when it is done
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel

from instructdiffusion.model import checkpoint, engine, lora, network
from instructdiffusion.model.config import Run
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.data.mixture import Mixture
from instructdiffusion.model.diffusion import Objective
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.network import Model
from instructdiffusion.model.report import Clock, Reporter

log = logging.getLogger(__name__)
MODEL, SUMMARY, CURVE, ADAPTER = "model", "training.json", "curve.jsonl", "adapter"


def train(run: Run, data: Path, model: Path | Model | None, out: Path, report: Reporter) -> Path:
    """Train `model` on latents and write the averaged weights to `out/model`; returns that folder.

    Every process of a torchrun group calls this; alone, it is a group of one. Called again after a kill it goes on from
    the last checkpoint; called again when done it does nothing.

    Raises:
        DataError: latents or model are missing, damaged, or don't fit each other.
    """
    if (out / SUMMARY).is_file():
        return out / MODEL
    nets = model if isinstance(model, Model) else network.load(model)
    latents = Latents.open(data)
    if latents.tokens != run.train_text:
        raise DataError(
            f"{data} holds {'tokens' if latents.tokens else 'text states'}, but train_text={run.train_text}; "
            f"encode again with states={not run.train_text}"
        )
    mixture = latents.mixture(run.seed, run.weights)
    job = _start(run, nets, out)
    clock, sums = Clock(run.optim.steps, job.step), defaultdict[str, list[float]](list)
    while job.step < run.optim.steps:
        for task, loss in _step(job, latents, mixture):
            sums[task].append(loss)
        job.step += 1
        if job.step % run.log_every == 0 or job.step == run.optim.steps:
            _tell(job, sums, clock, report, out)
            sums.clear()
        if job.step % run.checkpoint_every == 0 and job.step < run.optim.steps:
            checkpoint.save(
                out / "checkpoints", job.engine, job.ema.shadow_params, job.step, job.seconds, job.rank == 0
            )
    return _finish(job, nets, out, len(latents))


@dataclass
class _Job:
    """What the loop carries: the engine, the moving average, and how many optimizer steps are done."""

    run: Run
    engine: Any
    ema: EMAModel
    null_tokens: torch.Tensor
    rank: int
    world: int
    step: int = 0
    before: float = 0.0  # seconds of training before this process started
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began


def _start(run: Run, nets: Model, out: Path) -> _Job:
    torch.manual_seed(run.seed)
    learns = [nets.unet, nets.text_encoder] if run.train_text else [nets.unet]
    for part in learns:
        part.train().requires_grad_(True)
    if run.lora.rank:
        lora.add(nets.unet, run.lora)
    if run.optim.gradient_checkpointing:
        nets.unet.enable_gradient_checkpointing()
        if run.train_text:
            nets.text_encoder.gradient_checkpointing_enable()
    null_tokens = nets.tokens([""])
    null_text = None if run.train_text else nets.text([""])[0]
    nets.unet.set_attn_processor(network.fastest_attention())
    text_encoder = nets.text_encoder if run.train_text else None
    diffusion = run.diffusion.read_as(nets.diffusion)
    pixel_scale = getattr(nets.vae, "spread", None) if diffusion.relative else None
    bf16 = engine.use_bf16(run)
    objective = Objective(nets.unet, text_encoder, null_text, nets.scheduler, diffusion, pixel_scale, bf16, nets.scale)
    wrapped = engine.start(run, objective)
    ema = EMAModel([p for p in objective.parameters() if p.requires_grad], decay=run.ema_decay, foreach=True)
    job = _Job(run, wrapped, ema, null_tokens, torch.distributed.get_rank(), torch.distributed.get_world_size())
    job.step, job.before = checkpoint.resume(out / "checkpoints", wrapped, ema.shadow_params)
    ema.optimization_step = job.step
    return job


def _step(job: _Job, latents: Latents, mixture: Mixture) -> list[tuple[str, float]]:
    """One optimizer step; returns (task, loss) of this process's triplets."""
    for group in job.engine.optimizer.param_groups:
        group["lr"] = engine.learning_rate(job.run, job.step)
    generator = torch.Generator().manual_seed(hash((job.run.seed, job.step, job.rank)) & 0x7FFFFFFF)
    first, size = job.step * job.run.optim.batch_size, job.run.optim.batch_size
    numbers = mixture.draws(range(first, first + size))[job.rank :: job.world]
    told: list[tuple[str, float]] = []
    micro = job.engine.train_micro_batch_size_per_gpu()
    for start in range(0, len(numbers), micro):
        part = numbers[start : start + micro]
        losses = job.engine(*latents.batch(part), job.null_tokens, generator)
        job.engine.backward(losses.mean())
        job.engine.step()
        told += zip(latents.tasks[part].tolist(), losses.detach().tolist(), strict=True)
    job.ema.step(p for p in job.engine.module.parameters() if p.requires_grad)
    return told


def _tell(job: _Job, sums: dict[str, list[float]], clock: Clock, report: Reporter, out: Path) -> None:
    if job.rank:
        return
    losses = {f"loss/{task}": float(np.mean(values)) for task, values in sorted(sums.items())}
    losses["loss"] = float(np.mean([v for values in sums.values() for v in values]))
    losses["learning_rate"] = engine.learning_rate(job.run, job.step - 1)
    report.metrics(losses, job.step)
    text = clock.text(job.step, "triplets", job.run.optim.batch_size)
    report.progress(job.step, job.run.optim.steps, f"loss {losses['loss']:.4f}, {text}")
    out.mkdir(parents=True, exist_ok=True)
    with (out / CURVE).open("a") as file:
        file.write(json.dumps({"step": job.step, **losses}) + "\n")


def _finish(job: _Job, nets: Model, out: Path, count: int) -> Path:
    job.ema.copy_to(p for p in job.engine.module.parameters() if p.requires_grad)
    if job.rank == 0:
        if job.run.lora.rank:
            lora.save(nets.unet, out / ADAPTER)
            lora.merge(nets.unet)
        network.save(nets, out / MODEL)
        run = job.run
        summary = {
            "run": run.model_dump(),
            "steps": job.step,
            "triplets": count,
            "triplets_per_second": job.step * run.optim.batch_size / job.seconds,
            "seconds": job.seconds,
            "processes": job.world,
            "bf16": engine.use_bf16(run),
            "curve": _curve(out),
        }
        write_atomic(out / SUMMARY, json.dumps(summary, indent=1))
    torch.distributed.barrier()
    return out / MODEL


def _curve(out: Path) -> list[dict[str, float]]:
    """The metrics by step; of a step that was done twice, after a kill, the later."""
    path = out / CURVE
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [row for _, row in sorted({row["step"]: row for row in rows}.items())]
