"""Commands for people who run the pipelines on Kubeflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from instructdiffusion.model.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="print one JSON document for machines")]
Folder = Path("out/pipelines")


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("compile")(compile_pipelines)
    app.command()(submit)


def compile_pipelines(
    output: Annotated[Path, typer.Option(help="folder of the files")] = Folder,
    preset: Annotated[str, typer.Option(help="whose counts are the defaults: quick, full or large")] = "full",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="what the cluster is like, as in training.nodes=2; repeatable"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the pipelines for Kubeflow Pipelines: data, train, align, release, benchmark, end-to-end."""
    from instructdiffusion.pipelines.compiling import Cluster, compile_all
    from instructdiffusion.pipelines.parameters import PRESETS, changed

    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r}: choose from {', '.join(PRESETS)}")
    files = compile_all(output, changed(Cluster(), settings or []), preset)
    _show({name: str(path) for name, path in files.items()}, "\n".join(map(str, files.values())), as_json)


def submit(
    name: Annotated[str, typer.Argument(help="data, train, align, release, benchmark or end-to-end")],
    host: Annotated[
        str, typer.Option(help="http(s)://host:port of Kubeflow Pipelines", envvar="INSTRUCTDIFFUSION_PIPELINES_HOST")
    ] = "",
    compiled: Annotated[Path, typer.Option(help="folder that `compile` wrote")] = Folder,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="a parameter, as in train_steps=100; repeatable")
    ] = None,
    experiment: Annotated[str, typer.Option(help="of the run, on the server")] = "instructdiffusion",
    namespace: Annotated[str, typer.Option(help="of a user, on a server that many share")] = "",
    service_account: Annotated[str, typer.Option(help="that the steps run under")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="use nothing that was finished before")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check and show what would be run, send nothing")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="follow the run to its end")] = False,
    as_json: Json = False,
) -> None:
    """Run a compiled pipeline on a server of Kubeflow Pipelines."""
    from instructdiffusion.components.settings import Settings
    from instructdiffusion.pipelines import submitting
    from instructdiffusion.pipelines.parameters import pairs

    wanted = submitting.order(name, compiled, pairs(settings or []))
    at = Settings.from_environment(needs=())
    host = host or at.pipelines_host
    facts: dict[str, Any] = {"pipeline": name, "host": host, "parameters": {**wanted.defaults, **wanted.arguments}}
    if dry_run:
        _show({**facts, "images": wanted.images}, _shown(facts, wanted.images), as_json)
        return
    if not host.startswith(("http://", "https://")):
        raise ConfigError(f"--host {host!r}: write the address of Kubeflow Pipelines, as in http://127.0.0.1:8080")
    server = submitting.Server(host, at.pipelines_token.get_secret_value(), namespace)
    run = server.submit(wanted, experiment=experiment, account=service_account, fresh=fresh)
    address = server.address(run)
    typer.echo(f"{name} runs: {address}", err=as_json)
    if watch:
        try:
            facts["state"] = server.watch(run, lambda step, state: typer.echo(f"{step or name}: {state}", err=as_json))
        except KeyboardInterrupt:
            typer.echo(f"no longer watched; the run goes on: {address}", err=True)
            raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps({**facts, "run": run, "address": address}, indent=1))


def _shown(facts: dict[str, Any], images: tuple[str, ...]) -> str:
    rows = [f"{name:<16} {value}" for name, value in facts["parameters"].items()]
    return "\n".join([f"{facts['pipeline']} would run with", *rows, f"{'image':<16} {', '.join(images)}"])


def _show(facts: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(facts, indent=1) if as_json else text)
