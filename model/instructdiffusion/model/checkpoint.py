"""Checkpoints: what a killed run needs to go on as if nothing had happened.

`step-N/` holds DeepSpeed's shards and the moving average; `LATEST` names a step only after all of it is written. Time,
noise and order are drawn from (seed, step, rank), so the step is all the state there is besides the weights.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import write_atomic

log = logging.getLogger(__name__)
LATEST = "LATEST"
KEPT = 2  # checkpoints


def save(folder: Path, engine: Any, average: list[Tensor], step: int, seconds: float, first_process: bool) -> None:
    """Write a checkpoint after `step` optimizer steps and `seconds` of training; every process calls it."""
    tag = f"step-{step:07d}"
    engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
    if first_process:
        save_file(
            {str(i): t.detach().cpu().contiguous() for i, t in enumerate(average)},
            folder / tag / "average.safetensors",
        )
    torch.distributed.barrier()
    if first_process:
        write_atomic(folder / LATEST, json.dumps({"tag": tag, "step": step, "seconds": seconds}))
        for old in sorted(folder.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def resume(folder: Path, engine: Any, average: list[Tensor]) -> tuple[int, float]:
    """Load the newest checkpoint, if there is one; returns how many steps were done, in how many seconds.

    Raises:
        DataError: it is damaged; names the folder to delete.
    """
    pointer = folder / LATEST
    if not pointer.is_file():
        return 0, 0.0
    try:
        latest = json.loads(pointer.read_text())
        path, _ = engine.load_checkpoint(str(folder), tag=latest["tag"])
        if path is None:
            raise FileNotFoundError(latest["tag"])
        shadow = load_file(folder / latest["tag"] / "average.safetensors")
        for i, tensor in enumerate(average):
            tensor.copy_(shadow[str(i)])
    except Exception as error:  # DeepSpeed raises whatever its files happen to break
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"checkpoint {folder} can't be resumed ({reason}); delete that folder to start over") from error
    log.info("resumed %s", path)
    return int(latest["step"]), float(latest["seconds"])
