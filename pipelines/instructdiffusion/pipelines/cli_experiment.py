"""`instructdiffusion experiment`: the paper's claims at nano size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from instructdiffusion.model.errors import ConfigError


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(experiment)


def experiment(
    name: Annotated[str, typer.Argument(help="multitask, instructions or alignment")],
    out: Annotated[
        Path | None, typer.Option(help="folder of all that it makes; left out, out/experiments/NAME")
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="tiny counts: shows that it works, and nothing else")] = False,
    seeds: Annotated[int, typer.Option(min=0, help="trainings of each arm; 0: as many as the size has")] = 0,
    steps: Annotated[
        int, typer.Option(min=0, help="optimizer steps of a training, or of the longest tuning; 0: as the size has")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document for machines")] = False,
) -> None:
    """Test a claim of the paper at nano size (an hour): numbers, plot, paragraph. The same command again goes on."""
    from rich.console import Console

    from instructdiffusion.pipelines.experiments import FULL, PAGE, SMOKE, run

    if name not in FULL:
        raise ConfigError(f"no experiment {name!r}; choose one of {', '.join(FULL)}")
    size = SMOKE if smoke else FULL[name]
    size = replace(size, seeds=seeds or size.seeds, steps=steps or size.steps)
    folder = out or Path("out/experiments") / name
    result = run(name, folder, size, Console(stderr=as_json))
    typer.echo(json.dumps(result, indent=1) if as_json else f"{result['paragraph']}\nthe page is {folder / PAGE}")
