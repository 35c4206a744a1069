"""DeepSpeed, set up from a run by one function; nobody edits its JSON."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Sequence
from functools import cache
from math import gcd, nan
from typing import Any, Self

import torch
from torch import nn

from instructdiffusion.model.config import Optim, Run
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.loss_scale import LossScale
from instructdiffusion.model.shares import begin_moments
from instructdiffusion.model.startup import UNUSED, hidden

BUCKET = 5 * 10**8  # gradients that are summed over processes at once; their room is set aside whole
WSD_TAIL = 0.2  # share of the steps in which the learning rate falls


def deepspeed_config(run: Run, world_size: int) -> dict[str, Any]:
    """DeepSpeed's settings for a run on `world_size` processes.

    Precision is not in here: the loss runs under autocast, weights and their sums stay in 32 bits.

    Raises:
        ConfigError: the batch can't be shared out evenly, so some triplet would be left out.
    """
    micro = micro_batch(run.optim, world_size)
    zero: dict[str, Any] = {"stage": run.optim.zero_stage}
    if run.optim.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if run.optim.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": run.optim.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": run.optim.batch_size // world_size // micro,
        "gradient_clipping": run.optim.clip if run.optim.zero_stage else 0.0,  # then `step` does it
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def micro_batch(optim: Optim, world_size: int) -> int:
    """Triplets per process per forward pass, as many as asked for where that divides a process's part of a step.

    Raises:
        ConfigError: as `deepspeed_config`.
    """
    if optim.batch_size % world_size:
        raise ConfigError(
            f"optim.batch_size={optim.batch_size} can't be shared out evenly to {world_size} processes; "
            "set either so that it divides"
        )
    share = optim.batch_size // world_size
    return gcd(optim.micro_batch, share) if share > optim.micro_batch else share


def load() -> None:
    """Import DeepSpeed without what it would import besides, and we never use.

    Raises:
        ConfigError: DeepSpeed is not installed.
    """
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # we compile nothing; DeepSpeed's optimizers load all it takes
    try:
        with hidden(*UNUSED):
            import deepspeed.ops  # noqa: F401
    except ImportError as error:
        raise ConfigError("training needs DeepSpeed; run: pip install 'instructdiffusion[train]'") from error


def join() -> None:
    """Join the processes that torchrun started, or be the only one; each has the GPU of its place on the machine.

    Raises:
        ConfigError: DeepSpeed is not installed.
    """
    load()
    import deepspeed

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
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # or all of a machine would meet on its first GPU
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False
    )


def start(run: Run, objective: nn.Module) -> Any:
    """Wrap the objective in a DeepSpeed engine; `join` comes first."""
    import deepspeed

    weights = [p for p in objective.parameters() if p.requires_grad]
    groups = _groups(objective, run.optim.attention_rate)
    optimizer = torch.optim.AdamW(groups, lr=run.optim.learning_rate, weight_decay=run.optim.weight_decay, fused=True)
    config = deepspeed_config(run, int(os.environ["WORLD_SIZE"]))
    config["zero_optimization"]["reduce_bucket_size"] = min(BUCKET, sum(weight.numel() for weight in weights))
    engine, *_ = deepspeed.initialize(model=objective, model_parameters=weights, optimizer=optimizer, config=config)
    if engine.dp_world_size == 1 and not engine.zero_optimization():
        engine.enable_backward_allreduce = False  # it would copy every gradient twice, to ask nobody
    if len(groups) > 1 and engine.zero_optimization():
        begin_moments(engine, 0)  # after the first group's step DeepSpeed looks for the sums of all of them
    return engine


def _groups(objective: nn.Module, share: float) -> list[dict[str, Any]]:
    """The weights that learn, in groups with their share of the learning rate.

    Queries and keys multiply each other: at a high rate they grow until every softmax looks at one place alone, and has
    no gradient any more.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in objective.named_parameters():
        if weight.requires_grad:
            asks = name.startswith("unet.") and re.search(r"\.to_[qk]\.", name)
            groups.setdefault(share if asks else 1.0, []).append(weight)
    return [{"params": weights, "share": share} for share, weights in groups.items()]


def is_first() -> bool:
    """Whether this is the first process of its group, which speaks for all; known before they are joined."""
    return os.environ.get("RANK", "0") == "0"


