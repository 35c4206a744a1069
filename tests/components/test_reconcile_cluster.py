"""The cluster backend against an API server in memory, whose InferenceService the test drives as KServe would."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from components.promoting_page import CLUSTER, run

from instructdiffusion.components.reconcile import CANARY_AT, ERROR, SERVED_AT, Canary, Reconciler, Served
from instructdiffusion.components.registry import CHAMPION, Registry, Version
from instructdiffusion.components.serving_cluster import KServe, Scale
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.model.errors import ConfigError, ServiceError

PATH = re.compile(r"/apis/serving\.kserve\.io/v1beta1/namespaces/ml/inferenceservices(?:/(?P<name>[^/?]+))?")


class Cluster:
    """What the API server holds; `answer` makes it fail."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.answer: tuple[int, str] | None = None
        self.verbs: set[str] = set()

    @property
    def service(self) -> dict[str, Any]:
        return self.objects["edits"]

    def spec(self) -> dict[str, Any]:
        return dict(self.service["spec"])

    def ready(self, canary: bool | None = None, **status: Any) -> None:
        """Do what KServe does once all pods are ready."""
        self.service["status"] = {
            "observedGeneration": self.service["metadata"]["generation"],
            "conditions": [{"type": "Ready", "status": "True"}],
            "url": "http://edits.ml.example.org",
            **status,
        }
        if canary is not None:
            percent, name = self.spec()["canary"][0]["trafficPercent"], self.spec()["canary"][0]["predictor"]["name"]
            self.service["status"]["canaryStatuses"] = [{"name": name, "ready": canary, "trafficPercent": percent}]

    def call(self, verb: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.verbs.add(verb)
        found = PATH.fullmatch(path.partition("?")[0])
        if self.answer:
            return failure(*self.answer)
        if found is None:
            return 404, {}
        name = found["name"] or body["metadata"]["name"]
        if verb == "POST":
            if name in self.objects:
                return failure(409, "already exists")
            self.objects[name] = {**body, "metadata": {**body["metadata"], "generation": 1}}
        elif name not in self.objects:
            return failure(404, f'inferenceservices "{name}" not found')
        elif verb == "PATCH":
            before = json.dumps(self.objects[name]["spec"])
            self.objects[name] = merged(self.objects[name], body)
            self.objects[name]["metadata"]["generation"] += before != json.dumps(self.objects[name]["spec"])
        return 200, self.objects[name]


def failure(code: int, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "status": "Failure", "code": code, "message": message}


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386, as the API server does."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """An API server on this machine that the kubeconfig names."""
    held = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, answer = held.call(self.command, self.path, json.loads(text or b"{}"))
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    yield held
    server.shutdown()
    server.server_close()


def version(number: str, source: str = "s3://bucket/models/x", **tags: str) -> Version:
    return Version(number=number, source=source, run_id="r", tags=tags, aliases=())


def model_of(predictor: Mapping[str, Any]) -> dict[str, Any]:
    return {key: predictor["model"].get(key) for key in ("image", "storageUri")}


def test_a_version_is_served_by_its_image_or_by_its_weights(cluster: Cluster) -> None:
    backend = KServe("edits", "runtime")
    assert backend.served() == Served()
    backend.serve(version("1", image="registry.example.org/idf:1"))
    assert cluster.service["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}
    assert cluster.spec()["predictor"]["name"] == "v1"
    assert model_of(cluster.spec()["predictor"]) == {"image": "registry.example.org/idf:1", "storageUri": None}
    backend.serve(version("2"))
    assert model_of(cluster.spec()["predictor"]) == {"image": None, "storageUri": "s3://bucket/models/x"}
    assert cluster.spec()["predictor"]["model"]["runtime"] == "runtime"
    assert cluster.verbs == {"GET", "POST", "PATCH"}  # what the chart's Role allows


def test_weights_from_the_store_are_served_under_their_version(cluster: Cluster) -> None:
    KServe("edits", "runtime", account="serving", scale=Scale(2, 4, 70)).serve(version("3"))
    made = cluster.spec()["predictor"]
    assert made["model"]["env"] == [{"name": "INSTRUCTDIFFUSION_SERVING_VERSION", "value": "3"}]
    assert (made["serviceAccountName"], made["minReplicas"], made["maxReplicas"]) == ("serving", 2, 4)
    assert (made["scaleMetric"], made["scaleTarget"]) == ("cpu", 70)


def test_what_an_operator_set_stays(cluster: Cluster) -> None:
    backend = KServe("edits", "runtime")
    backend.serve(version("1"))
    cluster.spec()["predictor"]["maxReplicas"] = 5
    backend.serve(version("2"))
    assert cluster.spec()["predictor"]["maxReplicas"] == 5


def test_ready_counts_only_for_what_kserve_has_seen(cluster: Cluster) -> None:
    backend = KServe("edits", "runtime")
    backend.serve(version("1"))
    assert backend.served() == Served("1", False, why="KServe has not looked at it yet")
    cluster.ready()
    assert backend.served() == Served("1", True, address="http://edits.ml.example.org")
    backend.serve(version("2"))  # the status is that of version 1 still
    assert not backend.served().ready


def test_why_a_version_is_not_ready_is_told_in_one_line(cluster: Cluster) -> None:
    backend = KServe("edits", "runtime")
    backend.serve(version("1"))
    info = {"reason": "ModelLoadFailed", "message": "no\nsuch bucket"}
    waiting = {"type": "PredictorReady", "status": "False", "reason": "MinimumReplicasUnavailable"}
    cluster.ready(
        conditions=[waiting], modelStatus={"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": info}
    )
    assert backend.served().why == (
        "ModelLoadFailed: no such bucket; PredictorReady is False (MinimumReplicasUnavailable)"
    )


@pytest.mark.parametrize(
    ("answer", "error", "line"),
    [
        ((403, "forbidden"), ServiceError, "chart's ServiceAccount"),
        ((422, "spec.predictor: bad"), ConfigError, "refuses to .* spec.predictor: bad"),
        ((503, "overloaded"), ServiceError, "overloaded"),
    ],
)
def test_a_cluster_that_refuses_is_one_line_with_the_fix(
    cluster: Cluster, answer: tuple[int, str], error: type[Exception], line: str
) -> None:
    cluster.answer = answer
    with pytest.raises(error, match=line) as caught:
        KServe("edits", "runtime").served()
    assert "\n" not in str(caught.value)


def test_kserve_that_is_not_installed_is_told(cluster: Cluster) -> None:
    backend = KServe("edits", "runtime", namespace="elsewhere")  # the server knows no such path, as without the CRD
    with pytest.raises(ConfigError, match=r"is KServe 0\.20 or newer installed"):
        backend.served()


def test_a_version_with_nothing_to_serve_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="it has no tag image, and its weights are at runs:/x/model"):
        KServe("edits", "runtime").prepare(version("1", source="runs:/x/model"))


class Driven(KServe):
    """The backend, with KServe making ready at each look what the test lets it."""

    held: Cluster
    loads = True

    def served(self) -> Served:
        if self.held.objects and self.loads:
            self.held.ready(canary=True if self.held.spec().get("canary") else None)
        return super().served()


@pytest.fixture
def driven(cluster: Cluster) -> Driven:
    backend = Driven("edits", "runtime", canary=Canary(10, timedelta(minutes=30)))
    backend.held = cluster
    return backend


@pytest.fixture
def two(registry: Registry, tracker: Tracker, name: str) -> Registry:
    run = tracker.open_run(name)
    for number in "12":
        tags = {"gate": "passed"}
        registry.register(f"s3://bucket/{number}", digest=f"sha256:{number}", run_id=run.run_id, tags=tags)
    return registry


def test_a_new_version_starts_with_a_share_and_takes_over_after_its_time(
    two: Registry, driven: Driven, cluster: Cluster
) -> None:
    reconciler = Reconciler(two, driven, poll=0)
    two.set_alias(CHAMPION, "1")
    assert reconciler.once() == "version 1 serves at http://edits.ml.example.org"  # nobody to share with
    two.set_alias(CHAMPION, "2")
    assert reconciler.once().startswith("version 2 gets 10 % of the traffic until ")
    assert cluster.spec()["predictor"]["name"] == "v1"
    (canary,) = cluster.spec()["canary"]
    assert (canary["trafficPercent"], canary["predictor"]["name"]) == (10, "v2")
    two.tag("2", {CANARY_AT: "2026-01-01T00:00:00+00:00"})  # long ago
    assert reconciler.once() == "version 2 serves at http://edits.ml.example.org"
    assert cluster.spec()["predictor"]["name"] == "v2"
    assert "canary" not in cluster.spec()
    assert SERVED_AT in two.version("2").tags
    assert CANARY_AT not in two.version("2").tags


def test_a_rollback_takes_the_traffic_back_at_once(two: Registry, driven: Driven, cluster: Cluster) -> None:
    reconciler = Reconciler(two, driven, poll=0)
    for number in "12":
        two.promote(number)
        reconciler.once()
        two.tag(number, {CANARY_AT: "2026-01-01T00:00:00+00:00"})
    reconciler.once()
    assert cluster.spec()["predictor"]["name"] == "v2"
    two.rollback()
    assert reconciler.once() == "version 1 serves at http://edits.ml.example.org"
    assert cluster.spec()["predictor"]["name"] == "v1"
    assert "canary" not in cluster.spec()


def test_the_command_of_the_page_gives_the_champion_to_kserve(two: Registry, cluster: Cluster, tmp_path: Path) -> None:
    two.set_alias(CHAMPION, "1")
    over = threading.Event()

    def kserve() -> None:
        while not over.wait(0.1):
            if cluster.objects:
                cluster.ready()

    thread = threading.Thread(target=kserve)
    thread.start()
    variables = {
        "INSTRUCTDIFFUSION_BACKEND": "cluster",
        "INSTRUCTDIFFUSION_REGISTERED_MODEL": two.model,
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "MLFLOW_TRACKING_URI": two.uri,
    }
    ended = run(CLUSTER, tmp_path, variables)
    over.set()
    thread.join()
    assert (ended.returncode, ended.stdout) == (0, "version 1 serves at http://edits.ml.example.org\n"), ended.stderr
    assert cluster.spec()["predictor"]["name"] == "v1"


def test_an_alias_that_goes_back_ends_the_canary(two: Registry, driven: Driven, cluster: Cluster) -> None:
    reconciler = Reconciler(two, driven, poll=0)
    for number in "121":
        two.set_alias(CHAMPION, number)
        reconciler.once()
    assert cluster.spec()["predictor"]["name"] == "v1"
    assert "canary" not in cluster.spec()


def test_a_version_that_does_not_load_is_told_with_the_reason(two: Registry, driven: Driven, cluster: Cluster) -> None:
    driven.canary = replace(driven.canary, percent=0)
    two.set_alias(CHAMPION, "1")
    Reconciler(two, driven, poll=0).once()
    two.set_alias(CHAMPION, "2")
    driven.loads = False
    with pytest.raises(ServiceError, match=r"version 2 can't be served: not ready after 0\.5 s: KServe has not looked"):
        Reconciler(two, driven, poll=0.05, patience=0.5).once()
    assert "not ready" in two.version("2").tags[ERROR]
