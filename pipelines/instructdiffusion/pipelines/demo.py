"""The demo: servers up, the whole pipeline run, the service asked once per task, a report written, servers down."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from instructdiffusion.components.process import held
from instructdiffusion.components.settings import Settings
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.weights import resolution
from instructdiffusion.pipelines import local, machine
from instructdiffusion.pipelines.answers import Answer, ask_each_task
from instructdiffusion.pipelines.parameters import FULL, QUICK, SLOWER
from instructdiffusion.pipelines.show import Steps

FOLDERS = (
    "pipeline",
    "work",
    "tracker",
    "label-studio",
    "store",
)  # what a run leaves beside its report; --fresh removes them, the one that is made first at last
LOCK = ".lock"  # held as long as a demo runs in its folder; in none of FOLDERS, so that --fresh leaves it
QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TOKENIZERS_PARALLELISM": "false",
}
RANKS = ("reference", "label-studio")  # how the demo has edits ranked: by the truth, or so through Label Studio
SCORE = ("metric", "value", "low", "high", "floor", "bound", "n")


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    out: Path
    start: Path | None = None  # model to start from; None: the embedded base
    quick: bool = False  # tiny counts: shows that everything works, not how well
    fresh: bool = False  # forget what an earlier run left
    keep: bool = False  # leave the servers up until Ctrl-C
    rank: str = "reference"  # one of RANKS
    ports: Mapping[str, int] = field(default_factory=dict)  # by the settings' field; 0: any free one


def run(order: Order, console: Console) -> dict[str, Any]:
    """Run it all; returns the content of `summary.json`.

    What an interrupted run finished is used again.

    Raises:
        InstructDiffusionError: something is missing or failed, or another demo runs in this folder; nothing of ours is
            left running.
    """
    out, began = order.out.absolute(), time.monotonic()
    ports = _ports(order.ports)
    machine.check(out, ports, options=[name for name, port in order.ports.items() if port])
    resolution(order.start)  # before anything is started: is it a model?
    timings = out / "pipeline" / "seconds.json"
    home = out / "work" / "bento"
    with ExitStack() as stack:
        stack.enter_context(held(out / LOCK, "demo"))
        if order.fresh:
            clear(out)
        steps = stack.enter_context(Steps(console, _seconds(timings)))
        peak = stack.enter_context(machine.Peak(lambda: _service(home)))
        environment, addresses = stack.enter_context(servers(out, ports, steps, order.rank))
        stack.callback(_stop_service, home)

        def tell(event: local.Event) -> None:
            steps(event)
            if event.kind == "done":
                write_atomic(timings, json.dumps(steps.seconds, indent=1))

        outputs = local.run(
            out / "pipeline", _parameters(order, ports), environment, tell, version=version(order.start)
        )
        answers = _ask(home, outputs, steps, addresses)
        summary = summarize(outputs, steps.seconds, time.monotonic() - began, peak.gib, answers)
        write(out, summary, outputs, answers)
        steps.stop()
        _conclude(console, out, summary)
        if order.keep:
            hold(console, addresses)
    return summary


def clear(out: Path) -> None:
    """Remove what a run left, and nothing else: where no store was started, no demo ran."""
    if not (out / "store" / ".lock").exists():
        return
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)


@contextmanager
def servers(
    out: Path, ports: Mapping[str, int], steps: Steps, rank: str = "reference"
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Object store, tracker and what `rank` needs, up within the block: the environment of users, and addresses."""
    from instructdiffusion.components.label_studio_server import label_studio
    from instructdiffusion.components.servers import mlflow_server, seaweed
    from instructdiffusion.components.storage import Store

    with (
        seaweed(out / "store", ports["store_port"], waiting=steps.waiting) as store,
        mlflow_server(out / "tracker", ports["tracking_port"], waiting=steps.waiting) as tracker,
        ExitStack() as more,
    ):
        steps.line("[green]✓[/] object store", store.seconds)
        steps.line("[green]✓[/] tracker", tracker.seconds)
        own = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
        environment = {**own, **QUIET, **store.environment, **tracker.environment}
        settings = Settings.from_environment(environment)
        Store.open(settings).ensure_bucket()
        addresses = {"object store": store.address, "tracker": tracker.address}
        if rank == "label-studio":
            folder, port = out / "label-studio", settings.label_port
            labels = more.enter_context(label_studio(folder, store.address, port, waiting=steps.waiting))
            steps.line("[green]✓[/] Label Studio", labels.seconds)
            environment |= labels.environment
            addresses["Label Studio"] = labels.address
        yield environment, addresses


def summarize(
    outputs: Mapping[str, Any],
    seconds: Mapping[str, float],
    total: float,
    peak_gib: float,
    answers: list[Answer],
) -> dict[str, Any]:
    """The numbers of a run: scores of the model that serves, the alignment's gain, the gate's verdict, timings."""
    scores = _document(outputs, serving(outputs))
    return {
        "tasks": {name: {key: score[key] for key in SCORE} for name, score in scores["tasks"].items()},
        "alignment": _document(outputs, "alignment"),
        "gate": gate(_document(outputs, "verdict")),
        "served": [
            {
                "task": a.task,
                "instruction": a.instruction,
                "metric": a.metric,
                "score": a.score,
                "seconds": a.seconds,
                "found": a.result,
            }
            for a in answers
        ],
        "seconds": round(total, 1),
        "peak_gib": round(peak_gib, 2),
        "versions": machine.versions(),
        "steps": [{"name": name, "seconds": took} for name, took in seconds.items()],
    }


