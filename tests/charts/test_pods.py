"""Every pod keeps to the restricted Pod Security Standard, and everything an object refers to is there."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from charts.rendering import (
    NAMESPACE,
    SCENARIOS,
    Object,
    Workload,
    kind,
    matches,
    merged,
    named,
    objects_of,
    rendered,
    values_of,
    workloads,
)

from instructdiffusion.components.settings import NAMES, Settings
from instructdiffusion.components.webhook import SECRET

EXTERNAL_SECRETS = {  # what the scenarios say that a team brings along
    *("store-keys", "database-passwords", "label-studio-token", "vision-tls", "registry"),
    *("vision-store-keys", "vision-database-passwords", "vision-mlflow-keys", "vision-label-studio-keys"),
}
EXTERNAL_CLAIMS, EXTERNAL_ACCOUNTS = {"shared"}, {"pipeline-runner"}
NOT_THE_CHARTS = {
    *("store_port", "tracking_port", "serving_port", "label_port"),  # of servers on one machine
    *("pipelines_host", "pipelines_token"),  # of whoever submits a pipeline
    *("run_id", "records", "gpus"),  # of one run: the pipeline sets them
    "label_token",  # of steps alone: the pipeline takes it from the Secret
    "store_cache",  # of trainings alone, which take its default
}


def problems(workload: Workload) -> Iterator[str]:
    """What the restricted Pod Security Standard would object to, or the platform's own rules."""
    pod = workload.spec.get("securityContext", {})
    for host in ("hostNetwork", "hostPID", "hostIPC"):
        if workload.spec.get(host):
            yield host
    for volume in workload.spec.get("volumes", []):
        if not set(volume) - {"name"} <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"}:
            yield f"volume {volume['name']}"
    for container in workload.containers:
        own = container["securityContext"]
        either = {**pod, **own}
        if not either.get("runAsNonRoot") or either.get("runAsUser") in (None, 0):
            yield f"{container['name']} may run as root"
        if either.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{container['name']} has no seccomp profile"
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{container['name']} may gain privileges"
        if own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container['name']} keeps capabilities"
        if not own.get("readOnlyRootFilesystem") and workload.component != "serving":
            yield f"{container['name']} may write to its image"
        if not container["image"].rpartition("/")[2].count(":"):
            yield f"{container['name']} has an image without a version"
        if "limits" not in container.get("resources", {}) and workload.component != "training":  # the TrainJob's
            yield f"{container['name']} has no limits"


def test_every_pod_is_restricted(objects: list[Object]) -> None:
    assert {w.name: found for w in workloads(objects) if (found := list(problems(w)))} == {}


def test_a_pod_that_is_not_restricted_is_noticed() -> None:
    container = {"name": "c", "image": "x", "securityContext": {"allowPrivilegeEscalation": False}}
    found = list(problems(Workload("Pod/x", "any", {}, {"containers": [container], "hostPID": True})))
    assert len(found) == 7


def test_only_the_reconciler_gets_a_token_of_the_api_server(objects: list[Object]) -> None:
    own = [w for w in workloads(objects) if w.component != "serving"]  # KServe's predictor has the field instead
    with_token = {w.component for w in own if w.spec.get("automountServiceAccountToken") is not False}
    assert with_token <= {"reconciler"}
    assert all(
        o["spec"]["predictor"]["automountServiceAccountToken"] is False for o in kind(objects, "InferenceService")
    )


def test_every_selector_of_a_service_matches_a_pod_with_its_port(objects: list[Object]) -> None:
    pods = list(workloads(objects))
    for service in kind(objects, "Service"):
        behind = [pod for pod in pods if matches(service["spec"]["selector"], pod.labels)]
        assert len(behind) == 1, service["metadata"]["name"]
        ports = {p["name"] for c in behind[0].containers for p in c.get("ports", [])}
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports


def test_every_selector_of_a_workload_matches_its_own_pods_alone(objects: list[Object]) -> None:
    pods = list(workloads(objects))
    for o in [*kind(objects, "Deployment"), *kind(objects, "StatefulSet"), *kind(objects, "PodDisruptionBudget")]:
        name = f"{o['kind']}/{o['metadata']['name']}".replace("PodDisruptionBudget", "Deployment")
        assert [p.name for p in pods if matches(o["spec"]["selector"]["matchLabels"], p.labels)] == [name]


def test_every_ingress_leads_to_a_service(objects: list[Object]) -> None:
    ports = {(s["metadata"]["name"], p["name"]) for s in kind(objects, "Service") for p in s["spec"]["ports"]}
    for ingress in kind(objects, "Ingress"):
        for path in (p for rule in ingress["spec"]["rules"] for p in rule["http"]["paths"]):
            backend = path["backend"]["service"]
            assert (backend["name"], backend["port"]["name"]) in ports


