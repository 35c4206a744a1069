"""`instructdiffusion data build`, `data join` and `data exemplars`: data sets of many sources, part by part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="print one JSON document for machines")]


def add(data: typer.Typer) -> None:
    """Add the commands to the group."""
    data.command()(build)
    data.command()(join)
    data.command()(exemplars)


def build(
    sources: Annotated[str, typer.Argument(help="sources file, YAML or JSON, a path or s3://...; or paper")],
    out: Annotated[Path, typer.Argument(help="folder of the data set, or of the part")],
    root: Annotated[
        str, typer.Option(help="folder or s3://... that relative paths are below; left out, the file's own")
    ] = "",
    without: Annotated[list[str] | None, typer.Option(help="leave this source out; repeatable", metavar="NAME")] = None,
    size: Annotated[int, typer.Option(min=32, help="side of the pictures, pixels")] = 64,
    seed: Annotated[int, typer.Option(help="of everything random")] = 0,
    part: Annotated[str, typer.Option(help="make one part of several, as in 3/16", metavar="NUMBER/COUNT")] = "1/1",
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes; left out, one for each core, or for a GPU")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make triplets of data sets and scenes; the same command again goes on where it stopped."""
    from rich.console import Console

    from instructdiffusion.components.build import read, run
    from instructdiffusion.pipelines.inside import Surroundings
    from instructdiffusion.pipelines.work import shown

    store = Surroundings().store
    copy = out.with_name(f"{out.name}.sources.yaml")
    wanted = read(sources, copy, store, root=root, without=without or ())
    with shown(Console(stderr=as_json), f"build {part}") as progress:
        made = run(wanted, out, size=size, seed=seed, part=part, workers=workers, store=store, progress=progress)
    _show(made.facts, out, as_json)


def join(
    out: Annotated[Path, typer.Argument(help="folder of the data set")],
    parts: Annotated[list[Path], typer.Argument(help="folders of all its parts", metavar="PART...")],
    as_json: Json = False,
) -> None:
    """Make one data set of its parts."""
    from instructdiffusion.components.build import join as joined

    _show(joined(parts, out).facts, out, as_json)


def exemplars(
    sources: Annotated[str, typer.Argument(help="sources file that names data sets of regions; a path or s3://...")],
    out: Annotated[Path, typer.Argument(help="folder for the exemplars")],
    features: Annotated[
        str, typer.Option(help="embedded, or folder or hub id of a CLIP or a vision transformer")
    ] = "embedded",
    captioner: Annotated[str, typer.Option(help="what names them: labels, blip2:PATH")] = "labels",
    as_json: Json = False,
) -> None:
    """Cut things out of photographs, to put where others are; the same command again goes on where it stopped."""
    from rich.console import Console

    from instructdiffusion.components.build import gather, read
    from instructdiffusion.pipelines.inside import Surroundings
    from instructdiffusion.pipelines.work import shown

    store = Surroundings().store
    wanted = read(sources, out.with_name(f"{out.name}.sources.yaml"), store)
    with shown(Console(stderr=as_json), "cut out") as progress:
        made = gather(wanted, out, features=features, captioner=captioner, store=store, progress=progress)
    if as_json:
        typer.echo(json.dumps(made.facts, indent=1))
        return
    report = made.facts["report"]
    typer.echo(f"{report['kept']} exemplars of {report['offered']} regions are in {out}")


def _show(manifest: Mapping[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(manifest, indent=1))
        return
    for name, origin in manifest["sources"].items():
        left = "".join(f"; left out: {reason} ({count})" for reason, count in origin["skipped"].items())
        typer.echo(f"{name}: {sum(origin['counts'].values())} triplets of {origin['dataset']}{left}")
    typer.echo(f"{sum(manifest['counts'].values())} triplets are in {out}")
