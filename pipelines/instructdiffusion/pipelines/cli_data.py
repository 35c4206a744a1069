"""`instructdiffusion data`: look at data sets on disk, and make triplets of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instructdiffusion.model.errors import DataError
from instructdiffusion.pipelines import cli_build, cli_crawl, cli_instructions, cli_quality, cli_versions

if TYPE_CHECKING:
    from rich.table import Table

    from instructdiffusion.model.data.readers import Counts, Reader

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at data sets on disk, and build from them.")


def add(app: typer.Typer) -> None:
    """Add the group to the command."""
    cli_build.add(data)
    cli_crawl.add(data)
    cli_instructions.add(data)
    cli_quality.add(data)
    cli_versions.add(data)
    app.add_typer(data, name="data")


@data.callback()
def group() -> None:
    """Look at data sets on disk, and build from them."""


@data.command()
def check(
    folder: Annotated[Path, typer.Argument(help="of a data set, as its authors publish it", metavar="DIR")],
    split: Annotated[str | None, typer.Option(help="count this split only; left out, all there are")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document for machines")] = False,
) -> None:
    """Recognise a data set and count what is in it, and what is left out and why."""
    from rich.console import Console

    from instructdiffusion.model.data.readers import reader_for

    reader = reader_for(folder)
    counted = counts(reader, folder, split)
    if as_json:
        typer.echo(json.dumps(facts(reader, folder, counted), indent=1))
        return
    console = Console()
    console.print(f"{folder} holds {reader.name} ({reader.licence})", highlight=False, soft_wrap=True, markup=False)
    console.print(table(counted))


@data.command()
def adapt(
    out: Annotated[Path, typer.Argument(help="folder of the data set")],
    photos: Annotated[
        list[Path] | None, typer.Option(help="folder of photographs with captions; repeatable", metavar="DIR")
    ] = None,
    scenes: Annotated[int, typer.Option(min=0, help="composed scenes to add")] = 0,
    size: Annotated[int, typer.Option(min=32, help="side of the pictures, pixels")] = 64,
    seed: Annotated[int, typer.Option(help="of everything random")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document for machines")] = False,
) -> None:
    """Paint marks at random places, with captions that say so: what stage 1, `adapt`, is trained on."""
    from instructdiffusion.model.synthesis.adapt import marked

    manifest = marked(out, photos=photos or [], scenes=scenes, size=size, seed=seed)
    document = manifest.model_dump(mode="json")
    typer.echo(json.dumps(document, indent=1) if as_json else f"{manifest.total} marked pictures are in {out}")


def counts(reader: Reader, folder: Path, split: str | None) -> dict[str, Counts]:
    """What each split of a data set holds, or the one asked for.

    Raises:
        DataError: there is no such split, or a file is broken.
    """
    there = reader.splits(folder)
    if split is not None and split not in there:
        raise DataError(f"{folder} has no split {split!r} of {reader.name}; it has {', '.join(there) or 'none'}")
    return {name: reader.counts(folder, name) for name in ([split] if split else there)}


def facts(reader: Reader, folder: Path, counted: dict[str, Counts]) -> dict[str, Any]:
    """The same for machines."""
    splits = {
        name: {"pictures": found.pictures, "examples": found.examples, "skipped": dict(found.skipped)}
        for name, found in counted.items()
    }
    known = {"name": reader.name, "task": reader.task, "licence": reader.licence, "address": reader.address}
    return {"folder": str(folder), **known, "splits": splits}


def table(counted: dict[str, Counts]) -> Table:
    """A row for each split, and one below it for each reason to leave something out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table("split", box=SIMPLE_HEAD)
    for heading in ("pictures", "examples", "skipped"):
        made.add_column(heading, justify="right")
    made.add_column("because of", overflow="fold")
    for name, found in counted.items():
        total = str(sum(found.skipped.values()))
        made.add_row(name, str(found.pictures), str(found.examples), total, "")
        for reason, number in found.skipped.items():
            made.add_row("", "", "", str(number), Text(reason))
    return made
