"""The annotators' server on one machine: Label Studio in an environment of its own, on SQLite, offline.

with seaweed(folder / "store") as store, label_studio(folder / "label-studio", store.address) as server:
    settings = Settings.from_environment({**os.environ, **store.environment, **server.environment}, needs=["label"])

Its pins of Django and others suit no other program, hence the environment of its own, made by `make label-studio`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from instructdiffusion.components.process import LOOPBACK, Process, Waiting, claim_port
from instructdiffusion.components.servers import Server, served
from instructdiffusion.model.errors import DataError, ServiceError
from instructdiffusion.model.files import write_atomic

ENVIRONMENT = ".venv-label-studio"
OWNER = "owner@localhost"  # the account that is there from the start
PASSED_ON = ("PATH", "LANG", "TZ", "TMPDIR")  # it takes a stray USERNAME, PORT or DEBUG for a setting of its own
QUIET = {
    "COLLECT_ANALYTICS": "false",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
}


@contextmanager
def label_studio(directory: Path, store: str, port: int = 0, *, waiting: Waiting | None = None) -> Iterator[Server]:
    """A Label Studio server over `directory`, which keeps its database, keys and accounts between starts.

    Args:
        directory: made if missing; one server at a time. The first start fills its database, about a minute.
        store: the S3 server that holds the pictures, as http(s)://host:port; browsers need not reach it.
        port: where it listens; 0: any free one.
        waiting: told the name and the seconds waited, about once a second.

    Raises:
        ServiceError: it is not installed, the port or the folder is in use, or the server ended at start.
    """
    found = program()
    if found is None:
        raise ServiceError("Label Studio is not installed; run: make label-studio")
    port = claim_port(port, "INSTRUCTDIFFUSION_LABEL_PORT", "Label Studio")
    directory = directory.absolute()
    keys = _keys(directory / "keys.json")
    process = Process(
        "Label Studio",
        [str(found), "start", "--no-browser", "-p", str(port), "--internal-host", LOOPBACK, "--log-level", "INFO"],
        log_file=directory / "label-studio.log",
        environment=_environment(directory, store, keys),
        cwd=directory,
        lock=directory / ".lock",
    )
    address = f"http://{LOOPBACK}:{port}"
    known = {"INSTRUCTDIFFUSION_LABEL_URL": address, "INSTRUCTDIFFUSION_LABEL_TOKEN": keys["token"]}
    with served(process, address, "/health", known, waiting) as server:
        yield server


def program() -> Path | None:
    """The server's program, in `.venv-label-studio` beside our own environment or here, or on the PATH; or None."""
    beside = [Path(sys.prefix).parent, Path.cwd()]
    places = [folder / ENVIRONMENT / "bin" / "label-studio" for folder in beside]
    on_path = shutil.which("label-studio")
    return next((p for p in places if p.exists()), Path(on_path) if on_path else None)


def login(directory: Path) -> tuple[str, str]:
    """E-mail address and password of the owner's account of the server over `directory`."""
    return OWNER, _keys(directory / "keys.json")["password"]


def _environment(directory: Path, store: str, keys: Mapping[str, str]) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        **QUIET,
        "HOME": str(directory),
        "LABEL_STUDIO_BASE_DATA_DIR": str(directory / "data"),
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_USERNAME": OWNER,
        "LABEL_STUDIO_PASSWORD": keys["password"],
        "LABEL_STUDIO_USER_TOKEN": keys["token"],
        "SECRET_KEY": keys["secret_key"],  # signs sessions: another one logs everybody out
        "S3_ENDPOINT": store,  # the one private address that it may ask; named in a project, it would be refused
    }


def _keys(path: Path) -> dict[str, str]:
    """Random keys of this folder's server, made at first use, readable by us alone."""
    if path.exists():
        try:
            keys: dict[str, str] = json.loads(path.read_text())
            return {name: keys[name] for name in ("password", "token", "secret_key")}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged; restore it, or delete the whole folder {path.parent}") from error
    made = {"password": secrets.token_urlsafe(12), "token": secrets.token_hex(20), "secret_key": secrets.token_hex(32)}
    write_atomic(path, json.dumps(made, indent=1), mode=0o600)
    return made
