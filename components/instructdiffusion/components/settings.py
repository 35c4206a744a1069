"""Addresses, ports and credentials: read once from the environment, never from a recipe.

The chart's ConfigMap and Secret set the same names: a step reads its settings alike on a laptop and in a pod.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from instructdiffusion.model.errors import ConfigError

PREFIX = "INSTRUCTDIFFUSION_"
STANDARD = {"tracking_uri": "MLFLOW_TRACKING_URI"}  # a name MLflow's own tools read too
Need = Literal["store", "tracking", "label"]
NEEDED: dict[Need, tuple[str, ...]] = {
    "store": ("store_endpoint", "store_access_key", "store_secret_key"),
    "tracking": ("tracking_uri",),
    "label": ("label_url", "label_token"),
}


class Training(BaseModel):
    """What a training on a cluster asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field("", description="Image of a training node; empty: the runtime's.")
    runtime: str = Field("instructdiffusion-torch", min_length=1, description="TrainingRuntime that the job names.")
    nodes: int = Field(1, ge=1, le=1024, description="Nodes, each a pod.")
    processes: int = Field(2, ge=1, le=64, description="Processes on each node: one per GPU.")
    settings: tuple[str, ...] = Field(
        (), description='Changes of every recipe, for what suits the nodes, as ["optim.micro_batch=8"].'
    )
    resources: dict[str, str] = Field(
        default_factory=dict,
        description='What a node asks for, as {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"}.',
    )
    tolerations: tuple[dict[str, Any], ...] = Field((), description="Taints that nodes may have, as in a pod.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that nodes must have.")
    spot: bool = Field(False, description="Whether nodes may be taken away at any time: spot prices, for restarts.")
    network: Literal["", "ethernet", "infiniband"] = Field(
        "", description="How GPUs of several nodes talk; empty: NCCL takes what it finds."
    )
    queue: str = Field("", description="Kueue queue; empty: the job starts at once.")
    namespace: str = Field("", description="Namespace of the job; empty: that of the step's pod.")
    stream: bool = Field(
        False, description="Whether nodes read data from the object store as they go, instead of a copy on the volume."
    )
    launches: int = Field(
        3, ge=1, description="Launches of a training whose processes are killed, without a checkpoint between them."
    )
    checkpoints: int = Field(0, ge=0, description="Newest checkpoints kept in the object store; 0: none is sent there.")
    checkpoints_every: int = Field(
        0, ge=0, description="Steps between checkpoints that are kept there for good besides; 0: none."
    )


