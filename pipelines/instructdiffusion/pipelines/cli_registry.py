"""Commands for the lead: who the champion is, and that it is served."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instructdiffusion.model.errors import ConfigError

if TYPE_CHECKING:
    from instructdiffusion.components.reconcile import Backend, Reconciler
    from instructdiffusion.components.registry import Registry
    from instructdiffusion.components.serving_local import Local
    from instructdiffusion.components.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="print one JSON document for machines")]
PORT = 3000  # of the local service


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(compare)
    app.command()(promote)
    app.command()(rollback)
    app.command()(reconcile)


def compare(
    one: Annotated[str, typer.Argument(help="number of a version in the registry")],
    other: Annotated[str, typer.Argument(help="of the version that is held against it")],
    as_json: Json = False,
) -> None:
    """Show what changed from one version to another: every task sample by sample, and its slices."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from instructdiffusion.components.versions import compare as compared

    found = compared(_registry(_settings()), one, other)
    if as_json:
        typer.echo(json.dumps([difference.model_dump(mode="json") for difference in found], indent=1))
        return
    rows = Table("measure", one, other, "change", box=SIMPLE_HEAD)
    for d in found:
        spans = (f"{s[0]:.3f} ({s[1]:.3f} to {s[2]:.3f})" if s else "[dim]missing[/]" for s in (d.one, d.other))
        change = "" if d.change is None else f"{d.change[0]:+.3f} ({d.change[1]:+.3f} to {d.change[2]:+.3f})"
        rows.add_row(d.name, *spans, change)
    Console().print(rows)


def promote(
    version: Annotated[str, typer.Argument(help="number of a version in the registry")],
    override: Annotated[
        str, typer.Option(metavar="REASON", help="promote what the gate did not let pass, and why; it is kept")
    ] = "",
    by: Annotated[str, typer.Option(metavar="NAME", help="who answers for an override")] = "",
    as_json: Json = False,
) -> None:
    """Make a registered version the champion; the one before becomes `previous`."""
    from instructdiffusion.components.registry import Override

    answered = Override(override, by) if override or by else None
    champion = _registry(_settings()).promote(version, answered)
    _show({"champion": champion.number}, f"version {champion.number} is the champion", as_json)


def rollback(as_json: Json = False) -> None:
    """Make the version before the champion again."""
    champion = _registry(_settings()).rollback()
    _show({"champion": champion.number}, f"version {champion.number} is the champion again", as_json)


