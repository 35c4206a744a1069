"""`instructdiffusion data crawl`: requests that people posted, with their pictures before and after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def add(data: typer.Typer) -> None:
    """Add the command to the group."""
    data.command()(crawl)


def crawl(
    url: Annotated[str, typer.Argument(help="page to begin with; pages of its host are read")],
    out: Annotated[Path, typer.Argument(help="triplet folder")],
    licence: Annotated[list[str], typer.Option(help="that is allowed, * for any text; repeatable")],
    markup: Annotated[Path | None, typer.Option(help="YAML file: where the site's pages hold what")] = None,
    delay: Annotated[float, typer.Option(min=0, help="seconds between two requests, more where a site is slow")] = 2.0,
    most: Annotated[int | None, typer.Option(min=1, help="triplets after which it ends; left out, all")] = None,
    contact: Annotated[str, typer.Option(help="where the site's owner can write to; sent with every request")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document for machines")] = False,
) -> None:
    """Collect requests with a picture before and after from a site; the same command again goes on."""
    from rich.console import Console

    from instructdiffusion.components import crawl as crawling
    from instructdiffusion.pipelines.work import shown

    known = crawling.markup(markup)
    with shown(Console(stderr=as_json), "crawl") as progress:
        found = crawling.crawl(
            url, out, licence, markup=known, delay=delay, most=most, contact=contact, progress=progress
        )
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    left = "".join(f"; left out: {reason} ({count})" for reason, count in found["rejected"].items())
    typer.echo(f"{found['kept']} triplets of {found['pages']} pages are in {out}{left}")
    if found["forbidden"]:
        typer.echo(f"{found['forbidden']} pages are forbidden by robots.txt")
    if found["failed"]:
        typer.echo(f"{found['failed']} pages or posts could not be read; the same command tries them again")
