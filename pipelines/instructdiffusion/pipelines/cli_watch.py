"""`instructdiffusion train watch`: look on while a training runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train watch")(watch)


def watch(
    out: Annotated[Path, typer.Argument(help="folder of the training, or the --out that it was started with")],
    once: Annotated[bool, typer.Option("--once", help="print one look and end")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between looks")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="print one look as JSON, and end")] = False,
) -> None:
    """Show how far a training is, its losses task by task, and where its time and memory go."""
    from rich.console import Console
    from rich.live import Live

    from instructdiffusion.pipelines.watch import look, training_in, view

    folder = training_in(out)
    seen = look(folder)
    if as_json:
        typer.echo(json.dumps(seen.facts(), indent=1))
        return
    console = Console()
    if once:
        console.print(view(seen))
        return
    with Live(view(seen), console=console) as live:
        while not seen.done:
            time.sleep(every)
            seen = look(folder)
            live.update(view(seen))