def reconcile(
    once: Annotated[bool, typer.Option("--once", help="act until nothing is left to do, then end")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="go on until Ctrl-C; what is served stays up")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="end the local service and its port")] = False,
    work: Annotated[Path, typer.Option(help="local: folder of weights and Bentos")] = Path("out/work"),
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="local: where it answers, whichever version", show_default="3000"),
    ] = 0,
    name: Annotated[str, typer.Option(help="cluster: the InferenceService")] = "instructdiffusion",
    runtime: Annotated[str, typer.Option(help="cluster: the ServingRuntime")] = "instructdiffusion",
    account: Annotated[str, typer.Option("--service-account", help="cluster: of the service's pods")] = "",
    min_replicas: Annotated[int, typer.Option(min=0, help="cluster: fewest pods of a service that is made")] = 1,
    max_replicas: Annotated[int, typer.Option(min=1, help="cluster: most of them")] = 1,
    target_cpu: Annotated[int, typer.Option(min=1, help="cluster: percent of CPU use that adds one")] = 80,
    namespace: Annotated[str, typer.Option(help="cluster: left out, that of the pod or of the kubeconfig")] = "",
    canary: Annotated[int, typer.Option(min=0, max=99, help="cluster: percent a new version starts with")] = 0,
    hold: Annotated[float, typer.Option(min=0, help="cluster: minutes that it keeps that share")] = 30,
    every: Annotated[float, typer.Option(min=1, help="seconds between two looks that nobody asked for")] = 30,
    webhook_port: Annotated[int, typer.Option(min=0, max=65535, help="listen for MLflow's webhook; 0: don't")] = 0,
    webhook_host: Annotated[str, typer.Option(help="0.0.0.0: on every interface")] = "127.0.0.1",
    webhook_url: Annotated[str, typer.Option(help="address at which MLflow reaches it: the webhook is made")] = "",
    webhook_secret: Annotated[
        str, typer.Option(envvar="INSTRUCTDIFFUSION_WEBHOOK_SECRET", help="that MLflow signs with", hidden=True)
    ] = "",
    as_json: Json = False,
) -> None:
    """Make what is served equal to the alias `champion`."""
    if once + watch + stop != 1:
        raise ConfigError("say which: --once acts and ends, --watch goes on, --stop ends the local service")
    settings = _settings()
    listening = (webhook_secret, webhook_host, webhook_port, webhook_url)
    if settings.backend == "cluster":
        if stop:
            raise ConfigError(f"--stop is for the local service; use: kubectl delete inferenceservice {name}")
        if min_replicas > max_replicas:
            raise ConfigError(
                f"--min-replicas {min_replicas} is more than --max-replicas {max_replicas}; raise the latter"
            )
        scale = (min_replicas, max_replicas, target_cpu)
        cluster = _kserve(name, runtime, namespace, canary, hold, account, scale)
        _reconcile(settings, cluster, watch, every, listening, as_json)
        return
    with _local(settings, work, port or settings.serving_port or PORT).opened() as local:
        if stop:
            local.stop()
            _show({"serves": None}, "nothing is served", as_json)
        else:
            _reconcile(settings, local, watch, every, listening, as_json)


def _reconcile(
    settings: Settings,
    backend: Backend,
    watching: bool,
    every: float,
    listening: tuple[str, str, int, str],
    as_json: bool,
) -> None:
    from instructdiffusion.components.reconcile import Reconciler, watch

    reconciler = Reconciler(_registry(settings), backend)
    if not watching:
        line = reconciler.once()
        _show({**asdict(backend.served()), "state": line}, line, as_json)
        return
    wake = threading.Event()
    with _webhook(reconciler, wake, *listening), suppress(KeyboardInterrupt):  # Ctrl-C is how one ends it
        watch(reconciler, typer.echo, wake=wake, every=every)
    typer.echo("stopped; what is served stays up", err=True)


def _webhook(
    reconciler: Reconciler, wake: threading.Event, secret: str, host: str, port: int, url: str
) -> AbstractContextManager[object]:
    """What wakes the reconciler, if a port for it was given."""
    from instructdiffusion.components import webhook

    if not port:
        if url:
            raise ConfigError("--webhook-url needs a port to listen on; give --webhook-port too")
        return nullcontext()

    @contextmanager
    def listening() -> Iterator[None]:
        with webhook.receiver(secret, host, port, wake.set, reconciler.alive):
            if url:
                webhook.subscribe(reconciler.registry, url, secret)
            yield

    return listening()


def _local(settings: Settings, work: Path, port: int) -> Local:
    from instructdiffusion.components.serving_local import Local
    from instructdiffusion.components.storage import Store

    return Local(work, port, Store.open(settings), settings.registered_model)


def _kserve(
    name: str, runtime: str, namespace: str, canary: int, hold: float, account: str, scale: tuple[int, int, int]
) -> Backend:
    from datetime import timedelta

    from instructdiffusion.components.reconcile import Canary
    from instructdiffusion.components.serving_cluster import KServe, Scale

    return KServe(name, runtime, namespace, Canary(canary, timedelta(minutes=hold)), account, Scale(*scale))


def _registry(settings: Settings) -> Registry:
    from instructdiffusion.components.registry import Registry

    return Registry.open(settings)


def _settings() -> Settings:
    from instructdiffusion.components.settings import Settings

    return Settings.from_environment(needs={"tracking"})


def _show(facts: Mapping[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(facts, indent=1) if as_json else text)
