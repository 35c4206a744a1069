"""`instructdiffusion model`: bring models in from elsewhere, and out again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from instructdiffusion.model.errors import ConfigError

model = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Bring models in from elsewhere, and out again.")

Json = Annotated[bool, typer.Option("--json", help="print one JSON document for machines")]


def add(app: typer.Typer) -> None:
    """Add the group to the command."""
    app.add_typer(model, name="model")


@model.callback()
def group() -> None:
    """Bring models in from elsewhere, and out again."""


@model.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(help="a Stable Diffusion folder, or a checkpoint file; a path, s3://..., or a hub id"),
    ],
    out: Annotated[Path, typer.Argument(help="folder of the model")],
    like: Annotated[
        str | None, typer.Option(help="for a file: a Stable Diffusion folder of the same sizes, with its tokenizer")
    ] = None,
    recipe: Annotated[str, typer.Option(help="of the training to come, for the resolution of its pictures")] = "paper",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="change a setting, as in network.size=512; repeatable")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a model folder of Stable Diffusion weights, or of a checkpoint of the original release."""
    from contextlib import ExitStack

    from instructdiffusion.components.origin import fetched
    from instructdiffusion.model import network
    from instructdiffusion.model.compvis import read
    from instructdiffusion.model.config import override
    from instructdiffusion.model.initial import contradicted, from_text_to_image, own_diffusion, predicting
    from instructdiffusion.model.recipes import recipe as recipe_named
    from instructdiffusion.model.weights import check_free

    check_free(out)  # before anything is downloaded
    override(recipe_named(recipe), settings or [])  # or what is wrong with them would be said after the download
    with ExitStack() as stack:
        found = stack.enter_context(fetched(source, out.parent))
        kin = source if found.is_dir() else like  # whose sizes and noise it has
        if kin is None:
            raise ConfigError(f"{source} holds neither sizes nor tokenizer; give --like with a Stable Diffusion folder")
        folder = found if found.is_dir() else stack.enter_context(fetched(kin, out.parent))
        own = own_diffusion(folder)
        run = override(predicting(recipe_named(recipe), own), settings or [])
        if found.is_dir():
            made = from_text_to_image(folder, run.diffusion, run.network.size)
        else:
            made = read(found, folder, run.diffusion, run.network.size)
        network.save(made, out)
    if told := contradicted(own, made.diffusion):
        typer.echo(
            f"warning: {kin} has {told}: weights that were not trained for that make nothing but noise", err=True
        )
    facts = {"model": str(out), "resolution": made.resolution, "prediction": made.diffusion.prediction}
    _show(facts, f"the model is in {out}: {made.resolution} pixels, predicts {made.diffusion.prediction}", as_json)


@model.command()
def export(
    folder: Annotated[Path, typer.Argument(help="of the model", metavar="MODEL")],
    out: Annotated[Path, typer.Argument(help="the file, .safetensors")],
    as_json: Json = False,
) -> None:
    """Write a model as one file in the layout of the original release."""
    from instructdiffusion.model.compvis import write
    from instructdiffusion.model.network import load

    file = write(load(folder), out)
    _show({"file": str(file), "bytes": file.stat().st_size}, f"the checkpoint is {file}", as_json)


@model.command()
def merge(
    folder: Annotated[Path, typer.Argument(help="of the model that the adapters were trained on", metavar="MODEL")],
    adapter: Annotated[Path, typer.Argument(help="folder of the adapters")],
    out: Annotated[Path, typer.Argument(help="folder of the merged model")],
    as_json: Json = False,
) -> None:
    """Fold a run's adapters (LoRA) into the model they were trained on."""
    from instructdiffusion.model import lora, network

    nets = network.load(folder)
    lora.load(nets.unet, adapter)
    lora.merge(nets.unet)
    network.save(nets, out)
    _show({"model": str(out)}, f"the merged model is in {out}", as_json)


@model.command()
def card(
    about: Annotated[Path, typer.Option(help="YAML: name, licence, intended_use, limits, contact")],
    out: Annotated[Path, typer.Option(help="the card")],
    folder: Annotated[
        Path | None, typer.Argument(help="of the model; left out, the embedded base", metavar="[MODEL]")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="the model's evaluation.json; left out, the one in its folder")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="folder of triplets it was trained on, or its manifest.json; repeatable; left out, as evaluation"
        ),
    ] = None,
    report: Annotated[
        list[Path] | None, typer.Option("--benchmark", help="a benchmark.json of the model; repeatable")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model's card from facts, or say which are missing."""
    from instructdiffusion.model.card import About
    from instructdiffusion.model.card import card as card_of
    from instructdiffusion.model.files import write_atomic
    from instructdiffusion.pipelines.cards import facts_of

    facts = facts_of(folder, About.load(about), data or [], evaluation, report or [])
    write_atomic(out, card_of(facts))
    _show({"card": str(out), "model": facts.model}, f"the card is {out}", as_json)


def _show(facts: Mapping[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(facts, indent=1) if as_json else text)
