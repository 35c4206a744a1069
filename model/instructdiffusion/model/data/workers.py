"""Work spread over processes of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from threading import Thread
from typing import Any, TypeVar

import cv2

from instructdiffusion.model.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """`work` of each item, in order; in this process for one worker or one item, else in processes of their own.

    Raises:
        ConfigError: a worker died, or could not start.
    """
    if workers == 1 or len(items) == 1:
        yield from map(work, items)
        return
    try:
        with ProcessPoolExecutor(workers, _context(work), _ready) as pool:
            yield from pool.map(work, items)
    except BrokenProcessPool as error:
        fix = "from a script, call this below `if __name__ == '__main__':` or with workers=1"
        raise ConfigError(f"a worker died (out of memory, or it could not start): {fix}") from error


def _context(work: Callable[..., Any]) -> BaseContext:
    """How processes start: as copies of one that has imported what the first work wants, where the system can."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([(work.func if isinstance(work, partial) else work).__module__])
    return context


def _ready() -> None:
    """One thread for each worker; and it ends soon after its parent did, for one that is killed can't end it."""
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)

    def watch() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
