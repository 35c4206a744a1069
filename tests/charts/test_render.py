"""What is rendered is valid, and what can't be right is refused in a line that names the value."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from typing import Any

import helm_python
import pytest
import yaml
from charts.rendering import CHART, PROFILES, SCENARIOS, Object, merged, objects_of, rendered, values_of

from instructdiffusion.components.trainjob import train_job

Validate = Callable[[Object], list[tuple[str, str]]]


def refusal(values: dict[str, Any]) -> str:
    """What Helm says to values that it refuses."""
    with pytest.raises(helm_python.HelmError) as refused:
        rendered(values)
    return str(refused.value)


def test_every_object_is_valid(objects: list[Object], validate: Validate) -> None:
    names = [f"{o['kind']}/{o['metadata']['name']}" for o in objects]
    assert {name: wrong for name, o in zip(names, objects, strict=True) if (wrong := validate(o))} == {}
    assert len(names) == len(set(names))


def test_every_object_of_a_built_in_kind_has_no_unknown_field(objects: list[Object]) -> None:
    checker = pytest.importorskip("kubernetes_validate")
    custom = ("trainer.kubeflow.org/", "serving.kserve.io/")
    for o in objects:
        if not o["apiVersion"].startswith(custom):
            checker.validate(o, "1.34", strict=True)


def test_all_scenarios_render_in_ten_seconds() -> None:
    start = time.process_time()
    for scenario in SCENARIOS:
        assert objects_of(values_of(scenario))
    assert time.process_time() - start < 10


def test_the_chart_passes_lint() -> None:
    found = helm_python.lint(CHART, strict=True)
    assert found["errors"] == []
    assert [m for m in found["messages"] if m["severity"] > 1] == []


def test_each_profile_has_a_scenario() -> None:
    assert {scenario.partition("-")[0] for scenario in SCENARIOS} == set(PROFILES) == {"evaluation", "production"}


def test_the_production_profile_alone_says_all_that_it_needs() -> None:
    said = refusal(PROFILES["production"])
    for value in ("store.endpoint", "store.existingSecret", "database.host", "database.existingSecret"):
        assert f"{value} is empty" in said


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"labelStudo": {"enabled": False}}, "labelStudo"),
        ({"mlflow": {"replica": 2}}, "replica"),
        ({"serving": {"canary": {"percentage": 10}}}, "percentage"),
        ({"training": {"workspace": {"readOnly": True}}}, "readOnly"),
        ({"serving": {"canary": {"percent": 100}}}, "/serving/canary/percent"),
        ({"mlflow": {"replicas": "2"}}, "/mlflow/replicas"),
        ({"store": {"bucket": "Has Spaces"}}, "/store/bucket"),
        ({"store": {"enabled": False, "endpoint": "https://s3.example.org:443"}}, "/store/endpoint"),
        ({"database": {"resources": {"limit": {}}}}, "limit"),
        ({"images": {"pullPolicy": "Sometimes"}}, "/images/pullPolicy"),
        ({"mlflow": {"image": "mlflow:latest"}}, "mlflow.image"),
        ({"images": {"tag": "latest"}}, "images.tag"),
        ({"store": {"endpoint": "s3.example.org:443"}}, "store.endpoint"),
        ({"database": {"host": "db.example.org"}}, "database.host"),
        ({"mlflow": {"url": "http://mlflow.example.org"}}, "mlflow.url"),
        ({"mlflow": {"enabled": False}}, "mlflow.url"),
        ({"labelStudio": {"enabled": False, "url": "http://labels.example.org"}}, "labelStudio.existingSecret"),
        ({"serving": {"image": "bento:1"}}, "serving.image"),
        ({"serving": {"canary": {"image": "bento:2"}}}, "serving.canary.image"),
        ({"serving": {"enabled": False}}, "reconciler.enabled"),
        ({"serving": {"minReplicas": 3}}, "serving.maxReplicas"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    assert named in refusal(merged(PROFILES["evaluation"], wrong))


def test_the_step_image_has_every_extra_that_a_step_could_miss() -> None:
    """Crawling is no step: who collects from a site asks for it by name."""
    root = CHART.parents[1]
    sources = [path for part in ("model", "components", "pipelines") for path in (root / part).rglob("*.py")]
    missed = re.compile(r"is not installed; run: pip install 'instructdiffusion\[(\w+)\]'")
    named = {extra for path in sources for extra in missed.findall(path.read_text())}
    (held,) = re.findall(r"\$\{wheel\}\[(step,[\w,]+)\]", (root / "components" / "Dockerfile").read_text())
    assert {"synthesis", "detectors", "quality"} <= named
    assert named - {"crawl"} <= {*held.split(",")}
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*held.split(",")} <= {*extras}


def test_the_chart_has_the_version_of_the_package() -> None:
    meta = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (CHART.parents[1] / "pyproject.toml").read_text()
    assert f'\nversion = "{meta["appVersion"]}"\n' in project


def test_the_training_runtime_is_the_one_that_jobs_name(evaluation: list[Object]) -> None:
    (runtime,) = [o for o in evaluation if o["kind"] == "TrainingRuntime"]
    job = train_job("a-1", ["python", "-m", "x"], nodes=1, processes_per_node=1, image="", node_selector={"zone": "a"})
    assert job["apiVersion"] == runtime["apiVersion"]
    reference = job["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == (runtime["kind"], runtime["metadata"]["name"])
    assert runtime["spec"]["mlPolicy"]["torch"] == {}
    (theirs,) = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    (ours,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    container = ours["template"]["spec"]["template"]["spec"]["containers"][0]
    assert ours["name"] == theirs["name"] == container["name"]
    assert container["command"] == job["spec"]["trainer"]["command"]
    given = {variable["name"] for variable in container["env"]}
    assert "INSTRUCTDIFFUSION_STORE_SECRET_KEY" in given  # it may read its data from the store as it goes


def test_a_training_starts_again_when_a_node_is_taken_away_and_has_time_to_save_itself(
    evaluation: list[Object],
) -> None:
    (runtime,) = [o for o in evaluation if o["kind"] == "TrainingRuntime"]
    jobs = runtime["spec"]["template"]["spec"]
    policy, job = jobs["failurePolicy"], jobs["replicatedJobs"][0]["template"]["spec"]
    (rule,), (disrupted,) = policy["rules"], job["podFailurePolicy"]["rules"]
    assert (policy["maxRestarts"], rule["action"]) == (0, "RestartJobSetAndIgnoreMaxRestarts")
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert (disrupted["action"], disrupted["onPodConditions"][0]["type"]) == ("FailJob", "DisruptionTarget")
    pod = job["template"]["spec"]
    (torchrun,) = [v["value"] for v in pod["containers"][0]["env"] if v["name"] == "PET_SHUTDOWN_TIMEOUT"]
    assert 10 <= int(torchrun) < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    ("scheduler", "name"), [("volcano", "volcano"), ("coscheduling", "scheduler-plugins-scheduler")]
)
def test_all_nodes_of_a_training_start_at_once_where_a_scheduler_can(
    scheduler: str, name: str, validate: Validate
) -> None:
    values = merged(values_of("evaluation-default"), {"training": {"scheduler": scheduler}})
    (runtime,) = [o for o in objects_of(values) if o["kind"] == "TrainingRuntime"]
    assert validate(runtime) == []
    assert runtime["spec"]["podGroupPolicy"] == {scheduler: {}}
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    assert job["template"]["spec"]["template"]["spec"]["schedulerName"] == name


def test_the_canary_gets_its_share(evaluation: list[Object]) -> None:
    released = objects_of(values_of("evaluation-release"))
    (service,) = [o for o in released if o["kind"] == "InferenceService"]
    (canary,) = service["spec"]["canary"]
    assert canary["trafficPercent"] == 20
    assert canary["predictor"]["model"]["image"] != service["spec"]["predictor"]["model"]["image"]
    assert canary["predictor"]["model"]["name"] == "kserve-container"  # by the schema; see the next line
    assert "name" not in service["spec"]["predictor"]["model"]  # KServe's webhook refuses it
    (runtime,) = [o for o in released if o["kind"] == "ServingRuntime"]
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    assert [o for o in evaluation if o["kind"] == "InferenceService"] == []


def test_notes_tell_how_to_go_on() -> None:
    notes = next(text for path, text in rendered(PROFILES["evaluation"]).items() if path.endswith("NOTES.txt"))
    assert "helm test idf --namespace ml" in notes
    assert "get secret idf-label-studio" in notes
    assert "WARNING" not in notes
    for value in ("mlflow", "database"):  # no password is ever shown
        assert f"{value}-password" not in notes


def test_notes_warn_of_a_tracker_without_a_login() -> None:
    values = merged(values_of("production-full"), {"ingress": {"annotations": None}})
    notes = next(text for path, text in rendered(values).items() if path.endswith("NOTES.txt"))
    assert "WARNING: MLflow asks for no password" in notes
