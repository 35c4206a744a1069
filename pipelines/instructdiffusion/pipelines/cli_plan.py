"""`instructdiffusion train plan`: what a training will take, before it is started."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.startup import ADAPTERS, UNUSED, hidden

if TYPE_CHECKING:
    from instructdiffusion.model.config import Run
    from instructdiffusion.model.planner import Plan

GIB = 2**30


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train plan")(plan)


def plan(
    recipe: Annotated[str, typer.Argument(help="name of a recipe; `instructdiffusion recipes` lists them")],
    model: Annotated[
        Path | None,
        typer.Option(help="folder of the model to train; left out, the embedded base, or SD 1.5 for larger pictures"),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="change a setting, as in optim.zero_stage=2; repeatable")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="of all machines together; one a GPU")] = 1,
    gpu: Annotated[str, typer.Option(help="kind of GPU, as H100; left out, on CPUs as of this machine")] = "",
    rate: Annotated[
        float | None, typer.Option(min=1e-6, help="triplets a second of a process, where it was measured")
    ] = None,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="of what a GPU computes at most, if not")] = 0.3,
    price: Annotated[float | None, typer.Option(min=0, help="of a process's hour, in whatever money")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document for machines")] = False,
) -> None:
    """Tell the memory of each process part by part, and the hours and the cost of a training."""
    from instructdiffusion.model.config import override
    from instructdiffusion.model.recipes import recipe as recipe_named

    run = override(recipe_named(recipe), settings or [])
    planned, kind = _planned(run, model, processes, gpu)
    assumed = share if kind and not rate else None
    rate = rate or (share * kind.tflops * 1e12 / planned.flops if kind else None)
    facts: dict[str, Any] = {
        "processes": processes,
        "gpu": gpu,
        "device": dict(planned.device) if kind else {},
        "host": dict(planned.host) if kind else {**planned.host, **planned.device},
        "device_bytes": sum(planned.device.values()) if kind else 0,
        "host_bytes": sum(planned.host.values()) if kind else planned.alone,
        "learning": planned.learning,
        "flops": planned.flops,
        "triplets": planned.triplets,
    }
    if kind:
        facts["fits"] = facts["device_bytes"] < kind.memory * GIB
    if rate:
        facts |= {"hours": planned.hours(rate), "share": assumed}
        if price is not None:
            facts["cost"] = facts["hours"] * processes * price
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
    else:
        _show(facts, kind.memory if kind else 0)


def _planned(run: Run, model: Path | None, processes: int, gpu: str) -> tuple[Plan, Any]:
    """The plan, and the kind of GPU; None: CPUs."""
    with hidden(*UNUSED, *(() if run.lora.rank else ADAPTERS)):  # as a training does
        from instructdiffusion.model import engine, planner, speed
    from instructdiffusion.model.weights import BASE, resolution

    if gpu and gpu not in planner.GPUS:
        raise ConfigError(f"--gpu {gpu}: not known; choose one of {', '.join(planner.GPUS)}, or give --rate")
    kind = planner.GPUS.get(gpu)
    if model is None and run.network.size <= resolution(None):
        model = BASE
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it looks for a GPU, and says so on our output
    engine.load()
    shapes = planner.shapes_of(model, run.network.size)
    way = planner.way_on(kind, run.optim) if kind else speed.ways(run.optim, shapes.cells**2)[0]
    return planner.plan(run, shapes, processes, way, libraries=_libraries()), kind


def _libraries() -> int:
    """Bytes that this process takes now, when it has imported what a training imports."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _show(facts: dict[str, Any], memory: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("of each process", "GiB of its GPU" if memory else "", "GiB of the machine")
    for name, size in facts["device"].items():
        table.add_row(name, f"{size / GIB:.2f}", "")
    for name, size in facts["host"].items():
        table.add_row(name, "", f"{size / GIB:.2f}")
    device = f"{facts['device_bytes'] / GIB:.2f}" if memory else ""
    table.add_row("at its fullest", device, f"{facts['host_bytes'] / GIB:.2f}", style="bold")
    console = Console()
    console.print(table)
    if memory and not facts["fits"]:
        console.print(
            f"this does not fit in {memory} GiB: lower optim.micro_batch, set optim.gradient_checkpointing=true, "
            "or share out more with optim.zero_stage and optim.offload"
        )
    work = f"{facts['learning'] / 1e6:.1f} M numbers learn, {facts['flops'] / 1e9:.1f} Gflop a triplet"
    console.print(f"{work}, {facts['triplets']} triplets", highlight=False)
    if "hours" not in facts:
        console.print("give --gpu, or a measured --rate, to be told the hours")
        return
    cost = f", {facts['cost']:.2f} at that price" if "cost" in facts else ""
    told = f"{facts['hours']:.1f} hours on {facts['processes']} processes{cost}"
    if facts["share"]:
        told += f", if {facts['share']:g} of what the GPU computes at most is reached; a measured --rate would tell"
    console.print(told, highlight=False)
