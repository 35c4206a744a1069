"""Checkpoints: what a killed run needs to go on as if nothing had happened.

`step-N/` holds weights, their average and AdamW's sums, by name, each process having written some of them whole: as
many other processes as one likes can read it. `LATEST` names a step, with its digest, only after all of it is written,
and the one before besides. Time, noise and order are drawn from (seed, step, rank), so the step is all the state there
is besides.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from instructdiffusion.model import shares
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.latest import LATEST, Done, marks, newest_whole

log = logging.getLogger(__name__)
KEPT = 2  # checkpoints


def save(folder: Path, engine: Any, average: list[Tensor], done: Done) -> None:
    """Write a checkpoint of a training that is so far; every process calls it.

    Raises:
        DataError: it can't be written; those before it are as they were.
    """
    tag, rank = f"step-{done.step:07d}", torch.distributed.get_rank()
    first_process = rank == 0
    if first_process:
        shutil.rmtree(folder / tag, ignore_errors=True)  # what a process was writing when it was killed
    torch.distributed.barrier()
    if done.step == done.left_out:
        shares.begin_moments(engine, 0)  # no step has made them yet
    try:
        (folder / tag).mkdir(parents=True, exist_ok=True)
        for kind in shares.KINDS:
            save_file(_mine(shares.whole(engine, kind, average)), folder / tag / f"{kind}-{rank}.safetensors")
        if first_process:
            buffers = {name: tensor.cpu() for name, tensor in shares.buffers(engine).items()}
            save_file(buffers, folder / tag / f"buffer-{rank}.safetensors")
    except Exception as error:  # a full disk is an OSError, a RuntimeError or a SafetensorError, by who writes
        shutil.rmtree(folder / tag, ignore_errors=True)
        raise DataError(
            f"can't write checkpoint {folder / tag} ({_line(error)}); free space and run the same command again, "
            "it goes on from the checkpoint before"
        ) from error
    torch.distributed.barrier()
    if first_process:
        before = [mark for mark in marks(folder) if mark["step"] < done.step]
        new = {"tag": tag, "digest": digest_of(folder / tag), **done._asdict()}
        kept = [new, *before][:KEPT]
        write_atomic(folder / LATEST, json.dumps(kept, indent=1))
        for old in {*folder.glob("step-*")} - {folder / mark["tag"] for mark in kept}:
            shutil.rmtree(old, ignore_errors=True)


def resume(folder: Path, engine: Any, average: list[Tensor]) -> Done:
    """Load the newest whole checkpoint, if there is any; returns how far the training was.

    Every process calls it; the first one says which it is.

    Raises:
        DataError: all are damaged, or of a training that is not this one; names the folder to delete.
    """
    chosen: list[Any] = [newest_whole(folder) if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(chosen)
    mark = chosen[0]
    if mark is None:
        return Done()
    try:
        if isinstance(mark, str):
            raise DataError(mark)
        with _open(folder / mark["tag"]) as tensors:
            shares.load(engine, tensors, average, mark["step"] - mark["left_out"])
    except Exception as error:  # whatever a file of another training happens to break
        raise DataError(
            f"checkpoint {folder} can't be resumed ({_line(error)}); delete that folder to start over"
        ) from error
    torch.distributed.barrier()  # or the next checkpoint could be begun in the folder that some still read
    log.info("resumed %s", folder / mark["tag"])
    return Done(*(mark[name] for name in Done._fields))


def _mine(tensors: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Those tensors that this process writes: in turns, so that all of them write alike."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return {
        name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)  # no view of a buffer of many
        for i, (name, tensor) in enumerate(tensors)
        if i % world == rank
    }


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[str, str], Tensor]]:
    """What reads a tensor of a checkpoint by its kind and name, one at a time."""
    with ExitStack() as stack:
        files = {
            (path.stem.rpartition("-")[0], name): file
            for path in sorted(folder.glob("*.safetensors"))
            for file in [stack.enter_context(safe_open(path, framework="pt"))]
            for name in file.keys()  # noqa: SIM118
        }
        yield lambda kind, name: files[kind, name].get_tensor(name)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
