"""The command `instructdiffusion`. Whatever is slow to import is imported by the command that needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instructdiffusion.model.errors import ConfigError
from instructdiffusion.pipelines import (
    cli_data,
    cli_evaluate,
    cli_experiment,
    cli_kubeflow,
    cli_label,
    cli_model,
    cli_plan,
    cli_registry,
    cli_watch,
)
from instructdiffusion.pipelines.endings import Commands, stop_by_signals

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = "Exit codes: 0 done, 1 a fault of ours, 2 a setting or argument, 3 a file, 4 a server, 130 interrupted."


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EPILOG,
    help="Teach a diffusion model to follow instructions: synthesize, train, align, evaluate, serve.",
)


Json = Annotated[bool, typer.Option("--json", help="print one JSON document for machines")]
ModelFolder = Annotated[Path | None, typer.Option("--model", help="folder of a model; left out, the embedded base")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="change a setting, as in optim.steps=100; repeatable")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")]


def main() -> None:
    """Run the command."""
    stop_by_signals()
    app()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of report, summary and all that the run leaves")] = Path("out/demo"),
    keep: Annotated[
        bool, typer.Option("--keep", help="leave the servers up until Ctrl-C, and print their addresses")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget what an earlier run in this folder finished")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="tiny counts: shows that it works, not how well")] = False,
    start: Annotated[
        Path | None, typer.Option(help="folder of the model to start from; left out, the embedded base")
    ] = None,
    rank: Annotated[
        str, typer.Option(help="reference, or label-studio: through that server, as two users")
    ] = "reference",
    store_port: Port = 0,
    tracking_port: Port = 0,
    serving_port: Port = 0,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on this machine, from photographs to a served model."""
    from instructdiffusion.pipelines.demo import RANKS, Order, run

    if rank not in RANKS:
        raise ConfigError(f"--rank {rank!r}: choose {' or '.join(RANKS)}")
    ports = {"store_port": store_port, "tracking_port": tracking_port, "serving_port": serving_port}
    order = Order(out=out, start=start, quick=quick, fresh=fresh, keep=keep, rank=rank, ports=ports)
    summary = run(order, _console(as_json))
    if as_json:
        _print(summary)


@app.command()
def base(
    out: Annotated[Path, typer.Option(help="folder of everything it makes")] = Path("out/base"),
    triplets: Annotated[int, typer.Option(min=1, help="to train on, of all tasks together")] = 200_000,
    held_out: Annotated[int, typer.Option(min=1, help="triplets of each task to score on")] = 200,
    recipe: Annotated[str, typer.Option(help="of the training")] = "base",
    settings: Settings = None,
    install: Annotated[
        bool, typer.Option("--install", help="put the result in the place of the embedded base")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the embedded base from nothing (hours), score it and write its model card."""
    from instructdiffusion.pipelines.base import make

    made = make(out, recipe, settings or [], triplets, held_out, install, _console(as_json))
    _show(made, f"the base is in {made['model']}", as_json)


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="folder of the data set")],
    split: Annotated[str, typer.Option(help="train or test")] = "train",
    triplets: Annotated[int, typer.Option(min=1, help="of all tasks together, shared out by their weights")] = 2000,
    each: Annotated[bool, typer.Option("--each", help="so many of every task instead")] = False,
    size: Annotated[int, typer.Option(min=32, help="side of the pictures, pixels")] = 64,
    seed: Annotated[int, typer.Option(help="of everything random")] = 0,
    as_json: Json = False,
) -> None:
    """Compose triplets with exact truth on photographs."""
    from instructdiffusion.pipelines.work import synthesized

    if split not in ("train", "test"):
        raise ConfigError(f"split {split!r}: choose train or test")
    facts = synthesized(out, split, triplets, each, size, seed, _console(as_json))
    _show(facts, f"{sum(facts['counts'].values())} triplets are in {out}", as_json)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="name of a recipe; `instructdiffusion recipes` lists them")],
    data: Annotated[str, typer.Option(help="folder of triplets; s3://... of triplets or latents, read as they are")],
    out: Annotated[Path, typer.Option(help="folder of the training")],
    model: ModelFolder = None,
    settings: Settings = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="ranks of each node; left out, as the settings say: 2, unless told")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model on triplets; the same command again resumes. See also `train plan` and `train watch`."""
    from instructdiffusion.model.config import override
    from instructdiffusion.model.recipes import recipe as recipe_named
    from instructdiffusion.pipelines.work import fit

    run = override(recipe_named(recipe), settings or [])
    facts = fit(run, data, model, out, processes, _console(as_json))
    _show(facts, f"the model is in {facts['model']}", as_json)


cli_plan.add(app)  # `train plan` and `train watch` stand beside `train` in --help
cli_watch.add(app)


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="folder of scores and contact sheets")] = Path("out/evaluation"),
    model: ModelFolder = None,
    data: Annotated[Path | None, typer.Option(help="folder of held-out triplets; left out, they are composed")] = None,
    samples: Annotated[int, typer.Option(min=1, help="of each task")] = 200,
    as_json: Json = False,
) -> None:
    """Score a model on held-out samples of every task, with 95 % intervals."""
    from instructdiffusion.pipelines.work import evaluated, table

    console = _console(as_json)
    evaluation = evaluated(model, data, samples, out, console)
    if as_json:
        _print(evaluation)
    else:
        console.print(table(evaluation))
        console.print(f"contact sheets are in {out}", highlight=False)


