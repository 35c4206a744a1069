"""The annotators' server as a lead starts it, once for all tests that need it; and edits to rank."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from labeling.annotating import Labels, Proposed, shell
from labeling.proposed import propose

from instructdiffusion.components.label_studio_server import login, program
from instructdiffusion.components.process import LOOPBACK, Process, free_ports
from instructdiffusion.components.servers import served

ROOT = Path(__file__).parents[2]
ACCESS = re.compile(r"^export (\w+)='(.*)'$", re.MULTILINE)
DATABASE, KEYS = Path("data/label_studio.sqlite3"), Path("keys.json")
PATIENCE = 1500  # seconds: filling a fresh database takes it one minute, and many beside a training
seeds = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test is the first here waits for the server."""
    for item in items:
        if {"labels", "behind_https"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(PATIENCE + 600))


@pytest.fixture(scope="session")
def fresh(pytestconfig: pytest.Config) -> Path:
    """A folder that keeps a fresh database for the next time, and the keys to it; `labels` fills it."""
    pins = hashlib.sha256((ROOT / "labeling" / "label-studio.txt").read_bytes()).hexdigest()
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir(f"label-studio-{pins[:12]}")


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> Iterator[Labels]:
    """Label Studio and a store, started by the command."""
    out, port = tmp_path_factory.mktemp("labels"), free_ports(1)[0]
    if (fresh / KEYS).exists():
        shutil.copytree(fresh, out / "label-studio")
    command = [sys.executable, "-m", "instructdiffusion.pipelines", "label", "serve"]
    serve = Process(
        "label serve",
        [*command, "--out", str(out), "--port", str(port)],
        log_file=out / "serve.log",
        environment=shell(COLUMNS="500"),
        cwd=ROOT,
    )
    with serve:
        serve.wait_healthy((out / "access.env").exists, timeout=PATIENCE)
        keep(out / "label-studio", fresh)
        yield Labels(out, dict(ACCESS.findall((out / "access.env").read_text())))
        os.kill(serve.pid, signal.SIGINT)  # Ctrl-C
        serve.wait_healthy(lambda: "stopped" in (out / "serve.log").read_text(), timeout=120)


def keep(server: Path, fresh: Path) -> None:
    """Copy what a server has before the first test; its keys last, so that a half copy is none."""
    if (fresh / KEYS).exists():
        return
    (fresh / DATABASE).parent.mkdir(parents=True, exist_ok=True)
    (fresh / DATABASE).unlink(missing_ok=True)
    with closing(sqlite3.connect(server / DATABASE)) as one, closing(sqlite3.connect(fresh / DATABASE)) as other:
        one.backup(other)
    shutil.copy(server / KEYS, fresh / KEYS)


@pytest.fixture(scope="session")
def behind_https(tmp_path_factory: pytest.TempPathFactory, fresh: Path) -> Iterator[Labels]:
    """A Label Studio that the chart gave a public name, as a step reaches it: over http, past the ingress; no store."""
    folder, port = tmp_path_factory.mktemp("behind") / "label-studio", free_ports(1)[0]
    if (fresh / KEYS).exists():
        shutil.copytree(fresh, folder)
    account, password = login(folder)
    token = json.loads((folder / KEYS).read_text())["token"]
    own = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_USERNAME": account,
        "LABEL_STUDIO_PASSWORD": password,
        "LABEL_STUDIO_USER_TOKEN": token,
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
    }
    process = Process(
        "Label Studio",
        [str(program()), "start", "--no-browser", "-p", str(port), "--internal-host", LOOPBACK],
        log_file=folder / "label-studio.log",
        environment={**own, **told_by_the_chart()},
        cwd=folder,
    )
    address = f"http://{LOOPBACK}:{port}"
    known = {"INSTRUCTDIFFUSION_LABEL_URL": address, "INSTRUCTDIFFUSION_LABEL_TOKEN": token}
    store = {f"INSTRUCTDIFFUSION_STORE_{name}": "nobody:9" for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")}
    with served(process, address, "/health", known, None):
        yield Labels(folder, {**known, **store})


def told_by_the_chart() -> dict[str, str]:
    """The variables that differ where Label Studio has a public name."""
    pytest.importorskip("helm_python", reason="helm-python-sdk is not installed; run: make setup")
    from charts.rendering import merged, named, objects_of, values_of

    inside = merged(values_of("production-full"), {"labelStudio": {"host": ""}})
    found = []
    for values in (values_of("production-full"), inside):
        pod = named(objects_of(values), "Deployment", "idf-label-studio")["spec"]["template"]["spec"]
        found.append({e["name"]: e["value"] for e in pod["containers"][0]["env"] if "value" in e})
    return {name: value for name, value in found[0].items() if found[1].get(name) != value}


@pytest.fixture
def proposed(tmp_path: Path) -> Proposed:
    """Candidates that no other test has, hence a round that no other test has."""
    best = propose(tmp_path, {"denoise": 3}, size=32, seed=next(seeds))
    return Proposed(tmp_path / "candidates", best)
