"""Micro-batches where they are needed, the next one read and copied to the GPU while one is computed with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from instructdiffusion.model.data.batches import Batches

Batch = tuple[list[int], Tensor, Tensor, Tensor]


def ahead(
    batches: Batches[Any], parts: Iterable[list[int]], device: torch.device, overlap: bool | None = None
) -> Iterator[Batch]:
    """Each list of triplets' numbers with their source, target and text on the device.

    Args:
        overlap: read the next one at the same time; left out: on a GPU. On a CPU both would want the same cores.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if not (stream is not None if overlap is None else overlap):
        yield from (_read(batches, part, device, None) for part in parts)
        return
    with ThreadPoolExecutor(1) as reader:
        coming: Future[Batch] | None = None
        for part in parts:
            after = reader.submit(_read, batches, part, device, stream)
            if coming is not None:
                yield _ready(coming)
            coming = after
        if coming is not None:
            yield _ready(coming)


def _read(batches: Batches[Any], part: list[int], device: torch.device, stream: torch.cuda.Stream | None) -> Batch:
    with torch.cuda.stream(stream):  # beside the one that computes; None changes nothing
        source, target, text = (_moved(tensor, device) for tensor in batches.batch(part))
    if stream is not None:
        stream.synchronize()
    return part, source, target, text


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # else the copy waits for what the GPU does
    return tensor.to(device, non_blocking=True)


def _ready(coming: Future[Batch]) -> Batch:
    batch = coming.result()
    for tensor in batch[1:]:
        if tensor.device.type == "cuda":
            tensor.record_stream(torch.cuda.current_stream())  # else its memory is taken for the next one too early
    return batch
