"""Package a model as a Bento, and serve it: weights in Bento's model store, code as an installed package.

    python -m instructdiffusion.serving.bento build out/model --version 3 --home out/bento
    python -m instructdiffusion.serving.bento serve instructdiffusion:3-5be1c0a9d2f4 --home out/bento

Bento keeps its stores under one home for a whole process, and reads a service's arguments once. So each build
is a process of its own, and a program that builds twice gets what it asked for both times.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from instructdiffusion.model.errors import ConfigError, DataError, InstructDiffusionError, ServiceError
from instructdiffusion.model.files import digest_of, write_atomic

log = logging.getLogger(__name__)

NAME = "instructdiffusion"
SERVICE = "instructdiffusion.serving.service:Service"
_VERSION = re.compile(r"[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?")  # what a Bento's tag allows, with room for the digest


class Receipt(BaseModel):
    """What a build made. It is written last: a Bento without its receipt was left half-made."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    tag: str  # of the Bento
    model_version: str
    weights: str  # tag in the model store; empty: the embedded base
    digest: str  # of the model's folder
    metadata: dict[str, str]


def build(model: Path | None, version: str, home: Path, metadata: Mapping[str, str] | None = None) -> str:
    """Make a Bento of a model folder (None: the embedded base); returns its tag, `NAME:VERSION-DIGEST`.

    `home` holds Bento's stores and is made where it is missing. The tag derives from the version and the
    model's content: the same call again finds what the first one made or mends what an interrupted one left.

    Raises:
        ConfigError: `version` can't be part of a tag.
        DataError: `model` is not a folder of a model.
        ServiceError: Bento's build failed; its last line says why.
    """
    if not _VERSION.fullmatch(version):
        raise ConfigError(f"version {version!r}: use up to 40 of a-z, 0-9, '.', '_', '-', as in 3 or 3-rc.1")
    if model is not None and not (model / "editor.json").is_file():
        raise DataError(f"{model} is no model: it holds no editor.json; name a folder that a training run wrote")
    digest = digest_of(model) if model else ""
    name = f"{NAME}:{version}-{digest.removeprefix('sha256:')[:12] or 'base'}"
    weights = f"{NAME}:{digest.removeprefix('sha256:')[:16]}" if model else ""
    receipt = Receipt(tag=name, model_version=version, weights=weights, digest=digest, metadata=dict(metadata or {}))
    try:
        check(name, home)
    except InstructDiffusionError:
        _run_build(receipt, model, home)
        write_atomic(_receipt_path(name, home), receipt.model_dump_json(indent=2))
    return name


def check(tag: str, home: Path) -> Receipt:
    """Make sure that the Bento `tag` is whole, down to the digest of its weights.

    Raises:
        ConfigError: there is no such Bento under `home`.
        DataError: its weights are missing or damaged.
    """
    try:
        receipt = Receipt.model_validate_json(_receipt_path(tag, home).read_bytes())
    except (OSError, ValidationError) as error:
        known = ", ".join(sorted(tags(home))) or "none"
        raise ConfigError(f"no Bento {tag} under {home} (there: {known}); package the model first") from error
    if not _entry(home, "bentos", tag).is_dir():
        raise DataError(f"the Bento {tag} is gone from {home}; package the model again")
    if receipt.weights:
        weights = _entry(home, "models", receipt.weights) / "model"
        if not weights.is_dir() or digest_of(weights) != receipt.digest:
            raise DataError(f"the weights of {tag} in {weights} are damaged; package the model again")
    return receipt


def tags(home: Path) -> list[str]:
    """The Bentos under `home` whose build came to its end."""
    return [f"{NAME}:{path.stem}" for path in (home / "built").glob("*.json")]


def serve_command(tag: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command that serves a Bento in the foreground; run it with `environment(home)`."""
    return [sys.executable, "-m", "bentoml", "serve", tag, "--host", host, "--port", str(port)]


def environment(home: Path) -> dict[str, str]:
    """This process's environment with Bento's home set, its telemetry and its colours off."""
    return {
        **os.environ,
        "BENTOML_HOME": str(home.absolute()),
        "BENTOML_DO_NOT_TRACK": "True",
        "NO_COLOR": "1",
    }


def serve(tag: str, home: Path, port: int, host: str = "127.0.0.1") -> NoReturn:
    """Become the server of a Bento: this process is replaced, so that signals reach Bento itself.

    Raises:
        ConfigError: there is no such Bento.
        DataError: its weights are damaged.
    """
    check(tag, home)
    command = serve_command(tag, port, host)
    os.execve(command[0], command, environment(home))


def _receipt_path(tag: str, home: Path) -> Path:
    return home / "built" / f"{tag.partition(':')[2]}.json"


def _entry(home: Path, store: str, tag: str) -> Path:
    return home / store / Path(*tag.split(":"))


def _run_build(receipt: Receipt, model: Path | None, home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "instructdiffusion.serving.bento", "_make", receipt.model_dump_json()]
    done = subprocess.run(
        [*command, str(model.absolute())] if model else command,
        env=environment(home) | {"TMPDIR": str(home.absolute())},  # the weights' copy then moves within one disk
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ServiceError(f"bentoml can't build {receipt.tag} under {home}: {last}")


def _make(receipt: Receipt, model: Path | None) -> None:
    """Fill the stores; runs in the build's own process, whose environment names the home."""
    import bentoml
    from bentoml.exceptions import NotFound

    for store, tag in ((bentoml.bentos, receipt.tag), (bentoml.models, receipt.weights)):
        if tag:
            with suppress(NotFound):
                store.delete(tag)  # left by a build that was interrupted, or damaged since
    if model:
        with bentoml.models.create(receipt.weights, metadata={**receipt.metadata, "digest": receipt.digest}) as entry:
            shutil.copytree(model, Path(entry.path) / "model")
    with tempfile.TemporaryDirectory() as context:  # nothing to copy: the code is the installed package
        bentoml.bentos.build(
            SERVICE,
            version=receipt.tag.partition(":")[2],
            labels=receipt.metadata,
            args={"weights": receipt.weights, "model_version": receipt.model_version},
            build_ctx=context,
        )


app = typer.Typer(add_completion=False, help="Package a model as a Bento, and serve it.")
Home = Annotated[Path, typer.Option(help="folder of Bento's stores")]


@app.command("build")
def build_command(
    model: Annotated[Path | None, typer.Argument(help="the model's folder; left out, the embedded base")] = None,
    version: Annotated[str, typer.Option(help="the model's version, as callers will see it")] = "base",
    home: Home = Path("out/bento"),
    metadata: Annotated[str, typer.Option(help="what else to keep with the model, as a JSON object")] = "{}",
) -> None:
    """Build a Bento and print its tag."""
    typer.echo(build(model, version, home, json.loads(metadata)))


@app.command("serve")
def serve_here(tag: str, home: Home = Path("out/bento"), port: int = 3000, host: str = "127.0.0.1") -> None:
    """Serve a Bento until interrupted."""
    serve(tag, home, port, host)


@app.command("_make", hidden=True)
def _make_command(receipt: str, model: Annotated[Path | None, typer.Argument()] = None) -> None:
    _make(Receipt.model_validate_json(receipt), model)


def main() -> None:
    """Run the command; an error of ours is one line on the standard error."""
    try:
        app()
    except InstructDiffusionError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
