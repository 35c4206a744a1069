"""The cluster backend of the reconciler: one InferenceService of KServe in Standard mode.

A version's weights come from the object store, into the image that its tag `image` names, or else the runtime's. Which
version serves is read off the cluster itself: a variable of the predictor names it. Whether it serves yet is read off
the predictor's Deployment, for the service's status says `Ready` as long as the pods before it do. The predictor keeps
its name, so that KServe changes the Deployment and Kubernetes takes no old pod away before a new one is ready; under
another name KServe would end the old Deployment at once. What else an operator sets on the service, replicas for
instance, is left as it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructdiffusion.components.reconcile import Canary, Served
from instructdiffusion.components.registry import Version
from instructdiffusion.model.errors import ConfigError, ServiceError
from instructdiffusion.serving.settings import NAMES

log = logging.getLogger(__name__)

GROUP, API, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
IMAGE = "image"  # version tag: image of its Bento, as a build pushed it
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT = (5, 30)  # seconds to connect and to answer
CONTAINER = "kserve-container"  # what KServe calls a predictor's container
OWNER = f"{GROUP}/inferenceservice"  # label of all that KServe makes for a service
ACCESS = (
    "run the reconciler under the chart's ServiceAccount, which may get, create and patch InferenceServices and list "
    "Deployments"
)


@dataclass(frozen=True)
class Scale:
    """How a service grows: fewest and most pods, and the CPU use, in percent of the request, that adds one."""

    least: int = 1
    most: int = 1
    cpu: int = 80


class KServe:
    """Serves a version through an InferenceService."""

    def __init__(
        self,
        name: str,
        runtime: str,
        namespace: str = "",
        canary: Canary | None = None,
        account: str = "",
        scale: Scale | None = None,
    ) -> None:
        """Connect as the pod that we are in, or else by the kubeconfig.

        Args:
            name: of the InferenceService.
            runtime: ServingRuntime that it names.
            namespace: empty: our pod's own, or the kubeconfig's.
            canary: how a new version starts; None: with all the traffic.
            account: ServiceAccount of the service's pods, with the store's keys; empty: the namespace's default.
            scale: of a service that is made, None: one pod; one that is there keeps its own.

        Raises:
            ConfigError: there is no cluster.
        """
        from kubernetes import client, config

        try:
            config.load_incluster_config()
            own = OWN_NAMESPACE.read_text().strip()
        except config.ConfigException:
            try:
                config.load_kube_config()
                own = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
            except config.ConfigException as error:
                raise ConfigError(
                    f"no cluster to serve on ({error}); set KUBECONFIG, or INSTRUCTDIFFUSION_BACKEND to local"
                ) from None
        self.name, self.runtime, self.namespace = name, runtime, namespace or own
        self.canary, self.account, self.scale = canary or Canary(), account, scale or Scale()
        self._objects, self._apps = client.CustomObjectsApi(), client.AppsV1Api()
        self._kind: Any = (GROUP, API, self.namespace, PLURAL)

    def served(self) -> Served:
        """What the InferenceService asks for, and how far its Deployments are."""
        there = self._get()
        return Served() if there is None else state(there, self._rollouts())

    def prepare(self, version: Version) -> Mapping[str, str]:
        """Make sure that the version has something to serve.

        Raises:
            ConfigError: its weights are in no object store.
        """
        if not version.source.startswith("s3://"):
            raise ConfigError(
                f"its weights are at {version.source or 'no address'}, not in the object store; register it with the "
                "pipeline's promote step, which uploads them"
            )
        return {}

    def serve(self, version: Version) -> None:
        """Make it the predictor, and end a trial; the pods before answer until the new ones are ready."""
        wanted = predictor(version, self.runtime)
        if self._get() is None:
            self._create(service(self.name, wanted, self.account, self.scale))
        else:
            self._patch({"spec": {"predictor": wanted, "canary": None}})

    def give_share(self, version: Version) -> None:
        """Start it as the canary; without an image of its own it runs in that of the version beside it."""
        self._patch({"spec": {"canary": [canary(version, self.runtime, self.canary.percent)]}})

    def end_share(self) -> None:
        """Take the canary away."""
        self._patch({"spec": {"canary": None}})

    def _rollouts(self) -> list[Rollout]:
        """How far the service's Deployments are."""
        with _explained(f"list the Deployments of InferenceService {self.name}"):
            found = self._apps.list_namespaced_deployment(
                self.namespace, label_selector=f"{OWNER}={self.name}", _request_timeout=TIMEOUT
            )
            return [rollout(deployment) for deployment in found.items]
        return []

    def _get(self) -> dict[str, Any] | None:
        with _explained(f"read InferenceService {self.name}", missing=True):
            found: dict[str, Any] = self._objects.get_namespaced_custom_object(
                *self._kind, self.name, _request_timeout=TIMEOUT
            )
            return found
        return None

    def _create(self, body: Mapping[str, Any]) -> None:
        with _explained(f"create InferenceService {self.name} in namespace {self.namespace}"):
            self._objects.create_namespaced_custom_object(*self._kind, body, _request_timeout=TIMEOUT)

    def _patch(self, body: Mapping[str, Any]) -> None:
        with _explained(f"change InferenceService {self.name} in namespace {self.namespace}"):
            self._objects.patch_namespaced_custom_object(*self._kind, self.name, body, _request_timeout=TIMEOUT)


@dataclass(frozen=True)
class Rollout:
    """How far a Deployment is: the version that its pods are to serve, and whether all of them do."""

    name: str
    version: str
    done: bool


