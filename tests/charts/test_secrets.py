"""Generated credentials are made once: upgrades and a new installation find the old ones.

Helm itself installs, upgrades and removes the chart, on an API server that keeps its objects in memory.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml
from charts.rendering import CHART, NAMESPACE, PROFILES, RELEASE, Object, kind, merged
from helm_python import _native

SHARED = CHART.parents[2] / "shared"


class Cluster:
    """A namespace of the API server, and Helm connected to it."""

    def __init__(self, address: str) -> None:
        """`address` is http://host:port."""
        self.address = address
        context = {"cluster": "here", "user": "me"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": address}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": context}],
            "current-context": "here",
        }
        self.helm = helm_python.Config(
            kubeconfig_content=yaml.safe_dump(config), namespace=NAMESPACE, storage_driver="memory"
        )

    def act(self, verb: str, values: dict[str, Any]) -> None:
        """Install or upgrade; this server serves no OpenAPI document, and the wrapper can't say so."""
        options = json.dumps({"namespace": NAMESPACE, "disable_openapi_validation": True})
        chart, reference = self.helm._chart_args(CHART)
        config, context = self.helm._raw(), self.helm._context_arg(None)
        _native.call_string(f"helm_{verb}", config, context, chart, reference, RELEASE, json.dumps(values), options)

    def get(self, path: str) -> dict[str, Any]:
        """The objects of a kind, by name."""
        with urllib.request.urlopen(f"{self.address}/{path.format(namespace=NAMESPACE)}") as answer:
            return {o["metadata"]["name"]: o for o in json.load(answer)["items"]}

    def secrets(self) -> dict[str, dict[str, str]]:
        """The data of every Secret."""
        return {name: o["data"] for name, o in self.get("api/v1/namespaces/{namespace}/secrets").items()}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    script = SHARED / "tools" / "fake_apiserver.py"
    if not script.is_file():
        pytest.skip("the in-memory API server is not beside this checkout")
    pytest.importorskip("kmock")
    pytest.importorskip("kubernetes_validate")
    command = [sys.executable, str(script), "--crds", str(SHARED / "crds"), "--seconds", "500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield Cluster(server.stdout.readline().strip())
        finally:
            server.terminate()


@pytest.mark.slow
def test_credentials_survive_an_upgrade_and_a_new_installation(cluster: Cluster) -> None:
    cluster.act("install", PROFILES["evaluation"])
    first = cluster.secrets()
    assert set(first) == {f"{RELEASE}-{of}" for of in ("store", "database", "mlflow", "label-studio")}

    cluster.act("upgrade", merged(PROFILES["evaluation"], {"mlflow": {"replicas": 2}}))
    assert cluster.get("apis/apps/v1/namespaces/{namespace}/deployments")[f"{RELEASE}-mlflow"]["spec"]["replicas"] == 2
    assert cluster.secrets() == first

    cluster.helm.uninstall(RELEASE)
    assert cluster.get("apis/apps/v1/namespaces/{namespace}/deployments") == {}
    assert cluster.secrets() == first
    assert set(cluster.get("api/v1/namespaces/{namespace}/persistentvolumeclaims")) == {f"{RELEASE}-work"}

    cluster.act("install", PROFILES["evaluation"])
    assert cluster.secrets() == first


def test_every_generated_secret_is_kept_by_helm(evaluation: list[Object]) -> None:
    for secret in kind(evaluation, "Secret"):
        assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_every_generated_value_is_random_and_of_the_form_its_reader_wants(evaluation: list[Object]) -> None:
    from charts.rendering import objects_of

    again = kind(objects_of(PROFILES["evaluation"]), "Secret")
    for first, second in zip(kind(evaluation, "Secret"), again, strict=True):
        assert all(first["data"][key] != second["data"][key] for key in first["data"])
    data = {o["metadata"]["name"]: o["data"] for o in again}
    plain = {(n, k): base64.b64decode(v).decode() for n, keys in data.items() for k, v in keys.items()}
    assert len(base64.urlsafe_b64decode(plain["idf-mlflow", "webhook-encryption-key"])) == 32  # a Fernet key
    assert re.fullmatch(r"[0-9a-f]{40}", plain["idf-label-studio", "token"])
    assert all(len(value) >= 20 for value in plain.values())
