"""Work spread over processes of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

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
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(work, items)
    except BrokenProcessPool as error:
        fix = "from a script, call this below `if __name__ == '__main__':` or with workers=1"
        raise ConfigError(f"a worker died (out of memory, or it could not start): {fix}") from error
