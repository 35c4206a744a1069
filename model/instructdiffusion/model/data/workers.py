"""Work spread over processes of this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from threading import Thread
from typing import TypeVar

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
        with ProcessPoolExecutor(workers, get_context("spawn"), _ready, (os.getpid(),)) as pool:
            yield from pool.map(work, items)
    except BrokenProcessPool as error:
        fix = "from a script, call this below `if __name__ == '__main__':` or with workers=1"
        raise ConfigError(f"a worker died (out of memory, or it could not start): {fix}") from error


def _ready(parent: int) -> None:
    """One thread for each worker; and it ends soon after its parent did, for one that is killed can't end it."""
    cv2.setNumThreads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    Thread(target=watch, daemon=True).start()
