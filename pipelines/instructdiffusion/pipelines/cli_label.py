"""Commands for who has edits ranked by people, in Label Studio."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from instructdiffusion.components.settings import Settings
    from instructdiffusion.labeling.label_studio import State

Json = Annotated[bool, typer.Option("--json", help="print one JSON document for machines")]
Candidates = Annotated[str, typer.Argument(help="folder that `propose` made, or its address in the store (s3://...)")]
Rankings = Annotated[Path, typer.Option("--file", help="where the rankings are kept")]
FILE = Path("out/rankings.jsonl")
COPIES = Path("out/candidates")  # of what lies in the store
ACCESS = "access.env"
PORT = 8080


def add(app: typer.Typer) -> None:
    """Add the commands."""
    label = typer.Typer(help="Have people rank edits in Label Studio.", no_args_is_help=True)
    for command in (serve, open_round, status, invite, collect, close):
        label.command(command.__name__.removesuffix("_round"))(command)
    app.add_typer(label, name="label")


def serve(
    out: Annotated[Path, typer.Option(help="folder of the server's data, and of the store's")] = Path("out/labels"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="where it listens", show_default="8080")] = 0,
) -> None:
    """Run Label Studio on this machine until Ctrl-C, with an object store unless one is set."""
    from contextlib import ExitStack, suppress

    from rich.console import Console

    from instructdiffusion.components import label_studio_server
    from instructdiffusion.components.servers import seaweed
    from instructdiffusion.components.settings import Settings
    from instructdiffusion.components.storage import Store

    settings, console = Settings.from_environment(needs=()), Console()
    with ExitStack() as stack, suppress(KeyboardInterrupt):  # Ctrl-C is how one ends it
        waiting = stack.enter_context(console.status("starting Label Studio; the first time takes a minute"))
        given: Mapping[str, str] = {}
        if not settings.store_endpoint:
            given = stack.enter_context(seaweed(out / "store", settings.store_port)).environment
            settings = Settings.from_environment({**os.environ, **given}, needs=())
        Store.open(settings).ensure_bucket()
        store = f"http{'s' if settings.store_secure else ''}://{settings.store_endpoint}"
        listens = port or settings.label_port or PORT
        server = stack.enter_context(label_studio_server.label_studio(out / "label-studio", store, listens))
        waiting.stop()
        account, password = label_studio_server.login(out / "label-studio")
        access = _access(out / ACCESS, {**given, **server.environment}, account, password)
        console.print(f"Label Studio answers at {server.address}", highlight=False)
        console.print(f"log in as {account}; the password is in {access}", highlight=False)
        console.print(f"in another terminal: . {access} && instructdiffusion label open CANDIDATES", highlight=False)
        console.print("Ctrl-C stops it; what was ranked is kept")
        threading.Event().wait()
    console.print("stopped")


def open_round(
    candidates: Candidates,
    annotators: Annotated[int, typer.Option(min=1, max=20, help="whose answers each prompt waits for")] = 2,
    as_json: Json = False,
) -> None:
    """Put edits before the annotators; what is there already is not put there twice."""
    from instructdiffusion.components import label_round

    settings = _settings()
    state = label_round.open_round(_folder(candidates, settings), settings, annotators)
    _show(state, as_json)


def status(candidates: Candidates, as_json: Json = False) -> None:
    """Tell how far the annotators are."""
    from instructdiffusion.components import label_round

    settings = _settings()
    _show(label_round.status_of_round(_folder(candidates, settings), settings), as_json)


def invite(as_json: Json = False) -> None:
    """Print the link with which people make an account."""
    from instructdiffusion.components import label_round

    rounds = label_round.rounds(_settings())
    link = rounds.public + rounds.invitation()
    typer.echo(json.dumps({"link": link}) if as_json else link)


def collect(candidates: Candidates, file: Rankings = FILE, as_json: Json = False) -> None:
    """Fetch all that was answered so far; again at any time, and nothing comes twice."""
    from instructdiffusion.components import label_round

    settings = _settings()
    _show(label_round.collect_round(_folder(candidates, settings), file, settings), as_json, file)


def close(candidates: Candidates, file: Rankings = FILE, as_json: Json = False) -> None:
    """Wait for no more answers, and fetch those that are there."""
    from instructdiffusion.components import label_round

    settings = _settings()
    _show(label_round.close_round(_folder(candidates, settings), file, settings), as_json, file)


def _settings() -> Settings:
    from instructdiffusion.components.settings import Settings

    return Settings.from_environment(needs={"store", "label"})


def _folder(candidates: str, settings: Settings) -> Path:
    """The folder of the candidates; those in the store are fetched."""
    if not candidates.startswith("s3://"):
        return Path(candidates)
    from instructdiffusion.components.storage import Store

    return Store.open(settings).get_directory(candidates, COPIES / candidates.rstrip("/").rpartition("/")[2])


def _access(path: Path, variables: Mapping[str, str], account: str, password: str) -> Path:
    """A file for the shell, readable by us alone, so that no secret has to be shown."""
    from instructdiffusion.model.files import write_atomic

    lines = [f"# {account} logs in with {password}", *(f"export {n}='{v}'" for n, v in sorted(variables.items()))]
    return write_atomic(path, "\n".join(lines) + "\n", mode=0o600)


def _show(state: State, as_json: bool, file: Path | None = None) -> None:
    if as_json:
        facts: dict[str, Any] = {**asdict(state), "rankings": len(state.rankings), "finished": state.finished}
        typer.echo(json.dumps(facts if file is None else {**facts, "file": str(file)}, indent=1))
        return
    done = f"{state.done} of {state.prompts} prompts have {state.wanted} answers"
    typer.echo(f"round {state.id}{', closed' if state.closed else ''}: {done}, {len(state.rankings)} rankings in all")
    for fault in state.faults:
        typer.echo(f"! {fault}")
    if file is not None:
        typer.echo(f"the rankings are in {file}")
    elif not state.closed:
        typer.echo("\n".join(f"rank at {address}" for address in state.addresses))
