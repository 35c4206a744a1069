"""`instructdiffusion benchmark` and `gate`: what a model is worth, and whether it may serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instructdiffusion.model.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from instructdiffusion.model.scoring import Report

benchmark = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Score whatever edits pictures.")

Json = Annotated[bool, typer.Option("--json", help="print one JSON document for machines")]
SAMPLES = "at most so many, of all kinds together: queries, people, faces, pictures or sessions; 0: all there are"
Out = Annotated[Path, typer.Option(help="folder of the rows and of benchmark.json")]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(benchmark, name="benchmark")
    app.command()(gate)
    app.command()(probe)


@benchmark.callback()
def group() -> None:
    """Score whatever edits pictures: a model folder, a service, or doing nothing."""


@benchmark.command("list")
def list_(as_json: Json = False) -> None:
    """List the benchmarks."""
    from instructdiffusion.model.benchmarks import benchmarks

    found = {name: one.about for name, one in benchmarks().items()}
    lines = "\n".join(f"{name:<18} {about}" for name, about in found.items())
    typer.echo(json.dumps(found, indent=1) if as_json else lines)


@benchmark.command()
def run(
    name: Annotated[str, typer.Argument(help="of a benchmark; `instructdiffusion benchmark list` lists them")],
    out: Out,
    model: Annotated[str, typer.Option(help="folder of a model, or do-nothing; left out, the embedded base")] = "",
    url: Annotated[str, typer.Option(help="a service instead; .../v2/models/NAME is asked by KServe's protocol")] = "",
    data: Annotated[Path | None, typer.Option(help="folder of the data set; left out, samples are composed")] = None,
    split: Annotated[str, typer.Option(help="left out, the one to score on")] = "",
    samples: Annotated[int, typer.Option(min=0, help=SAMPLES)] = 0,
    size: Annotated[int, typer.Option(min=0, help="side of composed pictures and crops; 0: the model's own")] = 0,
    part: Annotated[str, typer.Option(metavar="I/N", help="one part of the samples, for one of N machines")] = "1/1",
    seed: Annotated[int, typer.Option(min=0, help="of everything random")] = 0,
    clip: Annotated[str, typer.Option(help="folder or hub id of a CLIP, for likeness to captions and pictures")] = "",
    dino: Annotated[str, typer.Option(help="folder or hub id of a DINO, for likeness to pictures")] = "",
    aesthetic: Annotated[str, typer.Option(metavar="FILE", help="file of LAION's aesthetic predictor")] = "",
    judge: Annotated[str, typer.Option(metavar="URL", help="a vision model's endpoint, up to and with /v1")] = "",
    judge_model: Annotated[str, typer.Option(help="which model judges there")] = "",
    as_json: Json = False,
) -> None:
    """Run a benchmark, or one part of it; the same command again goes on where it stopped."""
    from instructdiffusion.components.endpoints import endpoint
    from instructdiffusion.components.tools import Addresses, opened
    from instructdiffusion.model.benchmark import EMBEDDED_SIZE, Order
    from instructdiffusion.model.benchmarks import benchmark_named
    from instructdiffusion.model.scoring import merge
    from instructdiffusion.model.scoring import run as run_part

    wanted, at = benchmark_named(name), _part(part)
    tools = opened(Addresses(clip=clip, dino=dino, aesthetic=aesthetic, judge=judge, judge_model=judge_model), out)
    editor = endpoint(model, url)
    order = Order(data, split, samples, size or editor.resolution or EMBEDDED_SIZE, seed)
    run_part(wanted, editor, out, order, tools=tools, part=at)
    if at[1] == 1:
        _show(merge(out), as_json)
    else:
        typer.echo(json.dumps({"part": part, "out": str(out)}) if as_json else f"part {part} is in {out}")


@benchmark.command()
def merge(
    out: Annotated[Path, typer.Argument(help="folder that holds the rows of all parts")], as_json: Json = False
) -> None:
    """Make the numbers of all parts: benchmark.json."""
    from instructdiffusion.model.scoring import merge as merge_parts

    _show(merge_parts(out), as_json)


def gate(
    challenger: Annotated[Path, typer.Argument(help="folder or file of its evaluation")],
    champion: Annotated[Path | None, typer.Argument(help="the same of the champion; left out, doing nothing")] = None,
    out: Annotated[Path, typer.Option(help="folder of verdict.json and verdict.html")] = Path("out/gate"),
    policy: Annotated[Path | None, typer.Option(help="YAML; left out, the default")] = None,
    leak: Annotated[Path | None, typer.Option(help="report on leaks between training and held-out data")] = None,
    safety: Annotated[Path | None, typer.Option(help="report of safety probes")] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option("--benchmark", help="a benchmark.json, of the challenger or the champion; repeatable"),
    ] = None,
    trained_on: Annotated[Path | None, typer.Option(help="data set that the challenger was trained on")] = None,
    as_json: Json = False,
) -> None:
    """Decide whether a model may take the champion's place. A refusal ends with code 1."""
    from instructdiffusion.components.evidence import Evidence, lineage
    from instructdiffusion.components.gate import run as judged
    from instructdiffusion.components.policy import Policy

    held_to = Policy.load(policy) if policy else Policy()
    known = Evidence(leak, safety, tuple(report or ()), lineage(trained_on) if trained_on else ())
    facts = judged(challenger, champion, out, policy=held_to, evidence=known).facts
    told = f"{'passed' if facts['passed'] else 'refused'}: {facts['reason']}"
    lines = [told, *facts["flags"], *facts["notes"], f"the report is in {out}"]
    typer.echo(json.dumps(facts, indent=1) if as_json else "\n".join(lines))
    if not facts["passed"]:
        raise typer.Exit(1)


