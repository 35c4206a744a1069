"""`instructdiffusion data show`, `diff`, `lineage` and `leaks`: what a data set is, and what it must not hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="print one JSON document for machines")]
Data = Annotated[str, typer.Argument(help="folder of shards with its manifest, or its s3:// address", metavar="DIR")]


def add(data: typer.Typer) -> None:
    """Add the commands to the group."""
    for command in (show, diff, lineage, leaks):
        data.command()(command)


def show(data: Data, as_json: Json = False) -> None:
    """Tell what a version of a data set holds."""
    from instructdiffusion.components.step import data_digest
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.pipelines.inside import Surroundings

    with Surroundings().version(data) as folder:
        manifest, digest = Manifest.load(folder), data_digest(folder)
    if as_json:
        typer.echo(manifest.model_dump_json(indent=1))
        return
    typer.echo(f"{digest}, made by {manifest.made or 'an unknown step'}")
    told = f"{manifest.size} px, split {manifest.split}, seed {manifest.seed}, {len(manifest.shards)} shards"
    typer.echo(f"{manifest.total} triplets, {told}")
    _table(("task", "triplets"), [(task, str(count)) for task, count in sorted(manifest.counts.items())])
    rows = [(name, o.dataset, f"{o.weight:g}", str(sum(o.counts.values()))) for name, o in manifest.sources.items()]
    _table(("source", "data set", "weight", "triplets"), rows)
    _table(("licence",), [(licence,) for licence in manifest.licences])


def diff(before: Data, after: Data, as_json: Json = False) -> None:
    """Tell in what two versions differ, by their manifests."""
    from instructdiffusion.model.data.shards import Manifest
    from instructdiffusion.model.data.versions import changes
    from instructdiffusion.pipelines.inside import Surroundings

    here = Surroundings()
    with here.version(before) as one, here.version(after) as other:
        found = list(changes(Manifest.load(one), Manifest.load(other)))
    if as_json:
        typer.echo(json.dumps([change._asdict() for change in found], indent=1))
    elif not found:
        typer.echo("nothing differs")
    else:
        _table(("", "before", "after"), [(c.what, _plain(c.before), _plain(c.after)) for c in found])


def lineage(data: Data, as_json: Json = False) -> None:
    """Tell what a version was made of, step by step, the youngest first."""
    from instructdiffusion.model.data import versions
    from instructdiffusion.pipelines.inside import Surroundings

    with Surroundings().version(data) as folder:
        line = list(versions.lineage(folder))
    if as_json:
        typer.echo(json.dumps([made._asdict() for made in line], indent=1))
        return
    for made in line:
        settings = ", ".join(f"{name} {_plain(value)}" for name, value in versions.flat(made.settings).items())
        typer.echo(f"{made.made or 'unknown step'}: {made.triplets} triplets, {made.digest}")
        typer.echo(f"  {settings}" if settings else "  nothing else was set")


def leaks(
    trained: Annotated[list[Path], typer.Argument(help="folders of shards that are trained on", metavar="DIR...")],
    held_out: Annotated[Path, typer.Option(help="folder of shards that models are scored on")],
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="folder of a data set that they are scored on too; repeatable", metavar="DIR[:SPLIT]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="file for the report, which the gate reads")] = None,
    as_json: Json = False,
) -> None:
    """Look for what models are scored on among what they are trained on, and name it."""
    from rich.console import Console

    from instructdiffusion.model.files import write_atomic
    from instructdiffusion.model.leaks import leaks as looked_for
    from instructdiffusion.pipelines.work import shown

    with shown(Console(stderr=as_json), "look for leaks") as progress:
        report = looked_for(trained, held_out, benchmark or (), progress=progress)
    text = report.model_dump_json(indent=1)
    if out is not None:
        write_atomic(out, text + "\n")
    if as_json:
        typer.echo(text)
    report.insist()
    if not as_json:
        typer.echo(f"none of {report.triplets} triplets is held out ({sum(report.against.values())} samples)")
        if report.plain:
            typer.echo(f"{report.plain} of all these have a picture too plain to be told by how it looks")


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, unless it is empty."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(*heading, box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)
