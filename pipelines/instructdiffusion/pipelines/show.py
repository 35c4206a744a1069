"""What a person sees while steps run: one line for the step at work, one for each that is done."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from instructdiffusion.pipelines.local import Event


class Steps:
    """Shows a pipeline's events and keeps the seconds of every step by its title."""

    def __init__(self, console: Console, seconds: Mapping[str, float] | None = None) -> None:
        """`seconds` are those of steps that an earlier try finished."""
        self.console, self.seconds = console, dict(seconds or {})
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[text]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # a log file gets the lines of finished steps alone
        )
        self._task = self._progress.add_task("starting", total=None, text="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the line of the step at work away."""
        self._progress.stop()

    def waiting(self, name: str, seconds: float) -> None:
        """A server is starting."""
        self._progress.update(self._task, description=f"starting {name}", text="")

    def __call__(self, event: Event) -> None:
        """Show what happened."""
        if event.kind == "started":
            self._progress.reset(self._task, total=None, description=event.title, text="")
        elif event.kind == "progress":
            self._progress.update(self._task, completed=event.done, total=event.total or None, text=event.text)
        else:
            self.seconds[event.title] = event.seconds
            mark = "[green]✓[/]" if event.kind == "done" else "[red]✗[/]"
            self.line(f"{mark} {event.title}", event.seconds)

    def line(self, text: str, seconds: float | None = None) -> None:
        """Print a line that stays; with a duration at its end."""
        took = "" if seconds is None else f"  [dim]{seconds:.1f} s[/]"
        self.console.print(f"{text}{took}", highlight=False)
