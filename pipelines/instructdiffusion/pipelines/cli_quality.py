"""`instructdiffusion data filter`, `scores`, `gallery`, `audit` and `report`: what is worth training on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="print one JSON document for machines")]


def add(data: typer.Typer) -> None:
    """Add the commands to the group."""
    data.command("filter")(filtered)
    for command in (scores, gallery, audit, report):
        data.command()(command)


def filtered(
    source: Annotated[Path, typer.Argument(help="folder of shards", metavar="DIR")],
    out: Annotated[Path, typer.Argument(help="folder for what is kept; the rest goes to its folder rejected")],
    policy: Annotated[str, typer.Option(help="embedded, paper, or a YAML file, a path or s3://...")] = "embedded",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="change a rule, as in aesthetic.at_least=5; repeatable", metavar="RULE.FIELD=VALUE"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Keep the triplets that a policy allows; the same command again goes on where it stopped."""
    from functools import partial

    from rich.console import Console

    from instructdiffusion.components.filter import read
    from instructdiffusion.components.storage import located
    from instructdiffusion.model.quality.filtering import filter_shards
    from instructdiffusion.pipelines.inside import Surroundings
    from instructdiffusion.pipelines.work import shown

    store, copies = Surroundings().store, out.with_name(f"{out.name}.policy")
    held, here = read(policy, copies, store, settings or ()), partial(located, copies=copies, store=store)
    with shown(Console(stderr=as_json), "filter") as progress:
        manifest = filter_shards(source, out, held, here=here, progress=progress)
    if as_json:
        typer.echo(manifest.model_dump_json(indent=1))
        return
    for rule, count in manifest.report["dropped"].items():
        typer.echo(f"{rule} rejected {count}, as {', '.join(manifest.report['examples'][rule])}")
    typer.echo(f"{manifest.report['kept']} of {manifest.report['read']} triplets are in {out}")


def scores(as_json: Json = False) -> None:
    """List the scores that a policy can hold triplets to."""
    from instructdiffusion.model.quality import scores as known

    found = {name: (score.about, sorted(score.Options.model_fields)) for name, score in sorted(known().items())}
    if as_json:
        typer.echo(json.dumps({name: {"about": about, "options": o} for name, (about, o) in found.items()}, indent=1))
        return
    for name, (about, options) in found.items():
        typer.echo(f"{name}: {about}" + (f" (options: {', '.join(options)})" if options else ""))


def gallery(
    source: Annotated[Path, typer.Argument(help="folder of shards whose targets are good pictures", metavar="DIR")],
    out: Annotated[Path, typer.Argument(help="file for the gallery, .safetensors")],
    network: Annotated[str, typer.Option(help="folder or hub id of a CLIP or a vision transformer")],
    limit: Annotated[int, typer.Option(min=1, help="pictures at most")] = 10_000,
) -> None:
    """Encode good pictures, which the score `giqa` holds others against."""
    from itertools import islice

    from rich.console import Console

    from instructdiffusion.model.data.shards import read_triplets
    from instructdiffusion.model.metrics.networks import encoder
    from instructdiffusion.model.quality.gallery import make_gallery
    from instructdiffusion.pipelines.work import shown

    pictures = (triplet.target for triplet in islice(read_triplets(source), limit))
    with shown(Console(), "encode the gallery") as progress:
        made = make_gallery(pictures, encoder(network), out, progress=lambda done: progress(done, 0))
    typer.echo(f"{len(made.features)} pictures are in {out}")


def audit(
    folder: Annotated[Path, typer.Argument(help="folder that the filter wrote, or with --score that of an audit")],
    out: Annotated[Path | None, typer.Option(help="folder for the audit")] = None,
    count: Annotated[int, typer.Option(min=1, help="triplets to look at")] = 100,
    seed: Annotated[int, typer.Option(help="of the draw")] = 0,
    score: Annotated[bool, typer.Option("--score", help="tell how good the filter is, by the verdicts so far")] = False,
    as_json: Json = False,
) -> None:
    """Draw triplets for people to judge, or hold the filter against what they said."""
    from instructdiffusion.model.quality import audit as audits

    if not score:
        place = out or folder.with_name(f"{folder.name}-audit")
        drawn = audits.draw(folder, place, count=count, seed=seed)
        typer.echo(f"write good or bad into {place / audits.VERDICTS} for each of {len(drawn)} pictures beside it")
        return
    found = audits.score(folder)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    typer.echo(f"{found['judged']} judged, {found['left']} left")
    typer.echo(f"precision {_share(found['precision'])}: of what was kept, the share that is good")
    typer.echo(f"recall {_share(found['recall'])}: of what is good, the share that was kept")
    for rule, share in found["rules"].items():
        typer.echo(f"{rule} {_share(share)}: of what it rejected, the share that is bad")


def report(
    folder: Annotated[Path, typer.Argument(help="folder of shards", metavar="DIR")],
    out: Annotated[Path, typer.Argument(help="file for the page, .html")],
) -> None:
    """Write a page about a data set: what it holds, how its scores are spread, and what was rejected, with pictures."""
    from instructdiffusion.model.files import write_atomic
    from instructdiffusion.pipelines import quality_page

    write_atomic(out, quality_page.page_of(folder, folder.name))
    typer.echo(f"the report is in {out}")


def _share(found: dict[str, Any] | None) -> str:
    return "unknown" if found is None else f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
