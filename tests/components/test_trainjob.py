"""The Kubernetes objects of a training, held against the custom resources' own schemas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from instructdiffusion.components.trainjob import FromSecret, train_job
from instructdiffusion.model.errors import ConfigError

COMMAND = ["python", "-m", "instructdiffusion.model.train_main", "--run", "run.json"]
Validate = Callable[[dict[str, Any]], list[tuple[str, str]]]


def job(**changes: Any) -> dict[str, Any]:
    """A job with every part."""
    usual: dict[str, Any] = {
        "nodes": 2,
        "processes_per_node": 4,
        "image": "registry.example/instructdiffusion-train:1.0.0",
        "env": {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "KEY": FromSecret("store", "secret-key")},
        "resources": {"cpu": 8, "memory": "32Gi", "nvidia.com/gpu": 4},
        "labels": {"stage": "adapt"},
        "queue": "gpus",
    }
    return train_job("adapt-1a2b", COMMAND, **{**usual, **changes})


def test_a_job_with_every_part_is_valid(validate: Validate) -> None:
    assert validate(job()) == []
    assert validate(job(env=None, resources=None, labels=None, queue="")) == []


def test_where_pods_run_is_a_patch_of_the_runtime(validate: Validate) -> None:
    placed = job(tolerations=[{"key": "gpu", "operator": "Exists"}], node_selector={"zone": "a"})
    assert validate(placed) == []
    assert validate(job(image="")) == []


def test_the_check_finds_what_is_wrong(validate: Validate) -> None:
    wrong = job()
    wrong["spec"]["trainer"]["numNode"] = 2
    assert validate(wrong) != []


def test_every_process_runs_the_command_under_torchrun() -> None:
    trainer = job()["spec"]["trainer"]
    assert trainer["command"] == ["python", "-m", "torch.distributed.run"]
    assert trainer["args"] == ["-m", "--", *COMMAND[2:]]
    assert "runtimePatches" not in job()["spec"]


def test_a_job_says_where_its_pods_run_only_when_asked() -> None:
    placed = job(node_selector={"zone": "a"})["spec"]["runtimePatches"][0]
    node = placed["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    assert node["name"] == "node"
    assert node["template"]["spec"]["template"]["spec"] == {"nodeSelector": {"zone": "a"}}
    assert "image" not in job(image="")["spec"]["trainer"]


def test_nodes_that_may_be_taken_away_are_tolerated_when_asked(validate: Validate) -> None:
    own = {"key": "gpu", "operator": "Exists"}
    spot = job(tolerations=[own], spot=True)
    assert validate(spot) == []
    node = spot["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    tolerated = [t["key"] for t in node["template"]["spec"]["template"]["spec"]["tolerations"]]
    assert tolerated == ["gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"]


@pytest.mark.parametrize(("network", "net"), [("", None), ("ethernet", "Socket"), ("infiniband", "IB")])
def test_a_network_is_a_preset_that_own_variables_win_over(network: str, net: str | None, validate: Validate) -> None:
    made = job(network=network, env={"NCCL_IB_HCA": "mlx5_0"})
    assert validate(made) == []
    variables = {v["name"]: v["value"] for v in made["spec"]["trainer"]["env"]}
    assert (variables.get("NCCL_NET"), variables["NCCL_IB_HCA"]) == (net, "mlx5_0")


def test_no_secret_is_written_into_a_job() -> None:
    variables = {v["name"]: v for v in job()["spec"]["trainer"]["env"]}
    assert variables["KEY"] == {
        "name": "KEY",
        "valueFrom": {"secretKeyRef": {"name": "store", "key": "secret-key"}},
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nodes": 0}, "nodes=0"),
        ({"env": {"PET_NNODES": "3"}}, "PET_NNODES"),
        ({"network": "token ring"}, "choose ethernet or infiniband"),
    ],
)
def test_wrong_values_are_refused_by_name(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        job(**changes)


@pytest.mark.parametrize("name", ["Adapt", "1st", "a" * 64, "ends-", ""])
def test_names_that_a_cluster_refuses_are_refused_here(name: str) -> None:
    with pytest.raises(ConfigError, match="job name"):
        train_job(name, COMMAND, nodes=1, processes_per_node=1, image="x:1")


def test_only_python_can_be_started_by_torchrun() -> None:
    with pytest.raises(ConfigError, match="write python -m MODULE"):
        train_job("a", ["bash", "train.sh"], nodes=1, processes_per_node=1, image="x:1")