def found(node: Any, key: str) -> Iterator[Any]:
    """Every value that a key has, anywhere below a node."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from found(value, key)


def test_everything_that_is_referred_to_exists_or_is_brought_along(objects: list[Object]) -> None:
    names = {k: {o["metadata"]["name"] for o in kind(objects, k)} for k in {o["kind"] for o in objects}}
    secrets = {k: set(o.get("data", {})) for o in kind(objects, "Secret") for k in [o["metadata"]["name"]]}
    for reference in found(objects, "secretKeyRef"):
        if reference["name"] in secrets:
            assert reference["key"] in secrets[reference["name"]]
        else:
            assert reference["name"] in EXTERNAL_SECRETS
    used = [*found(objects, "configMapRef"), *found(objects, "configMap")]
    assert {o["name"] for o in used} <= names.get("ConfigMap", set())
    accounts = {w.spec["serviceAccountName"] for w in workloads(objects) if "serviceAccountName" in w.spec}
    assert accounts <= names.get("ServiceAccount", set())
    claims = {c["claimName"] for c in found(objects, "persistentVolumeClaim")}
    assert claims <= names.get("PersistentVolumeClaim", set()) | EXTERNAL_CLAIMS
    assert set(found(objects, "secretName")) <= EXTERNAL_SECRETS
    attached = {s["name"] for account in kind(objects, "ServiceAccount") for s in account.get("secrets", [])}
    assert attached <= set(secrets) | EXTERNAL_SECRETS
    assert {s["name"] for listed in found(objects, "imagePullSecrets") for s in listed} <= EXTERNAL_SECRETS
    for binding in kind(objects, "RoleBinding"):
        assert binding["roleRef"]["name"] in names["Role"]
        assert {s["namespace"] for s in binding["subjects"]} == {NAMESPACE}  # whose objects alone a pod can mount
        assert {s["name"] for s in binding["subjects"]} <= names["ServiceAccount"] | EXTERNAL_ACCOUNTS


def test_no_generated_secret_is_made_beside_one_that_is_brought_along() -> None:
    assert kind(objects_of(values_of("evaluation-gitops")), "Secret") == []
    assert kind(objects_of(values_of("production-own-servers")), "Secret") == []


def test_no_secret_stands_in_plain_text(evaluation: list[Object]) -> None:
    import base64

    others = json.dumps([o for o in evaluation if o["kind"] != "Secret"])
    for secret in kind(evaluation, "Secret"):
        for value in secret["data"].values():
            assert base64.b64decode(value).decode() not in others


def given(objects: list[Object], workload: Workload) -> dict[str, str]:
    """The variables of a pod's first container; those from a Secret with a stand-in."""
    maps = {o["metadata"]["name"]: o["data"] for o in kind(objects, "ConfigMap")}
    container = workload.spec["containers"][0]
    values = {k: v for source in container.get("envFrom", []) for k, v in maps[source["configMapRef"]["name"]].items()}
    return values | {e["name"]: e.get("value", "from a Secret") for e in container.get("env", [])}


def test_our_own_pods_get_the_settings_that_the_code_reads(objects: list[Object]) -> None:
    ours = [w for w in workloads(objects) if w.component in {"reconciler", "test"}]
    assert ours
    for workload in ours:
        values = given(objects, workload)
        keyless = {"store_access_key", "store_secret_key"} if workload.component == "reconciler" else set()
        set_here = {n for n in values if n.startswith("INSTRUCTDIFFUSION_") or n in NAMES.values()}
        assert set_here <= {*NAMES.values(), SECRET}
        without_training = {"training"} if not kind(objects, "TrainingRuntime") else set()
        missing = {field for field, name in NAMES.items() if name not in values} - NOT_THE_CHARTS
        assert missing == without_training | keyless
        settings = Settings.from_environment(
            values, needs={"tracking"}
        )  # refuses what is misspelt or of the wrong form
        assert settings.store_bucket in {"instructdiffusion", "vision-artifacts"}


def test_the_reconcilers_command_is_one_that_the_command_line_takes(objects: list[Object]) -> None:
    import typer

    from instructdiffusion.pipelines import cli_registry

    app = typer.Typer()
    cli_registry.add(app)
    for pod in (w for w in workloads(objects) if w.component == "reconciler"):
        container = pod.spec["containers"][0]
        words: list[str] = [*container["command"], *container["args"]]
        program, name, flags = words[0], words[1], words[2:]
        command: Any = typer.main.get_command(app)
        taken = command.commands[name].make_context(name, flags).params
        assert (program, taken["watch"], taken["name"]) == ("instructdiffusion", True, "instructdiffusion")
        assert taken["runtime"] in {o["metadata"]["name"] for o in kind(objects, "ServingRuntime")}
        if taken["webhook_port"]:
            (service,) = (s for s in kind(objects, "Service") if matches(s["spec"]["selector"], pod.labels))
            address = f"http://{service['metadata']['name']}.ml.svc:{service['spec']['ports'][0]['port']}/"
            assert (taken["webhook_url"], taken["webhook_host"]) == (address, "0.0.0.0")


