"""The pipelines as files for Kubeflow Pipelines 2.16 and 2.17.

Each file is made from the object that the demo runs, wrapped so that a summary is left whether the run succeeds or
fails, and dressed for the cluster: image, settings, secrets by reference, resources, retries. Nothing else differs.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from instructdiffusion.components.settings import NAMES, Training
from instructdiffusion.model.files import write_atomic
from instructdiffusion.pipelines.demo import version
from instructdiffusion.pipelines.parameters import PRESETS, choices

RUN = "metadata.labels['pipeline/runid']"  # the label that Kubeflow Pipelines gives every pod of a run
FROM_MAP = (
    "store_endpoint",
    "store_secure",
    "store_bucket",
    "tracking_uri",
    "experiment",
    "registered_model",
    "label_url",
    "label_public_url",
)
FROM_SECRET = {"AWS_ACCESS_KEY_ID": "store_access_key", "AWS_SECRET_ACCESS_KEY": "store_secret_key"}
FROM_LABEL_SECRET = {"token": "label_token"}
# Steps that run the model themselves, or the networks that paint and judge triplets.
ON_GPU = ("build", "filter", "encode", "evaluate", "propose", "probe", "measure", "gate")
GPU = "nvidia.com/gpu"


class Cluster(BaseModel):
    """What the cluster is like. Names default to those of the chart, installed as `release`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field("instructdiffusion-step:0.1.0", min_length=1, description="Image of the steps; best by digest.")
    release: str = Field("instructdiffusion", pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", description="Helm release.")
    config_map: str = Field("", description="ConfigMap with the settings; empty: the release's.")
    secret: str = Field("", description="Secret with the store's keys; empty: the release's.")
    label_secret: str = Field(
        "", description="Secret with Label Studio's token, if there is one; empty: the release's."
    )
    claim: str = Field("", description="PersistentVolumeClaim for checkpoints; empty: the release's.")
    mount: str = Field("/work", pattern="^/", description="Where steps mount it; training nodes must do so alike.")
    cpu: str = Field("2", pattern=r"^\d+(\.\d+)?m?$", description="CPU of a step.")
    memory: str = Field("8Gi", pattern=r"^\d+(\.\d+)?[KMGT]i?$", description="Memory of a step.")
    gpus: int = Field(0, ge=0, le=16, description="GPUs of a step that runs networks, but trains none.")
    tolerations: tuple[dict[str, Any], ...] = Field((), description="Taints that nodes of steps may have.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that nodes of steps must have.")
    retries: int = Field(2, ge=0, le=10, description="Times that a step that failed is tried again.")
    backend: Literal["cluster", "local"] = Field(
        "cluster", description="cluster: trainings are TrainJobs, KServe serves; local: steps do both themselves."
    )
    training: Training = Field(
        default_factory=Training, description="What the TrainJobs ask for; none told: the chart says."
    )


def compile_all(out: Path, cluster: Cluster, preset: str = "full") -> dict[str, Path]:
    """Write a file of each pipeline, from `data.yaml` to `end-to-end.yaml`; returns them by name."""
    from instructdiffusion.pipelines.catalog import PIPELINES

    return {name: write_atomic(out / f"{name}.yaml", compiled(name, cluster, preset)) for name in PIPELINES}


def compiled(name: str, cluster: Cluster, preset: str = "full") -> str:
    """The text of one pipeline's file: its definition, and what the cluster's pods need beside it."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    from instructdiffusion.pipelines.catalog import PIPELINES

    settled = {"work": cluster.mount, "port": 0}  # parameters that are no matter of the user's here
    pipeline = guarded(PIPELINES[name], name, PRESETS[preset], settled)
    spec = json_format.MessageToDict(pipeline.pipeline_spec)
    for parameter, told in spec["root"]["inputDefinitions"]["parameters"].items():
        if words := choices(parameter):
            told["literals"] = list(words)  # the pages offer them as a list; kfp's own compiler writes none
    executors = spec["deploymentSpec"]["executors"]
    for label, executor in executors.items():
        dress(executor["container"], _step(label), cluster)
    for task in tasks(spec):
        if task["componentRef"]["name"] in _made_of_one_step(spec) and cluster.retries:
            task["retryPolicy"] = {
                "maxRetryCount": cluster.retries,
                "backoffDuration": "30s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": "600s",
            }
    pods = {label: pod(cluster, gpu=_step(label) in ON_GPU and cluster.gpus > 0) for label in executors}
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": pods}}}}
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())  # both strictly: an unknown field is an error
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    text = io.StringIO()
    text.write(f"# {spec['pipelineInfo'].get('description', name)}\n# Made by: instructdiffusion compile\n")
    yaml.safe_dump_all([spec, platform], text, sort_keys=True, width=120)
    return text.getvalue()


def guarded(inner: Any, name: str, preset: Mapping[str, int], settled: Mapping[str, Any]) -> Any:
    """A pipeline that runs `inner` and then, whether it succeeded or failed, summarizes.

    It has the same parameters, with the preset's counts as defaults, but for those that are settled. No step has its
    name, for kfp, when it loads a file, takes a step of the pipeline's name for the whole. Kubeflow Pipelines lets no
    output out of what an exit handler watches, so this can't be part of `inner`.
    """
    from kfp import dsl

    from instructdiffusion.pipelines.release_steps import summarize

    known = inspect.signature(inner.pipeline_func).parameters
    shown = [p.replace(default=preset.get(p.name, p.default)) if p.annotation is int else p for p in known.values()]
    shown = [p for p in shown if p.name not in settled]
    fixed = {key: value for key, value in settled.items() if key in known}

    def whole(*values: Any) -> None:
        last = summarize(pipeline=name).set_caching_options(False)
        with dsl.ExitHandler(last, name=name):
            inner(**dict(zip((p.name for p in shown), values, strict=True)), **fixed)

    whole.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    whole.__doc__ = inner.pipeline_func.__doc__
    description = inner.pipeline_spec.pipeline_info.description
    return dsl.pipeline(whole, name=f"instructdiffusion-{name}", description=description)


def dress(container: dict[str, Any], step: str, cluster: Cluster) -> None:
    """Give a step its image, resources, settings, and a mark of the code that it runs.

    The server keys its cache by image, command and inputs, and a task's own cache key would replace all three. So the
    mark goes into the command: with other code in an image of the same tag, a finished step is not used again.
    """
    container["image"] = cluster.image
    container["command"][-1] += f"# code {_code()}\n"
    env = {"backend": cluster.backend, "records": f"{cluster.mount}/runs"}
    if cluster.training != Training():
        env["training"] = _json(cluster.training)
    on_gpu = cluster.gpus > 0 and step in ON_GPU
    if on_gpu:
        env["gpus"] = str(cluster.gpus)
    container["env"] = [{"name": NAMES[field], "value": value} for field, value in env.items()]
    container["resources"] = {
        **{f"resourceCpu{end}": cluster.cpu for end in ("Request", "Limit")},
        **{f"resourceMemory{end}": cluster.memory for end in ("Request", "Limit")},
    }
    if on_gpu:
        container["resources"]["accelerator"] = {
            "type": GPU,
            "resourceType": GPU,
            "count": str(cluster.gpus),
            "resourceCount": str(cluster.gpus),
        }


def pod(cluster: Cluster, *, gpu: bool) -> dict[str, Any]:
    """What a step's pod needs of Kubernetes, as kfp-kubernetes writes it."""
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes

    name = cluster.release
    config_map, secret = cluster.config_map or f"{name}-settings", cluster.secret or f"{name}-store"
    claim = cluster.claim or f"{name}-work"
    label_secret = cluster.label_secret or f"{name}-label-studio"
    maps = [_map(config_map, FROM_MAP)]
    if cluster.training == Training():  # else the step has it literally, which a map would stand over
        maps.append({**_map(config_map, ("training",)), "optional": True})  # there may be no trainings
    made: dict[str, Any] = {
        "configMapAsEnv": maps,
        "secretAsEnv": [
            _secret(secret, FROM_SECRET),
            {**_secret(label_secret, FROM_LABEL_SECRET), "optional": True},  # there may be no Label Studio
        ],
        "pvcMount": [{"constant": claim, "pvcNameParameter": _constant(claim), "mountPath": cluster.mount}],
        "fieldPathAsEnv": [{"name": NAMES["run_id"], "fieldPath": RUN}],
    }
    tolerations = list(cluster.tolerations)
    if gpu:  # nodes with GPUs are usually tainted so that nothing else lands there
        tolerations.append({"key": GPU, "operator": "Exists", "effect": "NoSchedule"})
    if tolerations:
        made["tolerations"] = tolerations
    if cluster.node_selector:
        made["nodeSelector"] = {"labels": cluster.node_selector}
    json_format.ParseDict(made, kubernetes.KubernetesExecutorConfig())
    return made


def tasks(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every task of a pipeline and of the pipelines in it."""
    for body in (spec["root"], *spec["components"].values()):
        yield from body.get("dag", {}).get("tasks", {}).values()


def _made_of_one_step(spec: Mapping[str, Any]) -> set[str]:
    return {name for name, body in spec["components"].items() if "executorLabel" in body}


def _step(label: str) -> str:
    """The step of an executor, whose label is numbered where there are several."""
    return label.removeprefix("exec-").rstrip("-0123456789")


def _map(name: str, fields: Sequence[str]) -> dict[str, Any]:
    keys = [{"configMapKey": NAMES[field], "envVar": NAMES[field]} for field in fields]
    return {"configMapName": name, "configMapNameParameter": _constant(name), "keyToEnv": keys}


def _secret(name: str, fields: Mapping[str, str]) -> dict[str, Any]:
    keys = [{"secretKey": key, "envVar": NAMES[field]} for key, field in fields.items()]
    return {"secretName": name, "secretNameParameter": _constant(name), "keyToEnv": keys}


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}


def _json(training: Training) -> str:
    return json.dumps(training.model_dump(mode="json", exclude_defaults=True), sort_keys=True)


@cache
def _code() -> str:
    """The code and the base that steps run."""
    return hashlib.sha256(version(None).encode()).hexdigest()[:16]
