"""A training as its folder tells it, while it runs or when it is over: nothing is asked of the process that trains."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from instructdiffusion.model import curve
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.pipelines.report import duration

if TYPE_CHECKING:
    from instructdiffusion.model.config import Run

RUN, SUMMARY = "run.json", "training.json"
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 32  # characters of a sparkline
RECENT = 10  # lines of the curve that the time left is judged by


@dataclass(frozen=True)
class Look:
    """What a folder says of its training."""

    folder: Path
    run: Run
    rows: Sequence[curve.Row]
    done: bool
    quiet: float  # seconds since the folder last changed
    sheet: Path | None  # the newest sheet of samples

    @property
    def step(self) -> int:
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def left(self) -> float:
        """Seconds to the end, by the steps told last; not a number where none was."""
        some = [{"step": 0, "seconds": 0.0}, *self.rows][-RECENT:]
        steps, seconds = (some[-1].get(name, 0.0) - some[0].get(name, 0.0) for name in ("step", "seconds"))
        return (self.run.optim.steps - self.step) * seconds / steps if steps else math.nan

    def facts(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "folder": str(self.folder),
            "recipe": self.run.name,
            "step": self.step,
            "steps": self.run.optim.steps,
            "done": self.done,
            "seconds_left": None if math.isnan(self.left) else round(self.left, 1),
            "seconds_quiet": round(self.quiet, 1),
            "metrics": dict(self.rows[-1]) if self.rows else {},
            "samples": str(self.sheet) if self.sheet else None,
        }


def training_in(out: Path) -> Path:
    """The training in a folder, or the one that changed last in those up to two below it.

    Raises:
        DataError: there is none.
    """
    found = [file.parent for below in ("", "*/", "*/*/") for file in out.glob(below + RUN)]
    if not found:
        raise DataError(f"{out} holds no training: neither {RUN} nor a folder with one; name the --out of a training")
    return max(found, key=_changed)


def look(folder: Path) -> Look:
    """Read a training's folder, which may be written to meanwhile.

    Raises:
        DataError: its settings can't be read.
    """
    from instructdiffusion.model.config import parse

    try:
        run = parse(json.loads((folder / RUN).read_text()))
    except (OSError, ValueError, ConfigError) as error:
        raise DataError(f"{folder / RUN} can't be read ({error}); start the training again") from None
    sheets = sorted((folder / "samples").glob("step-*.png"))
    quiet = max(0.0, time.time() - _changed(folder))
    return Look(folder, run, curve.read(folder), (folder / SUMMARY).is_file(), quiet, sheets[-1] if sheets else None)


def view(seen: Look) -> RenderableType:
    """The same to look at."""
    steps = seen.run.optim.steps
    head = Table.grid(padding=(0, 1))
    head.add_row(
        ProgressBar(total=steps, completed=seen.step, width=WIDTH), f"{seen.step} of {steps} steps", _pace(seen)
    )
    parts: list[RenderableType] = [Text(f"{seen.run.name} in {seen.folder}", style="bold"), head]
    if seen.rows:
        parts += [_losses(seen.rows), Text(_gauges(seen.rows[-1]))]
    if seen.sheet:
        parts.append(Text(f"samples: {seen.sheet}", overflow="fold"))
    return Group(*parts)


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Numbers as a line of bars, the lowest the least and the highest the most; many are averaged to fit."""
    numbers = [value for value in values if math.isfinite(value)]
    parts = min(width, len(numbers))
    means = [
        sum(part) / len(part)
        for i in range(parts)
        if (part := numbers[i * len(numbers) // parts : (i + 1) * len(numbers) // parts])
    ]
    low, high = (min(means), max(means)) if means else (0.0, 0.0)
    return "".join(BARS[round((mean - low) / (high - low or 1.0) * (len(BARS) - 1))] for mean in means)


def _pace(seen: Look) -> str:
    if seen.done:
        return f"done in {duration(seen.rows[-1].get('seconds', 0.0))}" if seen.rows else "done"
    if not seen.rows:
        return "no step was told yet"
    speed = f"{seen.rows[-1].get('triplets_per_second', 0.0):.1f} triplets/s"
    return f"{speed}, {duration(seen.left)} left, told {duration(seen.quiet)} ago"


def _losses(rows: Sequence[curve.Row]) -> Table:
    table = Table("task", "loss", "now", "least", "drawn", box=None, header_style="dim")
    names = sorted({name for row in rows for name in row if name == "loss" or name.startswith("loss/")})
    for name in names:
        values = [row[name] for row in rows if name in row]
        task = name.removeprefix("loss").removeprefix("/")
        drawn = rows[-1].get(f"mixture/task/{task}")
        share = "" if drawn is None else f"{drawn:.1%}"
        table.add_row(task or "all", sparkline(values), f"{values[-1]:.4f}", f"{min(values):.4f}", share)
    return table


def _gauges(row: curve.Row) -> str:
    words = {
        "gradient_norm": "gradient norm {:.3g}",
        "average_distance": "average {:.2%} away",
        "waiting": "waiting {:.1%}",
        "memory_gib": "memory {:.1f} GiB",
        "gpu_memory_gib": "GPU {:.1f} GiB",
        "mixture/off": "mixture {:.1%} off",
    }
    return ", ".join(text.format(row[name]) for name, text in words.items() if name in row)


def _changed(folder: Path) -> float:
    """When a training's folder was last written to, seconds of the clock."""
    told = folder / curve.CURVE
    return (told if told.is_file() else folder / RUN).stat().st_mtime
