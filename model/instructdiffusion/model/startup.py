"""What makes a process that imports much start and end sooner."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("mlflow", "scipy")  # what the libraries of networks import if they find it: seconds, and 100 MB
ADAPTERS = ("peft",)  # likewise, unless adapters are what learns


def collect_seldom() -> None:
    """Collect garbage seldom from now on, and at the end none: in half a million objects that takes two seconds."""
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Import other packages as if these were not installed: large ones import all they know that they find.

    What is imported already stays.
    """
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment] # not to be found, to the import system
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)
