"""The cluster backend against an API server in memory, whose InferenceService the test drives as KServe would."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from components.promoting_page import CLUSTER, run
from fakes.api_server import served
from fakes.kserve import NAMESPACE, Cluster

from instructdiffusion.components.reconcile import CANARY_AT, ERROR, SERVED_AT, Canary, Reconciler, Served
from instructdiffusion.components.registry import CHAMPION, Registry, Version
from instructdiffusion.components.serving_cluster import KServe, Scale
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.model.errors import ConfigError, ServiceError

VERSION = "INSTRUCTDIFFUSION_SERVING_VERSION"
Validate = Callable[[dict[str, Any]], list[tuple[str, str]]]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """An API server on this machine that the kubeconfig names."""
    held = Cluster()
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    with served(held.answer, tmp_path, NAMESPACE):
        yield held


def version(number: str, source: str = "s3://bucket/models/x", **tags: str) -> Version:
    return Version(number=number, source=source, run_id="r", tags=tags, aliases=())


def served_by(cluster: Cluster) -> str:
    """The version that the predictor is of."""
    return version_of(cluster.spec()["predictor"])


def version_of(predictor: Mapping[str, Any]) -> str:
    (variable,) = predictor["model"]["env"]
    assert variable["name"] == VERSION
    return str(variable["value"])


def test_a_versions_weights_are_served_in_its_own_image_or_in_the_runtimes(cluster: Cluster) -> None:
    backend = KServe("edits", "runtime")
    assert backend.served() == Served()
    backend.serve(version("1", image="registry.example.org/idf:1"))
    assert cluster.service["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Standard"}
    model = cluster.spec()["predictor"]["model"]
    assert (model["image"], model["storageUri"]) == ("registry.example.org/idf:1", "s3://bucket/models/x")
    backend.serve(version("2", "s3://bucket/models/y"))
    model = cluster.spec()["predictor"]["model"]
    assert (model.get("image"), model["storageUri"], model["runtime"]) == (None, "s3://bucket/models/y", "runtime")
    backend.served()
    allowed = {("GET", "inferenceservices"), ("POST", "inferenceservices"), ("PATCH", "inferenceservices")}
    assert cluster.calls == {*allowed, ("LIST", "deployments")}  # what the chart's Role allows


def test_what_is_asked_for_is_valid_by_kserves_schema(cluster: Cluster, validate: Validate) -> None:
    backend = KServe("edits", "runtime", account="serving", canary=Canary(10))
    backend.serve(version("1", image="registry.example.org/idf:1"))
    assert validate(cluster.service) == []
    backend.give_share(version("2"))
    assert validate(cluster.service) == []


def test_weights_from_the_store_are_served_under_their_version(cluster: Cluster) -> None:
    KServe("edits", "runtime", account="serving", scale=Scale(2, 4, 70)).serve(version("3"))
    made = cluster.spec()["predictor"]
    assert served_by(cluster) == "3"
    assert (made["serviceAccountName"], made["minReplicas"], made["maxReplicas"]) == ("serving", 2, 4)
    assert (made["scaleMetric"], made["scaleTarget"]) == ("cpu", 70)


def test_what_an_operator_set_stays(cluster: Cluster) -> None:
    backend = KServe("edits", "runtime")
    backend.serve(version("1"))
    cluster.spec()["predictor"]["maxReplicas"] = 5
    backend.serve(version("2"))
    assert cluster.spec()["predictor"]["maxReplicas"] == 5


def test_a_version_is_ready_once_no_pod_of_another_is_left(cluster: Cluster) -> None:
    backend = KServe("edits", "runtime")
    backend.serve(version("1"))
    assert backend.served() == Served("1", False, why="the pods of version 1 are not all ready yet")
    cluster.ready()
    assert (backend.served().ready, backend.served().address) == (True, "http://edits.ml.example.org")
    (before,) = cluster.deployments
    backend.serve(version("2"))
    assert not backend.served().ready  # KServe has not looked at it yet
    cluster.reconcile()
    assert cluster.service["status"]["conditions"] == [{"type": "Ready", "status": "True"}]  # by the pods of version 1
    assert backend.served().version == "2"
    assert not backend.served().ready
    assert list(cluster.deployments) == [before]  # which is changed, and not ended before there is another
    cluster.ready()
    assert backend.served().ready


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},  # not looked at yet
        {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 3},  # an old pod is left
        {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1},  # a pod still loads
        {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},  # a pod is to come
        {"observedGeneration": 2},  # there are none
    ],
)
def test_a_deployment_that_is_not_done_is_not_taken_for_ready(cluster: Cluster, status: dict[str, int]) -> None:
    backend = KServe("edits", "runtime")
    backend.serve(version("1"))
    cluster.ready()
    deployment = cluster.deployments["edits-predictor"]
    deployment["metadata"]["generation"] = 2
    deployment["status"] = status
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
    cluster.refusal = answer
    with pytest.raises(error, match=line) as caught:
        KServe("edits", "runtime").served()
    assert "\n" not in str(caught.value)


def test_kserve_that_is_not_installed_is_told(cluster: Cluster) -> None:
    backend = KServe("edits", "runtime", namespace="elsewhere")  # the server knows no such path, as without the CRD
    with pytest.raises(ConfigError, match=r"is KServe 0\.20 or newer installed"):
        backend.served()


def test_a_version_with_nothing_to_serve_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match="its weights are at runs:/x/model, not in the object store"):
        KServe("edits", "runtime").prepare(version("1", source="runs:/x/model", image="registry.example.org/idf:1"))


class Driven(KServe):
    """The backend, with KServe making ready at each look what the test lets it."""

    held: Cluster
    loads = True

    def served(self) -> Served:
        if self.held.objects and self.loads:
            self.held.ready()
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
    assert served_by(cluster) == "1"
    (canary,) = cluster.spec()["canary"]
    assert (canary["trafficPercent"], version_of(canary["predictor"])) == (10, "2")
    two.tag("2", {CANARY_AT: "2026-01-01T00:00:00+00:00"})  # long ago
    assert reconciler.once() == "version 2 serves at http://edits.ml.example.org"
    assert served_by(cluster) == "2"
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
    assert served_by(cluster) == "2"
    two.rollback()
    assert reconciler.once() == "version 1 serves at http://edits.ml.example.org"
    assert served_by(cluster) == "1"
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
    assert served_by(cluster) == "1"


def test_an_alias_that_goes_back_ends_the_canary(two: Registry, driven: Driven, cluster: Cluster) -> None:
    reconciler = Reconciler(two, driven, poll=0)
    for number in "121":
        two.set_alias(CHAMPION, number)
        reconciler.once()
    assert served_by(cluster) == "1"
    assert "canary" not in cluster.spec()


def test_a_canary_is_waited_for(two: Registry, cluster: Cluster) -> None:
    backend = KServe("edits", "runtime", canary=Canary(10))
    backend.serve(version("1"))
    cluster.ready()
    backend.give_share(version("2"))
    cluster.ready(canary=False)
    found = backend.served()
    assert (found.version, found.ready, found.canary, found.canary_ready) == ("1", True, "2", False)
    assert found.why == "the pods of version 2 are not all ready yet"
    cluster.ready()
    assert backend.served().canary_ready


def test_an_alias_on_what_the_gate_refused_ends_a_trial_and_leaves_its_reason(
    two: Registry, driven: Driven, cluster: Cluster
) -> None:
    reconciler = Reconciler(two, driven, poll=0)
    for number in "12":
        two.set_alias(CHAMPION, number)
        reconciler.once()
    assert cluster.spec()["canary"]
    two.tag("2", {"gate": "refused"})
    line = reconciler.once()
    assert "give the alias to another" in line
    assert "canary" not in cluster.spec()
    assert served_by(cluster) == "1"
    assert two.version("2").tags[ERROR] == line


def test_a_version_that_does_not_load_is_told_with_the_reason(two: Registry, driven: Driven, cluster: Cluster) -> None:
    driven.canary = replace(driven.canary, percent=0)
    two.set_alias(CHAMPION, "1")
    Reconciler(two, driven, poll=0).once()
    two.set_alias(CHAMPION, "2")
    driven.loads = False
    with pytest.raises(ServiceError, match=r"version 2 can't be served: not ready after 0\.5 s: the pods of version 2"):
        Reconciler(two, driven, poll=0.05, patience=0.5).once()
    assert "not ready" in two.version("2").tags[ERROR]
