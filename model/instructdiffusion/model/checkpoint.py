"""Checkpoints: what a killed run needs to go on as if nothing had happened.

`step-N/` holds DeepSpeed's shards and the moving average; `LATEST` names a step, with its digest, only after all of it
is written, and the one before besides. Time, noise and order are drawn from (seed, step, rank), so the step is all the
state there is besides the weights.
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
from instructdiffusion.model.files import digest_of, write_atomic

log = logging.getLogger(__name__)
LATEST = "LATEST"
KEPT = 2  # checkpoints
Mark = dict[str, Any]  # of a checkpoint: tag, step, seconds, digest


def save(folder: Path, engine: Any, average: list[Tensor], step: int, seconds: float) -> None:
    """Write a checkpoint after `step` optimizer steps and `seconds` of training; every process calls it.

    Raises:
        DataError: it can't be written; those before it are as they were.
    """
    tag, rank = f"step-{step:07d}", torch.distributed.get_rank()
    first_process = rank == 0
    if first_process:
        shutil.rmtree(folder / tag, ignore_errors=True)  # what a process was writing when it was killed
    torch.distributed.barrier()
    try:
        engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
        if first_process or engine.zero_optimization_partition_weights():
            tensors = {str(i): t.detach().cpu().contiguous() for i, t in enumerate(average)}
            save_file(tensors, folder / tag / _average(rank, engine))
    except Exception as error:  # a full disk is an OSError, a RuntimeError or a SafetensorError, by who writes
        shutil.rmtree(folder / tag, ignore_errors=True)
        raise DataError(
            f"can't write checkpoint {folder / tag} ({_line(error)}); free space and run the same command again, "
            "it goes on from the checkpoint before"
        ) from error
    torch.distributed.barrier()
    if first_process:
        marks = [mark for mark in _marks(folder) if mark["step"] < step]
        new = {"tag": tag, "step": step, "seconds": seconds, "digest": digest_of(folder / tag)}
        kept = [new, *marks][:KEPT]
        write_atomic(folder / LATEST, json.dumps(kept, indent=1))
        for old in {*folder.glob("step-*")} - {folder / mark["tag"] for mark in kept}:
            shutil.rmtree(old, ignore_errors=True)


def resume(folder: Path, engine: Any, average: list[Tensor]) -> tuple[int, float]:
    """Load the newest whole checkpoint, if there is any; returns how many steps were done, in how many seconds.

    Every process calls it; the first one says which it is.

    Raises:
        DataError: all are damaged, or of a training that is not this one; names the folder to delete.
    """
    chosen: list[Any] = [_newest_whole(folder) if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(chosen)
    mark = chosen[0]
    if mark is None:
        return 0, 0.0
    try:
        if isinstance(mark, str):
            raise DataError(mark)
        path, _ = engine.load_checkpoint(str(folder), tag=mark["tag"])
        if path is None:
            raise FileNotFoundError(mark["tag"])
        shadow = load_file(folder / mark["tag"] / _average(torch.distributed.get_rank(), engine))
        for i, tensor in enumerate(average):
            tensor.copy_(shadow[str(i)])
    except Exception as error:  # DeepSpeed raises whatever its files happen to break
        raise DataError(
            f"checkpoint {folder} can't be resumed ({_line(error)}); delete that folder to start over"
        ) from error
    log.info("resumed %s", path)
    return int(mark["step"]), float(mark["seconds"])


def _average(rank: int, engine: Any) -> str:
    """Where a process finds its average: the one of all, or, when weights are split too, its part."""
    return f"average-{rank}.safetensors" if engine.zero_optimization_partition_weights() else "average.safetensors"


def _newest_whole(folder: Path) -> Mark | str | None:
    """The mark of the newest checkpoint that is as it was written, those after it forgotten; words if all are
    damaged, None if there is none.
    """
    if not (folder / LATEST).is_file():
        return None
    marks = _marks(folder)
    for at, mark in enumerate(marks):
        if (folder / mark["tag"]).is_dir() and digest_of(folder / mark["tag"]) == mark["digest"]:
            if at:  # no damaged one is ever counted among those that are kept
                write_atomic(folder / LATEST, json.dumps(marks[at:], indent=1))
            return mark
        log.warning("checkpoint %s is damaged; the one before it is taken", folder / mark["tag"])
    return "all of it is damaged"


def _marks(folder: Path) -> list[Mark]:
    """The checkpoints that `LATEST` names, newest first; none if it can't be read."""
    try:
        marks = json.loads((folder / LATEST).read_text())
        return [{name: mark[name] for name in ("tag", "step", "seconds", "digest")} for mark in marks]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
