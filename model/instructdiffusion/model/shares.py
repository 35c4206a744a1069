"""A training's state by the name of each weight, whatever part of it which process holds.

DeepSpeed gives each process a share of it that depends on the stage and on the number of processes. By name and whole,
the state goes from any number of processes to any other, and from any stage to any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's sums
KINDS = ("weight", "average", *MOMENTS)
SCALE = "loss_scale."  # of buffers that a training has in fp16 alone


def whole(engine: Any, kind: str, average: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every weight's name, and its tensor of a kind as if one process held it all.

    All processes go through it together: what one lacks, the others send.

    Args:
        kind: one of `KINDS`.
        average: the moving average, as this process holds it, in the order of the weights.
    """
    for (name, weight), mean in zip(_learning(engine), average, strict=True):
        if engine.zero_optimization_partition_weights():
            yield name, _gathered(weight, mean if kind == "average" else _part(weight, kind))
        elif kind in MOMENTS:
            yield name, _moment(engine, weight, kind)
        else:
            yield name, (mean if kind == "average" else weight).detach()


def load(engine: Any, tensors: Any, average: list[Tensor], step: int) -> None:
    """Put a state where this process has its share of it.

    Args:
        tensors: by (kind, name), whole; each is asked for once. KeyError: there is none.
        average: is overwritten.
        step: optimizer steps that moved the weights.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    begin_moments(engine, step)
    for name, buffer in buffers(engine).items():
        _load_buffer(name, buffer, tensors)
    for (name, weight), mean in zip(_learning(engine), average, strict=True):
        for kind in KINDS:
            value = tensors(kind, name).to(mean.device)
            if engine.zero_optimization_partition_weights():
                value = _cut(weight, value)
            if kind == "average":
                mean.copy_(value)
            elif engine.zero_optimization_partition_weights():
                _set_part(weight, value, kind)
            elif not engine.zero_optimization():
                (weight.data if kind == "weight" else engine.optimizer.state[weight][kind]).copy_(value)
            elif kind == "weight":
                weight.data.copy_(value)
                safe_set_full_fp32_param(weight, value)
            else:
                safe_set_full_optimizer_state(weight, value, kind)


def begin_moments(engine: Any, step: int) -> None:
    """Make AdamW's state as after so many steps, its sums still nothing; it makes it itself only in its first step."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    outer = engine.optimizer
    inner = outer.optimizer if engine.zero_optimization() else outer
    if engine.zero_optimization_partition_weights():
        flat = outer.fp32_partitioned_groups_flat
    elif engine.zero_optimization():
        flat = outer.single_partition_of_fp32_groups
    else:
        flat = [weight for _, weight in _learning(engine)]
    for tensor in flat:
        moments = {kind: torch.zeros_like(tensor) for kind in MOMENTS}
        inner.state[tensor] = {"step": torch.tensor(float(step), device=tensor.device), **moments}
    if engine.zero_optimization() and not engine.zero_optimization_partition_weights():
        for weights, tensor in zip(outer.bit16_groups, flat, strict=True):
            lazy_init_hp_params_optimizer_state(weights, tensor, inner.state)


def buffers(engine: Any) -> dict[str, Tensor]:
    """What the module keeps besides its weights, the same on every process: the factor of the loss in 16 bits."""
    weights = {name for name, _ in engine.module.named_parameters(remove_duplicate=False)}
    return {name: tensor for name, tensor in engine.module.state_dict().items() if name not in weights}


def _load_buffer(name: str, buffer: Tensor, tensors: Any) -> None:
    try:
        buffer.copy_(tensors("buffer", name))
    except KeyError:
        if not name.startswith(SCALE):  # or it was begun in another precision: the scale begins here
            raise


def _learning(engine: Any) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in engine.module.named_parameters() if weight.requires_grad]


def _moment(engine: Any, weight: nn.Parameter, kind: str) -> Tensor:
    from deepspeed.utils import safe_get_full_optimizer_state

    if engine.zero_optimization():
        return safe_get_full_optimizer_state(weight, kind)
    moment: Tensor = engine.optimizer.state[weight][kind]
    return moment


def _part(weight: Any, kind: str) -> Tensor:
    """This process's part of a weight that is split, or of its moments."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    return safe_get_local_fp32_param(weight) if kind == "weight" else safe_get_local_optimizer_state(weight, kind)


def _set_part(weight: Any, value: Tensor, kind: str) -> None:
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    if kind == "weight":
        weight.ds_tensor.data.copy_(value)
        safe_set_local_fp32_param(weight, value)
    else:
        safe_set_local_optimizer_state(weight, value, kind)


def _gathered(weight: Any, part: Tensor) -> Tensor:
    """A weight, or what there is one of for each, out of the flat parts that the processes hold."""
    part = part.detach().to(weight.device).contiguous()
    parts = [torch.empty_like(part) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, part)
    return torch.cat(parts)[: weight.ds_numel].view(weight.ds_shape)


def _cut(weight: Any, value: Tensor) -> Tensor:
    """This process's flat part; behind the end of the last one are zeros."""
    size, rank = weight.ds_tensor.numel(), torch.distributed.get_rank()
    part = value.flatten()[rank * size : (rank + 1) * size]
    return nn.functional.pad(part, (0, size - part.numel()))