def backward(engine: Any, loss: torch.Tensor, fine: torch.Tensor) -> None:
    """Add a loss's gradients to those of the step; in fp16 through its scale.

    Args:
        fine: whether the loss may count, a flag beside it. If not, its gradients are no numbers: those of all processes
            are added up, so that `step` leaves the step out on each of them, and nobody had to be asked.
    """
    scale: LossScale | None = engine.module.loss_scale
    loss = loss * torch.where(fine, 1.0, nan)
    engine.backward(loss if scale is None else loss * scale.factor)


class Stop:
    """Whether this process was told to end by SIGTERM, as a node's is before the node is taken away.

    It listens within its `with` block, where the interpreter lets it: in the main thread.
    """

    _told = False
    _before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: object) -> None:
        self._told = True

    def on_any(self) -> bool:
        """Whether any process was told, the same answer on all; every process asks before each micro-batch."""
        return any_process(self._told)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true on any process; all of them ask."""
    return bool(largest([flag])[0])


def largest(values: Sequence[float]) -> list[float]:
    """Of each value the largest of any process; all of them ask."""
    return _over_all(values, torch.distributed.ReduceOp.MAX)


def totals(values: Sequence[float]) -> list[float]:
    """Of each value the sum over all processes, the same on each; all of them ask."""
    return _over_all(values, torch.distributed.ReduceOp.SUM)


def step(engine: Any, clip: float) -> float | None:
    """One step of the optimizer, or one more part of its batch: that has no norm yet.

    Returns the norm of the step's gradient before it is cut, which all processes have added up: the same on each. If it
    is no number, the step is left out: the gradient is dropped, weights and AdamW's sums stay as they are.
    """
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return None
    if engine.zero_optimization():
        engine.step()  # looks at the norm itself, and drops such a gradient
        return float(engine.get_global_grad_norm())
    weights = [p for p in engine.module.parameters() if p.grad is not None]
    # DeepSpeed would go over all gradients to cut them, whether they are to be cut or not.
    norm = nn.utils.get_total_norm(p.grad for p in weights if p.grad is not None)
    if not norm.isfinite():
        engine.zero_grad()  # AdamW leaves alone what has no gradient
    elif norm > clip:
        nn.utils.clip_grads_with_norm_(weights, clip, norm)
    engine.step()
    return float(norm)


def distance(engine: Any, average: Sequence[torch.Tensor]) -> float:
    """How far the weights are from their average, as a share of their own length; all processes ask."""
    weights = [weight.detach() for weight in held(engine)]
    pairs = zip(weights, average, strict=True)
    squares = torch.stack(
        [
            torch.stack([(weight - mean.to(weight)).square().sum().double() for weight, mean in pairs]).sum(),
            torch.stack([weight.square().sum().double() for weight in weights]).sum(),
        ]
    ).to(engine.device)
    if engine.zero_optimization_partition_weights():  # each process has its part alone
        torch.distributed.all_reduce(squares)
    apart, length = squares.sqrt().tolist()
    return float(apart / max(length, 1e-12))


def held(engine: Any) -> list[nn.Parameter]:
    """The weights that learn, as this process holds them: whole, or its flat part of each when they are split."""
    weights = [p for p in engine.module.parameters() if p.requires_grad]
    if not engine.zero_optimization_partition_weights():
        return weights
    return [nn.Parameter(p.ds_tensor.data) for p in weights]


def whole(engine: Any, average: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The average of each weight that learns in its own shape, of the parts that processes hold; all of them ask."""
    if not engine.zero_optimization_partition_weights():
        return list(average)
    weights = [p for p in engine.module.parameters() if p.requires_grad]
    return [_joined(engine, weight, part) for weight, part in zip(weights, average, strict=True)]


def _joined(engine: Any, weight: Any, part: torch.Tensor) -> torch.Tensor:
    mine = part.to(engine.device)
    parts = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, mine)
    return torch.cat(parts)[: weight.ds_numel].view(weight.ds_shape).cpu()


def gather(engine: Any) -> None:
    """Make all weights whole again on every process, for good, to be saved."""
    if engine.zero_optimization_partition_weights():
        for weight in engine.module.parameters():
            if hasattr(weight, "all_gather"):
                weight.all_gather([weight])


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


def _over_all(values: Sequence[float], how: Any) -> list[float]:
    told = torch.tensor([float(value) for value in values], dtype=torch.float64)
    torch.distributed.all_reduce(told, how, group=_words())
    return [float(value) for value in told]


@cache
def _words() -> Any:
    """What processes tell each other single numbers by: over NCCL, each of them would have to wait for its GPU."""
    return torch.distributed.new_group(backend="gloo")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
