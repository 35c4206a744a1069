"""The cluster backend of the reconciler: one InferenceService of KServe in Standard mode.

Which version serves is read off the service itself: its predictors are named `vNUMBER`. A version is served by its
Bento's image where its tag `image` names one, else by the runtime's image with the weights from the object store.
What else an operator sets on the service, replicas for instance, is left as it is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
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
ACCESS = "run the reconciler under the chart's ServiceAccount, which may get, create and patch InferenceServices"


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
        self._objects = client.CustomObjectsApi()
        self._kind: Any = (GROUP, API, self.namespace, PLURAL)

    def served(self) -> Served:
        """What the InferenceService says."""
        there = self._get()
        return Served() if there is None else state(there)

    def prepare(self, version: Version) -> Mapping[str, str]:
        """Make sure that the version has something to serve.

        Raises:
            ConfigError: neither an image nor weights in an object store.
        """
        if not version.tags.get(IMAGE) and not version.source.startswith("s3://"):
            raise ConfigError(
                f"it has no tag {IMAGE}, and its weights are at {version.source or 'no address'}; set the tag to its "
                "Bento's image, or register it with the pipeline's promote step"
            )
        return {}

    def serve(self, version: Version) -> None:
        """Name it as the one predictor; KServe keeps the pods before until the new ones are ready."""
        wanted = predictor(version, self.runtime)
        if self._get() is None:
            self._create(service(self.name, wanted, self.account, self.scale))
        else:
            self._patch({"spec": {"predictor": wanted, "canary": None}})

    def give_share(self, version: Version) -> None:
        """Name it as the canary."""
        wanted = _set(predictor(version, self.runtime)) | {"minReplicas": 1}
        self._patch({"spec": {"canary": [{"trafficPercent": self.canary.percent, "predictor": wanted}]}})

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


def predictor(version: Version, runtime: str) -> dict[str, Any]:
    """The predictor of a version, as a merge patch: None takes away what another version had."""
    image = version.tags.get(IMAGE)
    return {
        "name": f"v{version.number}",
        "model": {
            "name": "kserve-container",
            "modelFormat": {"name": "instructdiffusion", "version": "1"},
            "runtime": runtime,
            "image": image or None,
            "storageUri": None if image else version.source,
            "env": None if image else [{"name": NAMES["version"], "value": version.number}],
        },
    }


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


def state(there: Mapping[str, Any]) -> Served:
    """What an InferenceService serves; its status counts only where KServe has seen the newest specification."""
    spec, status = there["spec"], there.get("status") or {}
    current = status.get("observedGeneration", 0) >= there["metadata"].get("generation", 1)
    canary = next((c["predictor"].get("name", "") for c in spec.get("canary") or ()), "")
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
    started = any(c["name"] == canary and c["ready"] for c in status.get("canaryStatuses") or ())
    return Served(
        version=_number(spec["predictor"].get("name", "")),
        ready=current and ready,
        canary=_number(canary),
        canary_ready=current and started,
        why=_why(status) if current else "KServe has not looked at it yet",
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


def _number(name: str) -> str:
    """The version that a predictor's name stands for; empty: it is not of our making."""
    return name[1:] if name[:1] == "v" and name[1:].isdecimal() else ""


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
