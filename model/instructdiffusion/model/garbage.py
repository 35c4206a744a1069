"""Python's collector of garbage, in processes that import much and end: among half a million objects it finds none."""

from __future__ import annotations

import atexit
import gc


def collect_seldom() -> None:
    """Collect seldom from now on, and at the end of the process nothing: that alone takes more than two seconds."""
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)