def rollout(deployment: Any) -> Rollout:
    """Read a Deployment of the API's client; one without our variable is of version ``""``."""
    spec, status = deployment.spec, deployment.status
    variables = {
        variable.name: variable.value
        for container in spec.template.spec.containers
        if container.name == CONTAINER
        for variable in container.env or ()
    }
    done = (
        (status.observed_generation or 0) >= deployment.metadata.generation
        and (status.replicas or 0) == (status.updated_replicas or 0) == (status.available_replicas or 0)
        and (status.available_replicas or 0) >= max(spec.replicas or 0, 1)
    )
    return Rollout(deployment.metadata.name, variables.get(NAMES["version"]) or "", done)


def predictor(version: Version, runtime: str) -> dict[str, Any]:
    """The predictor of a version, as a merge patch: None takes away what another version had."""
    return {
        "model": {
            "modelFormat": {"name": "instructdiffusion", "version": "1"},
            "runtime": runtime,
            "image": version.tags.get(IMAGE) or None,
            "storageUri": version.source,
            "env": [{"name": NAMES["version"], "value": version.number}],
        },
    }


def canary(version: Version, runtime: str, percent: int) -> dict[str, Any]:
    """A canary of a version; what it leaves out KServe takes from the predictor."""
    wanted = _set(predictor(version, runtime))
    wanted["model"]["name"] = CONTAINER  # the schema asks for it here, and KServe refuses it in the predictor
    return {"trafficPercent": percent, "predictor": {"name": f"v{version.number}", "minReplicas": 1, **wanted}}


def service(name: str, wanted: Mapping[str, Any], account: str, scale: Scale) -> dict[str, Any]:
    """A new InferenceService with this predictor."""
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "timeout": 300,  # seconds, as in the Bento
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1034, "seccompProfile": {"type": "RuntimeDefault"}},
        "minReplicas": scale.least,
        "maxReplicas": scale.most,
        "scaleMetric": "cpu",
        "scaleTarget": scale.cpu,
    }
    if account:
        pod["serviceAccountName"] = account
    return {
        "apiVersion": f"{GROUP}/{API}",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "instructdiffusion-reconciler"},
            "annotations": {f"{GROUP}/deploymentMode": "Standard"},
        },
        "spec": {"predictor": {**_set(wanted), **pod}},
    }


def state(there: Mapping[str, Any], rollouts: Sequence[Rollout]) -> Served:
    """What an InferenceService serves: what it asks for, and whether the Deployments have come to it."""
    spec, status = there["spec"], there.get("status") or {}
    stable = f"{there['metadata']['name']}-predictor"
    wanted = _version(spec["predictor"])
    trial = next((_version(c["predictor"]) for c in spec.get("canary") or ()), "")
    started = any(r.version == wanted and r.done for r in rollouts if r.name == stable)
    conditions = status.get("conditions", ())
    return Served(
        version=wanted,
        ready=started and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        canary=trial,
        canary_ready=any(r.version == trial and r.done for r in rollouts if r.name != stable),
        why=_why(status) or f"the pods of version {trial or wanted} are not all ready yet",
        address=str(status.get("url", "")),
    )


def _why(status: Mapping[str, Any]) -> str:
    """Why it is not ready: what failed to load first, then the conditions that are not true."""
    models = [
        status.get("modelStatus") or {},
        *(c.get("modelStatus") or {} for c in status.get("canaryStatuses") or ()),
    ]
    failures = [model["lastFailureInfo"] for model in models if model.get("lastFailureInfo")]
    told = [f"{f.get('reason', '')}: {f.get('message', '')}" for f in failures]
    for condition in status.get("conditions", ()):
        if condition["status"] != "True":
            words = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
            told.append(f"{condition['type']} is {condition['status']} ({words or 'no reason given'})")
    return "; ".join(" ".join(part.split()) for part in dict.fromkeys(told))[:1000]


def _version(predictor: Mapping[str, Any]) -> str:
    """The version that a predictor is of; empty: it is not of our making."""
    variables = predictor.get("model", {}).get("env") or ()
    return next((str(v.get("value", "")) for v in variables if v["name"] == NAMES["version"]), "")


def _set(patch: Mapping[str, Any]) -> dict[str, Any]:
    """A patch without what it takes away."""
    return {
        key: _set(value) if isinstance(value, Mapping) else value for key, value in patch.items() if value is not None
    }


@contextmanager
def _explained(what: str, *, missing: bool = False) -> Iterator[None]:
    """The client's errors as ours; with `missing` that there is no such object is none."""
    import urllib3
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as error:
        reason = _reason(error)
        if error.status in (401, 403):
            raise ServiceError(f"the cluster does not let us {what} ({error.status}); {ACCESS}") from None
        if error.status == 404:
            if missing and '"kind"' in str(error.body or ""):
                return
            raise ConfigError(f"can't {what}: is KServe 0.20 or newer installed? ({reason})") from None
        if error.status in (400, 422):
            raise ConfigError(f"the cluster refuses to {what}: {reason}") from None
        raise ServiceError(f"can't {what}: {reason}; it is tried again") from None
    except urllib3.exceptions.HTTPError as error:
        raise ServiceError(f"can't {what}: the cluster does not answer ({type(error).__name__})") from None


def _reason(error: Any) -> str:
    """What the API server said, in one line."""
    try:
        text = str(json.loads(error.body)["message"])
    except (KeyError, TypeError, ValueError):
        text = str(error.reason)
    return " ".join(text.split())[:500]
