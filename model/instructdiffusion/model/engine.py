"""DeepSpeed, set up from a run by one function; nobody edits its JSON."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import torch
from torch import nn

from instructdiffusion.model.config import Run
from instructdiffusion.model.device import fast_bf16

WSD_TAIL = 0.2  # share of the steps in which the learning rate falls


def deepspeed_config(run: Run, world_size: int) -> dict[str, Any]:
    """DeepSpeed's settings for a run on `world_size` processes.

    Precision is not in here: the loss runs under autocast, weights and their sums stay in 32 bits.
    """
    micro = min(run.optim.micro_batch, run.optim.batch_size // world_size)
    return {
        "train_batch_size": run.optim.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": run.optim.batch_size // (micro * world_size),
        "gradient_clipping": run.optim.clip,
        "zero_optimization": {"stage": run.optim.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def start(run: Run, objective: nn.Module) -> Any:
    """Join the processes that torchrun started (or be the only one) and wrap the objective in a DeepSpeed engine."""
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # an inference op whose build needs a compiler
    if "RANK" not in os.environ:
        alone = {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        os.environ.update(alone)
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False
    )
    weights = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=run.optim.learning_rate, weight_decay=run.optim.weight_decay, fused=True)
    config = deepspeed_config(run, int(os.environ["WORLD_SIZE"]))
    engine, *_ = deepspeed.initialize(model=objective, model_parameters=weights, optimizer=optimizer, config=config)
    return engine


def use_bf16(run: Run) -> bool:
    """Whether the loss runs in bf16: as the run says, or where the machine has it in hardware."""
    return run.optim.precision == "bf16" or (run.optim.precision == "auto" and fast_bf16())


def learning_rate(run: Run, step: int) -> float:
    """The learning rate of a step: linear warm-up, then constant, a cosine down to nothing, or constant and a tail."""
    optim = run.optim
    if step < optim.warmup:
        return optim.learning_rate * (step + 1) / optim.warmup
    if optim.decay == "constant":
        return optim.learning_rate
    if optim.decay == "wsd":
        return optim.learning_rate * min(1.0, (optim.steps - step) / max(1.0, WSD_TAIL * optim.steps))
    done = (step - optim.warmup) / max(1, optim.steps - optim.warmup)
    return optim.learning_rate * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * min(1.0, done)))))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
