"""A training as a Kubernetes object: the TrainJob, and the TrainingRuntime it names (Kubeflow Trainer 2.3).

The container starts torchrun, which takes nodes, processes and addresses from the `PET_*` variables that the
operator sets. So the very same object runs on a cluster and, through `launcher.py`, on one machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instructdiffusion.model.errors import ConfigError

API = "trainer.kubeflow.org/v1alpha1"
RUNTIME = "instructdiffusion-torch"
NODE = "node"  # the operator's name for the job and the container of a training node
TORCHRUN = ["python", "-m", "torch.distributed.run"]
RESERVED = frozenset({"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"})
NETWORKS: Mapping[
    str, Mapping[str, str]
] = {  # how GPUs of several nodes talk: NCCL, which otherwise takes what it finds
    "": {},
    "ethernet": {"NCCL_NET": "Socket", "NCCL_SOCKET_IFNAME": "eth0"},
    "infiniband": {"NCCL_NET": "IB", "NCCL_IB_HCA": "mlx5", "NCCL_SOCKET_IFNAME": "eth0"},  # or it fails, never slowly
}
SPOT = (  # taints of nodes that may be taken away at any time; those of AWS have none
    {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
    {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
)
PACKAGE = {"app.kubernetes.io/part-of": "instructdiffusion"}


@dataclass(frozen=True)
class FromSecret:
    """The value of a variable that lies in a Secret; on one machine it is taken from our own environment."""

    secret: str
    key: str


def train_job(
    name: str,
    command: Sequence[str],
    *,
    nodes: int,
    processes_per_node: int,
    image: str,
    env: Mapping[str, str | FromSecret] | None = None,
    resources: Mapping[str, str | int] | None = None,
    runtime: str = RUNTIME,
    labels: Mapping[str, str] | None = None,
    queue: str = "",
    tolerations: Sequence[Mapping[str, Any]] = (),
    node_selector: Mapping[str, str] | None = None,
    spot: bool = False,
    network: str = "",
) -> dict[str, Any]:
    """A TrainJob that runs `command` once in every process, under torchrun.

    Args:
        name: at most 63 lower-case letters, digits and hyphens, starting with a letter.
        command: `python -m MODULE ...` or `python SCRIPT ...`, as one would start it alone.
        nodes, processes_per_node: how many of each, at least one.
        image: container image of a training node; empty: the runtime's.
        env: variables of the training process; secrets as `FromSecret`.
        resources: what one node asks for and may use: {"cpu": 8, "memory": "32Gi", "nvidia.com/gpu": 2}.
        runtime: name of the TrainingRuntime in the job's namespace.
        labels: labels of the job.
        queue: Kueue queue; empty: none, the job starts at once.
        tolerations, node_selector: of the nodes' pods, as Kubernetes writes them.
        spot: whether they may run on nodes that can be taken away at any time.
        network: a preset of NCCL: `ethernet`, `infiniband`; empty: it takes what it finds. `env` wins over it.

    Raises:
        ConfigError: a value is wrong; the message names it.
    """
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise ConfigError(f"job name {name!r}: use up to 63 lower-case letters, digits, hyphens; start with a letter")
    if nodes < 1 or processes_per_node < 1:
        raise ConfigError(f"nodes={nodes}, processes_per_node={processes_per_node}: both must be at least 1")
    if taken := RESERVED & set(env or {}):
        raise ConfigError(f"{', '.join(sorted(taken))}: the operator sets this; leave it out of the job's environment")
    if network not in NETWORKS:
        raise ConfigError(f"network={network!r}: choose {' or '.join(filter(None, NETWORKS))}, or leave it empty")
    env, tolerations = {**NETWORKS[network], **(env or {})}, [*tolerations, *(SPOT if spot else ())]
    trainer: dict[str, Any] = {
        **({"image": image} if image else {}),
        "command": list(TORCHRUN),
        "args": _after_python(command),
        "numNodes": nodes,
        "numProcPerNode": processes_per_node,
    }
    if env:
        trainer["env"] = [_variable(key, value) for key, value in sorted(env.items())]
    if resources:
        amounts = {key: str(value) for key, value in resources.items()}
        trainer["resourcesPerNode"] = {"requests": amounts, "limits": dict(amounts)}
    queued = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": API.partition("/")[0], "kind": "TrainingRuntime", "name": runtime},
        "trainer": trainer,
    }
    if queue:
        spec["suspend"] = True  # Kueue lets it start
    if placement := {k: v for k, v in (("tolerations", tolerations), ("nodeSelector", node_selector)) if v}:
        spec["runtimePatches"] = [_placed(placement)]
    metadata = {"name": name, "labels": {**PACKAGE, **(labels or {}), **queued}}
    return {"apiVersion": API, "kind": "TrainJob", "metadata": metadata, "spec": spec}


def _placed(placement: Mapping[str, Any]) -> dict[str, Any]:
    """A patch of the runtime that says where its pods run; each party that patches names itself."""
    job = {"name": NODE, "template": {"spec": {"template": {"spec": dict(placement)}}}}
    runtime = {"template": {"spec": {"replicatedJobs": [job]}}}
    return {"manager": "instructdiffusion.io/pipelines", "trainingRuntimeSpec": runtime}


def _after_python(command: Sequence[str]) -> list[str]:
    """What torchrun gets: the command without its interpreter, which torchrun adds itself.

    The two dashes keep torchrun from taking the command's options for its own: `--run` for `--run-path`.
    """
    if len(command) < 2 or not re.fullmatch(r"(.*/)?python[0-9.]*", command[0]):
        raise ConfigError(f"training command {' '.join(command)!r}: write python -m MODULE ... or python SCRIPT ...")
    rest = [str(part) for part in command[1:]]
    return ["-m", "--", *rest[1:]] if rest[0] == "-m" else ["--", *rest]


def _variable(name: str, value: str | FromSecret) -> dict[str, Any]:
    if isinstance(value, FromSecret):
        return {"name": name, "valueFrom": {"secretKeyRef": {"name": value.secret, "key": value.key}}}
    return {"name": name, "value": value}