class Settings(BaseModel):
    """Where the services are. Field `x` is the variable `INSTRUCTDIFFUSION_X`, `tracking_uri` MLflow's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store_endpoint: str = Field("", description="Object store, as host:port without a scheme; empty: none.")
    store_access_key: str = Field("", description="Access key of the object store; a name, not a secret.")
    store_secret_key: SecretStr = Field(SecretStr(""), description="Secret key of the object store.")
    store_bucket: str = Field(
        "instructdiffusion",
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="Bucket of every artifact: 3 to 63 lower-case letters, digits, dots and hyphens.",
    )
    store_secure: bool = Field(False, description="Whether the object store speaks TLS (https).")
    store_cache: int = Field(
        32, ge=1, description="GiB of disk for the shards that a training reads from the object store as it goes."
    )
    tracking_uri: str = Field("", description="MLflow server, as http(s)://host:port; empty: none.")
    experiment: str = Field("instructdiffusion", min_length=1, description="MLflow experiment of every run.")
    registered_model: str = Field(
        "instructdiffusion",
        pattern=r"^[^/:]+$",
        description="Name in the model registry; no slash, no colon.",
    )
    label_url: str = Field("", description="Label Studio, as http(s)://host:port; empty: none.")
    label_public_url: str = Field(
        "", description="Label Studio as people's browsers reach it, as http(s)://host; empty: as we do."
    )
    label_token: SecretStr = Field(SecretStr(""), description="Access token of an account of Label Studio.")
    store_port: int = Field(0, ge=0, le=65535, description="Port of the local object store; 0: any free one.")
    tracking_port: int = Field(0, ge=0, le=65535, description="Port of the local MLflow server; 0: any free one.")
    label_port: int = Field(0, ge=0, le=65535, description="Port of the local Label Studio; 0: any free one.")
    serving_port: int = Field(0, ge=0, le=65535, description="Port of the local service; 0: any free one.")

    backend: Literal["local", "cluster"] = Field(
        "local", description="Where trainings and services run: local (this machine) or cluster (Kubernetes)."
    )
    training: Training = Field(
        default_factory=Training, description="What a training on a cluster asks for, as JSON; see docs/kubeflow.md."
    )
    pipelines_host: str = Field("", description="Kubeflow Pipelines, as http(s)://host:port; empty: none.")
    pipelines_token: SecretStr = Field(SecretStr(""), description="Token for Kubeflow Pipelines; empty: none.")
    gpus: int = Field(0, ge=0, description="GPUs that a step was given; a compiled pipeline says so.")
    run_id: str = Field("", description="Id of the pipeline's run that a step belongs to; empty: none.")
    records: str = Field("", description="Folder of what steps record for their run's summary; empty: none.")

    @field_validator("training", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('write JSON, as in {"nodes": 2}') from None

    @field_validator("store_endpoint")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and ("/" in value or not host or not port.isdigit()):
            raise ValueError("write host:port without a scheme, as in 127.0.0.1:9000")
        return value

    @field_validator("tracking_uri", "pipelines_host", "label_url", "label_public_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("write the address of a server, as in http://127.0.0.1:5000")
        return value.rstrip("/")

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, needs: Collection[Need] = ("store", "tracking")
    ) -> Settings:
        """Read the settings; an empty variable counts as not set.

        Args:
            environment: variables by name; None: those of this process.
            needs: services that must be named. Pass () when the local servers are still to be started.

        Raises:
            ConfigError: one line with every wrong, missing or misspelt variable and what to write instead.
        """
        environment = os.environ if environment is None else environment
        values = {field: environment[name] for field, name in NAMES.items() if environment.get(name)}
        problems = _misspelt(environment)
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            problems += [_problem(detail) for detail in error.errors(include_url=False, include_input=False)]
        problems += [f"{NAMES[f]} is not set: {cls.meaning(f)}" for n in needs for f in NEEDED[n] if f not in values]
        if problems:
            raise ConfigError("; ".join(problems))
        return settings

    @classmethod
    def meaning(cls, field: str) -> str:
        """What a field holds, from its description."""
        return cls.model_fields[field].description or ""

    def environment(self) -> dict[str, str]:
        """The variables that give these settings to a child process. Holds the secret: never print it."""
        values: dict[str, str] = {}
        for field, name in NAMES.items():
            if text := _text(getattr(self, field)):
                values[name] = text
        return values


# variable by field
NAMES: dict[str, str] = {f: STANDARD.get(f, PREFIX + f.upper()) for f in Settings.model_fields}


def _text(value: Any) -> str:
    """A setting as a variable's text."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value.model_dump_json(exclude_defaults=True) if isinstance(value, BaseModel) else str(value)


def _problem(detail: Any) -> str:
    field, *inner = map(str, detail["loc"])
    reason = ": ".join([*([".".join(inner)] if inner else []), detail["msg"].removeprefix("Value error, ")])
    return f"{NAMES[field]} is wrong ({reason}): {Settings.meaning(field)}"


def _misspelt(environment: Mapping[str, str]) -> list[str]:
    """Variables that are nearly ours: without this a typo would be silently ignored."""
    problems = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in NAMES.values():
            continue
        if close := difflib.get_close_matches(name, NAMES.values(), n=1, cutoff=0.9):
            problems.append(f"{name} is not a setting: did you mean {close[0]}?")
    return problems
