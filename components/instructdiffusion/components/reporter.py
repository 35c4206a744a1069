"""A training's Reporter over a tracked run: an outage of the tracker never stops a training."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.components.tracking import TrackedRun, points, shown
from instructdiffusion.model.errors import InstructDiffusionError

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Metric
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class TrackingReporter:
    """A training's Reporter that writes to a tracked run and never stops the training.

    Metrics are collected and sent in batches. While the tracker does not answer they are kept (and the last
    few pictures with them), one warning is logged, and what was kept is sent when it answers again.
    """

    def __init__(
        self,
        run: TrackedRun,
        *,
        on_progress: Callable[[int, int, str], None] | None = None,
        interval: float = 2.0,
        pause: float = 15.0,
    ) -> None:
        """Report to `run`.

        Args:
            run: where to write.
            on_progress: gets what `progress` is told; None: nobody.
            interval: seconds between batches.
            pause: seconds before the first new try after a failure; doubled up to eight times this.
        """
        self._run, self._on_progress, self._interval, self._pause = run, on_progress, interval, pause
        self._metrics: list[Metric] = []
        self._pictures: deque[tuple[str, NDArray[np.uint8], int]] = deque(maxlen=16)
        self._next, self._wait, self._warned = 0.0, pause, False

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep and, when the interval is over, send."""
        self._metrics += points(values, step)
        self._maybe_send()

    def progress(self, done: int, total: int, text: str) -> None:
        """Hand on to whoever shows it."""
        if self._on_progress is not None:
            self._on_progress(done, total, text)

    def image(self, name: str, file: Path, step: int) -> None:
        """Keep a picture as a frame of the series `name`, and send; OSError if the file is none."""
        self._pictures.append((name, _read(file), step))
        self._maybe_send()

    def close(self) -> int:
        """Send what is left; returns how many metrics and pictures could not be sent."""
        self._send()
        if left := len(self._metrics) + len(self._pictures):
            log.warning("%d metrics and pictures did not reach the tracker at %s", left, shown(self._run.uri))
        return left

    def _maybe_send(self) -> None:
        if time.monotonic() >= self._next:
            self._send()

    def _send(self) -> None:
        try:
            self._run.send(self._metrics)
            self._metrics = []
            while self._pictures:
                self._run.image(*self._pictures[0])
                self._pictures.popleft()
        except InstructDiffusionError as outage:
            if not self._warned:
                log.warning("the training goes on and its metrics are kept: %s", outage)
            self._warned = True
            self._next = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, 8 * self._pause)
        else:
            self._next, self._wait = time.monotonic() + self._interval, self._pause


def _read(file: Path) -> NDArray[np.uint8]:
    """A picture as uint8 HxWx3."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))
