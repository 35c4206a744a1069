"""What the service counts for Prometheus, beside what BentoML counts of every service."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram


class Metrics:
    """The counters. One object a process: Prometheus refuses a second of the same name."""

    edits: Counter  # by task
    seconds: Histogram  # by task; without the wait for the edits before
    refused: Counter  # by reason

    def __init__(self) -> None:
        # Bento names the folder that its workers count in only after a service's module is imported.
        from prometheus_client import Counter, Histogram

        self.edits = Counter("instructdiffusion_edits", "Pictures edited.", ["task"])
        self.seconds = Histogram(
            "instructdiffusion_edit_seconds",
            "Time to edit a picture, without the wait for others.",
            ["task"],
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100),
        )
        self.refused = Counter("instructdiffusion_refused", "Requests that were refused, or failed.", ["reason"])


@lru_cache(maxsize=1)
def metrics() -> Metrics:
    """This process's counters."""
    return Metrics()