def write(out: Path, summary: Mapping[str, Any], outputs: Mapping[str, Any], answers: list[Answer]) -> None:
    """Write `summary.json` and `report.html`."""
    from instructdiffusion.pipelines import report

    shown = Path(outputs[serving(outputs)]["path"])
    champion = _document(outputs, "champion") if outputs["champion"]["metadata"]["version"] else None
    contents = report.Contents(
        summary=summary,
        champion=champion,
        challenger=_document(outputs, "challenger"),
        sheets={task: shown / f"{task}.png" for task in summary["tasks"]},
        trainings={
            "train": _document(outputs, "training"),
            "align": _document(outputs, "alignment_training"),
            "control": _document(outputs, "control_training"),
        },
        answers=answers,
    )
    report.write(out / "report.html", contents)
    write_atomic(out / "summary.json", json.dumps(summary, indent=1))


def serving(outputs: Mapping[str, Any]) -> str:
    """Which output is the evaluation of the model that serves; the challenger's where none does."""
    there = bool(outputs["champion"]["metadata"]["version"])
    return "champion" if there and not outputs["passed"] else "challenger"


def gate(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict in a line."""
    if verdict["passed"]:
        rise = verdict["rise"]
        span = f"{rise['value']:+.3f} ({rise['low']:+.3f} to {rise['high']:+.3f})"
        return {"promoted": True, "reason": f"the alignment score rises by {span}, and no task falls"}
    return {"promoted": False, "reason": "; ".join(verdict["reasons"])}


DOCUMENTS = {
    "champion": "evaluation.json",
    "challenger": "evaluation.json",
    "alignment": "alignment.json",
    "verdict": "verdict.json",
}


def _document(outputs: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The JSON document of an artifact: the artifact itself, or a file in its folder."""
    path = Path(outputs[name]["path"])
    path = path / DOCUMENTS[name] if name in DOCUMENTS else path
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read ({error}); run the demo again with --fresh") from error
    return document


def _parameters(order: Order, ports: Mapping[str, int]) -> dict[str, Any]:
    return {
        **_counts(order.quick),
        "start": str(order.start.absolute()) if order.start else "",
        "annotator": order.rank,
        "work": str(order.out.absolute() / "work"),
        "port": ports["serving_port"],
    }


def _counts(quick: bool) -> Mapping[str, int]:
    """How much of everything: ten minutes' worth on two cores of either kind."""
    from instructdiffusion.model.device import fast_bf16

    return QUICK if quick else FULL if fast_bf16() else SLOWER


def version(start: Path | None) -> str:
    """Changes with this package's code and with the weights: a step of another version is not used again."""
    import hashlib

    import instructdiffusion

    whole = hashlib.sha256(digest_of(start).encode() if start else b"")
    for root in sorted(instructdiffusion.__path__):
        for file in sorted(p for p in Path(root).rglob("*") if p.suffix in {".py", ".safetensors", ".json"}):
            whole.update(digest_of(file).encode())
    return whole.hexdigest()[:16]


def _ports(chosen: Mapping[str, int]) -> dict[str, int]:
    settings = Settings.from_environment(needs=())
    return {name: chosen.get(name) or getattr(settings, name) for name in machine.SERVERS}


def _seconds(path: Path) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _service(home: Path) -> list[int]:
    from instructdiffusion.components.deploy import current

    deployment = current(home)
    return [deployment.pid] if deployment else []


def _ask(home: Path, outputs: Mapping[str, Any], steps: Steps, addresses: dict[str, str]) -> list[Answer]:
    """Ask the service that the pipeline deployed; nothing where no model was good enough."""
    from instructdiffusion.components.deploy import current

    deployment = current(home)
    if deployment is None:
        steps.line("[yellow]![/] no model was good enough to serve; the gate's reason is in the report")
        return []
    addresses["service"] = deployment.address
    began = time.monotonic()
    answers = list(ask_each_task(deployment.address, Path(outputs["held_out"]["path"])))
    steps.line(f"[green]✓[/] ask the service, {len(answers)} tasks", time.monotonic() - began)
    return answers


def _stop_service(home: Path) -> None:
    from instructdiffusion.components.deploy import stop

    stop(home)


def _conclude(console: Console, out: Path, summary: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table("task", "metric", "score", "95 % interval", "floor", "bound", box=None, header_style="dim")
    for name, s in summary["tasks"].items():
        numbers = (f"{s['value']:.2f}", f"{s['low']:.2f} to {s['high']:.2f}", f"{s['floor']:.2f}", f"{s['bound']:.2f}")
        table.add_row(name, s["metric"], *numbers)
    gate, gain = summary["gate"], summary["alignment"]["gain"]
    console.print(table)
    console.print(
        f"gate: {'the challenger is promoted' if gate['promoted'] else 'the champion stays'}; {gate['reason']}"
    )
    console.print(
        f"alignment over its control: {gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}) "
        f"on {summary['alignment']['n']} held-out prompts"
    )
    console.print(f"{summary['seconds']:.0f} s, {summary['peak_gib']:.1f} GiB at most\n")
    console.print(f"[bold]report[/]  {out / 'report.html'}", soft_wrap=True, highlight=False)
    console.print(
        "[bold]next[/]    instructdiffusion edit PHOTO 'Remove the red ball.' --out edited.png", highlight=False
    )
    console.print("        instructdiffusion demo --keep    leaves store, tracker and service up", highlight=False)


def hold(console: Console, addresses: Mapping[str, str]) -> None:
    """Keep the servers until Ctrl-C, which is how one asks for the end: no error."""
    for name, address in addresses.items():
        console.print(f"{name:<14}{address}", highlight=False)
    console.print("Ctrl-C stops them")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("stopping")