def test_the_reconciler_is_told_how_its_service_grows() -> None:
    grown = {"serving": {"minReplicas": 3, "maxReplicas": 9, "targetCpu": 55}}
    made = objects_of(merged(values_of("production-full"), grown))
    (pod,) = (w for w in workloads(made) if w.component == "reconciler")
    assert {"--min-replicas=3", "--max-replicas=9", "--target-cpu=55"} <= {*pod.spec["containers"][0]["args"]}


def test_compiled_pipelines_find_what_they_name(evaluation: list[Object]) -> None:
    from instructdiffusion.pipelines.compiling import Cluster, pod

    wanted = pod(Cluster(release="idf"), gpu=False)
    (claim,) = wanted["pvcMount"]
    for settings in wanted["configMapAsEnv"]:
        keys = {key["configMapKey"] for key in settings["keyToEnv"]}
        assert keys <= set(named(evaluation, "ConfigMap", settings["configMapName"])["data"])
        assert (NAMES["training"] in keys) == settings.get("optional", False)
    assert len(wanted["secretAsEnv"]) == 2
    for secret in wanted["secretAsEnv"]:
        keys = {key["secretKey"] for key in secret["keyToEnv"]}
        assert keys <= set(named(evaluation, "Secret", secret["secretName"])["data"])
    (node,) = (w for w in workloads(evaluation) if w.component == "training")
    mounted = {v["persistentVolumeClaim"]["claimName"]: v["name"] for v in node.spec["volumes"] if "emptyDir" not in v}
    volume = mounted[claim["constant"]]
    assert {"name": volume, "mountPath": claim["mountPath"]} in node.spec["containers"][0]["volumeMounts"]
    assert named(evaluation, "PersistentVolumeClaim", claim["constant"])


def compile_command(values: Mapping[str, Any]) -> list[str]:
    """The words of the command that Helm prints after installing."""
    notes = next(text for path, text in rendered(values).items() if path.endswith("NOTES.txt"))
    (line,) = (line for line in notes.splitlines() if line.strip().startswith("instructdiffusion compile "))
    return shlex.split(line)


@pytest.mark.parametrize("scenario", sorted({*SCENARIOS} - {"evaluation-without-kubeflow"}))
def test_pipelines_compiled_by_the_printed_command_find_what_they_name(scenario: str) -> None:
    from instructdiffusion.pipelines.compiling import Cluster, pod
    from instructdiffusion.pipelines.parameters import changed

    values = values_of(scenario)
    made = {(o["kind"], o["metadata"]["name"]) for o in objects_of(values)}
    yours = [values.get(part, {}).get("existingSecret") for part in ("store", "labelStudio")]
    made |= {("Secret", name) for name in yours if name}
    made.add(("PersistentVolumeClaim", values["training"]["workspace"].get("existingClaim", "")))
    _, _, *words = compile_command(values)
    assert words[::2] == ["--set"] * (len(words) // 2)
    cluster = changed(Cluster(), words[1::2])
    wanted = pod(cluster, gpu=False)
    named_there = [("ConfigMap", source["configMapName"]) for source in wanted["configMapAsEnv"]]
    named_there += [("Secret", source["secretName"]) for source in wanted["secretAsEnv"]]
    named_there += [("PersistentVolumeClaim", mount["constant"]) for mount in wanted["pvcMount"]]
    assert [one for one in named_there if one not in made] == []
    (check,) = (w for w in workloads(objects_of(values)) if w.name.endswith("-test-store"))
    assert cluster.image == check.containers[0]["image"]


def test_no_command_to_compile_is_printed_where_steps_would_have_no_volume() -> None:
    texts = rendered(values_of("evaluation-without-kubeflow"))
    assert "instructdiffusion compile" not in next(text for path, text in texts.items() if path.endswith("NOTES.txt"))


def test_people_are_sent_to_the_public_address_of_label_studio_and_steps_to_the_one_inside(
    evaluation: list[Object], production: list[Object]
) -> None:
    found = [
        Settings.from_environment(named(objects, "ConfigMap", "idf-settings")["data"], needs=())
        for objects in (evaluation, production)
    ]
    assert [settings.label_url for settings in found] == ["http://idf-label-studio.ml.svc:8080"] * 2
    assert [settings.label_public_url for settings in found] == ["", "https://labels.example.org"]


def test_what_the_chart_leaves_out_are_settings() -> None:
    assert set(NAMES) >= NOT_THE_CHARTS
