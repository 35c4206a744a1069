"""The webhook's receiver against MLflow's own deliveries, and against everyone else's."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from components.promoting_page import WEBHOOK, started
from cryptography.fernet import Fernet

from instructdiffusion.components import webhook
from instructdiffusion.components.process import LOOPBACK, Process, free_ports
from instructdiffusion.components.registry import CHAMPION, Registry
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.components.webhook import ID, SIGNATURE, TIMESTAMP, WINDOW
from instructdiffusion.model.errors import ConfigError, ServiceError

SECRET, BODY = "a secret", b'{"entity": "model_version_alias", "action": "created"}'


def signed(body: bytes = BODY, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """The headers of a delivery."""
    stamp = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), b"one." + stamp.encode() + b"." + body, hashlib.sha256).digest()
    return {ID: "one", TIMESTAMP: stamp, SIGNATURE: f"v1,{base64.b64encode(digest).decode()}"}


@contextmanager
def listening() -> Iterator[tuple[str, threading.Event]]:
    woken = threading.Event()
    with webhook.receiver(SECRET, LOOPBACK, free_ports(1)[0], woken.set) as address:
        yield address, woken


def test_a_delivery_that_was_signed_lately_wakes() -> None:
    with listening() as (address, woken):
        assert httpx.post(address, content=BODY, headers=signed()).status_code == 204
        assert woken.is_set()


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "not from MLflow"),
        (signed(secret="another"), "the same secret"),
        (signed(body=b"another"), "the same secret"),
        ({**signed(), SIGNATURE: "v1,é"}, "the same secret"),
        ({**signed(), TIMESTAMP: "soon"}, "not from MLflow"),
        (signed(at=time.time() - WINDOW - 60), "old delivery"),
        (signed(at=time.time() + 24 * 3600), "a clock that is wrong"),
    ],
)
def test_a_delivery_that_is_not_wakes_nobody_and_is_told_why(headers: dict[str, str], reason: str) -> None:
    with listening() as (address, woken):
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        answer = httpx.post(address, content=BODY, headers=raw)
        assert answer.status_code == 401
        assert reason in answer.json()["error"]
        assert SECRET not in answer.text
        assert not woken.is_set()


def test_health_is_that_of_who_is_woken() -> None:
    lives = iter([True, False])
    with webhook.receiver(SECRET, LOOPBACK, free_ports(1)[0], print, lambda: next(lives)) as address:
        assert [httpx.get(f"{address}healthz").status_code for _ in "ab"] == [200, 503]


def test_a_body_too_large_is_refused_unread() -> None:
    with listening() as (address, woken):
        body = bytes(webhook.MAX_BODY + 1)
        assert httpx.post(address, content=body, headers=signed(body)).status_code == 413
        assert not woken.is_set()


def test_a_receiver_needs_a_secret_and_a_port_that_is_free() -> None:
    with pytest.raises(ConfigError, match="INSTRUCTDIFFUSION_WEBHOOK_SECRET"), webhook.receiver("", LOOPBACK, 0, print):
        pass
    with listening() as (address, _), pytest.raises(ServiceError, match="--webhook-port"):
        webhook.receiver(SECRET, LOOPBACK, int(address.rstrip("/").rpartition(":")[2]), print).__enter__()


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server that may call addresses of this machine."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_ports(1)[0]
    own = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",  # else it remembers for a minute which webhooks there were at the last event
    }
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}", f"--artifacts-destination={folder}"]
    process = Process("mlflow", command, log_file=folder / "log", environment={**os.environ, **own}, cwd=folder)
    with process:
        process.wait_healthy(lambda: healthy(port), timeout=1800)
        yield f"http://{LOOPBACK}:{port}"


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://{LOOPBACK}:{port}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mlflow_itself_wakes_us_when_the_alias_moves(mlflow: str, name: str) -> None:
    registry, tracker = Registry(mlflow, name), Tracker(mlflow, "tests")
    run = tracker.open_run(name)
    registry.register("s3://bucket/1", digest="sha256:1", run_id=run.run_id)
    with listening() as (address, woken):
        webhook.subscribe(registry, address, "not ours")
        webhook.subscribe(registry, address, SECRET)  # again: the same webhook, with the secret of now
        assert [hook.url for hook in registry.client.list_webhooks()] == [address]
        registry.client.set_registered_model_alias(name, CHAMPION, "1")
        assert woken.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_moved_alias_wakes_a_watching_reconciler_which_tells_what_is_wrong_and_goes_on(
    mlflow: str, name: str, tmp_path: Path
) -> None:
    registry, tracker = Registry(mlflow, name), Tracker(mlflow, "tests")
    run = tracker.open_run(name)
    tags = {"gate": "passed"}
    registry.register(f"runs:/{run.run_id}/model", digest="sha256:1", run_id=run.run_id, tags=tags)
    store = {"ENDPOINT": f"{LOOPBACK}:9", "ACCESS_KEY": "none", "SECRET_KEY": "none"}
    variables = {
        "MLFLOW_TRACKING_URI": mlflow,
        "INSTRUCTDIFFUSION_REGISTERED_MODEL": name,
        "INSTRUCTDIFFUSION_WEBHOOK_SECRET": SECRET,
        **{f"INSTRUCTDIFFUSION_STORE_{key}": value for key, value in store.items()},
    }
    with started(WEBHOOK, tmp_path, variables) as watching:  # it looks of itself every ten minutes
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith("no version has the alias champion")
        registry.client.set_registered_model_alias(name, CHAMPION, "1")
        assert watching.stdout.readline().startswith("error: version 1 can't be served: its weights are at runs:/")
        watching.send_signal(signal.SIGTERM)
        assert watching.stdout.readline() == "stopped; what is served stays up\n"
        assert watching.wait(60) == 0
    assert "its weights are at" in registry.version("1").tags["serving_error"]


def test_an_mlflow_that_takes_no_such_address_is_told_with_the_variables(registry: Registry) -> None:
    with pytest.raises(ServiceError, match="MLFLOW_WEBHOOK_ALLOWED_SCHEMES"):
        webhook.subscribe(registry, f"http://{LOOPBACK}:9/", SECRET)
