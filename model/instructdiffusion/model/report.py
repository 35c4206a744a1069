"""What a long job tells: the `Reporter` protocol, and the two that need no service."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """Takes metrics, progress and pictures from a running job."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Numbers at an optimizer step."""

    def progress(self, done: int, total: int, text: str) -> None:
        """How far the job is."""

    def image(self, name: str, file: Path, step: int) -> None:
        """A picture to look at, of an optimizer step: a PNG file that stays where it is."""


class Silent:
    """Tells nobody."""

    def metrics(self, values: dict[str, float], step: int) -> None: ...
    def progress(self, done: int, total: int, text: str) -> None: ...
    def image(self, name: str, file: Path, step: int) -> None: ...


SILENT = Silent()


class Lines:
    """Tells whoever reads the standard output: one JSON document a line, understood by the launcher."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """`{"metrics": {...}, "step": n}`."""
        self._write({"metrics": values, "step": step})

    def progress(self, done: int, total: int, text: str) -> None:
        """`{"progress": done, "total": total, "text": text}`."""
        self._write({"progress": done, "total": total, "text": text})

    def image(self, name: str, file: Path, step: int) -> None:
        """`{"image": name, "path": file, "step": n}`."""
        self._write({"image": name, "path": str(file.absolute()), "step": step})

    def _write(self, document: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()


class Clock:
    """Rate and remaining time of a job that has `total` parts."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.first, self.start = total, done, time.monotonic()

    def text(self, done: int, unit: str, per_part: float = 1.0) -> str:
        """For instance `95 images/s, 3 min left`."""
        rate = max(done - self.first, 1e-9) / max(time.monotonic() - self.start, 1e-9)
        left = (self.total - done) / rate
        return f"{rate * per_part:.0f} {unit}/s, {left / 60:.1f} min left"