@app.command()
def edit(
    picture: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP")],
    instruction: Annotated[str, typer.Argument(help="what to do, in words")],
    out: Annotated[Path, typer.Option(help="the edited picture")] = Path("edited.png"),
    model: ModelFolder = None,
    task: Annotated[str | None, typer.Option(help="insist on a task; left out, the instruction tells")] = None,
    seed: Annotated[int, typer.Option(help="the same seed gives the same edit")] = 0,
    steps: Annotated[int | None, typer.Option(help="denoising steps; left out, the model's own")] = None,
    text_guidance: Annotated[float | None, typer.Option(help="weight of the instruction")] = None,
    image_guidance: Annotated[float | None, typer.Option(help="weight of the source")] = None,
    as_json: Json = False,
) -> None:
    """Edit one picture and print what was read from the answer."""
    from instructdiffusion.pipelines.work import edited

    options = {"task": task, "seed": seed, "steps": steps}
    guidance = {"text_guidance": text_guidance, "image_guidance": image_guidance}
    facts = edited(picture, instruction, out, model, {**options, **guidance})
    _show(facts, f"{facts['words']}\nthe picture is in {out}", as_json)


@app.command()
def serve(
    model: ModelFolder = None,
    home: Annotated[Path, typer.Option(help="folder of Bento's stores")] = Path("out/bento"),
    version: Annotated[str, typer.Option(help="what callers will see")] = "local",
    port: Annotated[int, typer.Option(min=0, max=65535, help="where it listens; 0: any free one")] = 3000,
    host: Annotated[str, typer.Option(help="0.0.0.0: on every interface")] = "127.0.0.1",
) -> None:
    """Package a model as a Bento and serve it until Ctrl-C."""
    from instructdiffusion.components.process import claim_port
    from instructdiffusion.serving.bento import build
    from instructdiffusion.serving.bento import serve as serve_bento

    port = claim_port(port, "--port", "the service")
    tag = build(model, version, home)
    print(f"{tag} answers at http://{host}:{port} as soon as its weights are loaded", file=sys.stderr)
    serve_bento(tag, home, port, host)


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes."""
    from instructdiffusion.model.recipes import RECIPES

    if as_json:
        _print({name: recipe().model_dump(mode="json") for name, recipe in RECIPES.items()})
        return
    for name, recipe in RECIPES.items():
        run, first = recipe(), (recipe.__doc__ or "").strip().splitlines()[0]
        print(f"{name:<12} {run.optim.steps:>7} steps of {run.optim.batch_size:<5} {first}")


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version, and those of the packages that matter."""
    from instructdiffusion.pipelines.machine import versions

    found = versions()
    _show(found, "\n".join(f"{name:<18} {number}" for name, number in found.items()), as_json)


cli_data.add(app)
cli_evaluate.add(app)
cli_experiment.add(app)
cli_model.add(app)
cli_kubeflow.add(app)
cli_label.add(app)
cli_registry.add(app)


def _console(as_json: bool) -> Console:
    """Where people read along: standard output, or standard error when that is for machines."""
    from rich.console import Console

    return Console(stderr=as_json)


def _show(facts: Mapping[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        _print(facts)
    else:
        print(text)


def _print(document: Mapping[str, Any]) -> None:
    print(json.dumps(document, indent=1))