def probe(
    out: Annotated[Path, typer.Option(help="folder of safety.json")] = Path("out/probes"),
    model: Annotated[Path | None, typer.Option(help="folder of a model; left out, the embedded base")] = None,
    forbid: Annotated[list[str] | None, typer.Option(help="a task that the model must not do; repeatable")] = None,
    nsfw: Annotated[Path | None, typer.Option(help="folder of a picture classifier with a harmful class")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of pictures and edits")] = 0,
    as_json: Json = False,
) -> None:
    """Probe whether a model refuses and spares what it must. A probe that failed ends with code 1."""
    from instructdiffusion.components.probe import run

    facts = run(model, out, forbidden=forbid or (), nsfw=nsfw, seed=seed).facts
    failed = [p for p in facts["probes"] if not p["passed"]]
    lines = [f"{'passed' if p['passed'] else 'FAILED':<9}{p['name']}: {p['told']}" for p in facts["probes"]]
    lines += [f"{'left out':<9}{p['name']}: {p['told']}" for p in facts["left_out"]]
    typer.echo(json.dumps(facts, indent=1) if as_json else "\n".join(lines))
    if failed:
        raise typer.Exit(1)


def table(report: Report) -> Table:
    """A benchmark's numbers; what is missing stands with its reason, a bound of fewer samples with how many."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = Table("metric", "value", "95 % interval", "floor", "bound", "n", box=SIMPLE_HEAD)
    for part, values in {"": report.values, **report.slices}.items():
        if part:
            rows.add_row(f"[dim]{part}[/]")
        for name, value in values.items():
            if value.value is None:
                rows.add_row(name, f"[dim]missing: {value.missing}[/]")
                continue
            ends = ["" if end is None else f"{end:.3f}" for end in (value.floor, value.bound)]
            ends[1] += f" (of {value.bound_n})" if value.bound_n is not None else ""
            rows.add_row(name, f"{value.value:.3f}", f"{value.low:.3f} to {value.high:.3f}", *ends, str(value.n))
    return rows


def _show(report: Report, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        typer.echo(report.model_dump_json(indent=1))
        return
    Console().print(table(report))


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal()):
        raise ConfigError(f"--part {text!r}: write it as 1/4, the first of four")
    return int(number), int(parts)
