"""TrainJobs on a cluster: the few calls that following a training needs, with our errors.

They are those that the chart's Role allows: TrainJobs create, get, patch, delete; pods and events list; pods/log get.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instructdiffusion.components.trainjob import API
from instructdiffusion.model.errors import ConfigError, ServiceError

log = logging.getLogger(__name__)

GROUP, _, VERSION = API.partition("/")
PLURAL = "trainjobs"
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PODS = "jobset.sigs.k8s.io/jobset-name={name}"
INDEX = "batch.kubernetes.io/job-completion-index"  # the label that says which node a pod is
TIMEOUT = (5, 30)  # seconds to connect and to answer


class Away(ServiceError):
    """The cluster does not answer at the moment."""


class Cluster:
    """The few calls that a training needs, with our errors."""

    def __init__(self, namespace: str = "") -> None:
        """Connect as the pod that we are in, or else by the kubeconfig."""
        from kubernetes import client

        configuration, self.own = _connection()
        self.namespace = namespace or self.own
        api = client.ApiClient(configuration)
        self._jobs, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._kind: Any = (GROUP, VERSION, self.namespace, PLURAL)

    def begin(self, job: Mapping[str, Any], made: Callable[[], bool], poll: float, patience: float) -> None:
        """Create the job unless it is there; one that is of no use any more is replaced. It is ours from then on."""
        name, until = str(job["metadata"]["name"]), time.monotonic() + patience
        while (there := self.get(name)) is not None:
            going = "deletionTimestamp" in there["metadata"]
            if not going and not condition(there, "Failed") and (made() or not condition(there, "Complete")):
                if self._own(there):
                    log.info("TrainJob %s is there already and is followed", name)
                    return
            elif not going:
                self.delete(name)
            if time.monotonic() > until:
                raise ServiceError(f"the old TrainJob {name} does not go away; see: kubectl describe trainjob {name}")
            time.sleep(poll)
        owned = {**job, "metadata": {**job["metadata"], **({"ownerReferences": us} if (us := self._us()) else {})}}
        with _explained(f"create TrainJob {name} in namespace {self.namespace}", pass_on=(409,)):
            self._jobs.create_namespaced_custom_object(*self._kind, owned, _request_timeout=TIMEOUT)

    def get(self, name: str) -> dict[str, Any] | None:
        """The job as it is now; None: there is none."""
        with _explained(f"get TrainJob {name}", pass_on=(404,)):
            found: dict[str, Any] = self._jobs.get_namespaced_custom_object(*self._kind, name, _request_timeout=TIMEOUT)
            return found
        return None

    def delete(self, name: str) -> None:
        """Delete the job and its pods; it is no error that there is none."""
        with _explained(f"delete TrainJob {name}", pass_on=(404,)):
            self._jobs.delete_namespaced_custom_object(
                *self._kind, name, propagation_policy="Foreground", _request_timeout=TIMEOUT
            )

    def pods(self, name: str) -> list[Any]:
        """Pods of the job, those of the first node first, of each the newest first."""
        with _explained(f"list pods of TrainJob {name}"):
            found = self._core.list_namespaced_pod(
                self.namespace, label_selector=PODS.format(name=name), _request_timeout=TIMEOUT
            ).items
        newest = sorted(found, key=lambda pod: str(pod.metadata.creation_timestamp), reverse=True)
        return sorted(newest, key=node)

    def log(self, pod: str, **more: Any) -> str:
        """A pod's log; empty while there is none."""
        with _explained(f"read the log of pod {pod}", pass_on=(400, 404)):  # it has not started, or is gone
            return self._core.read_namespaced_pod_log(pod, self.namespace, _request_timeout=TIMEOUT, **more) or ""
        return ""

    def warnings(self, name: str) -> list[str]:
        """What the cluster complains of about the job and its pods, oldest first."""
        with _explained(f"list events of TrainJob {name}"):
            events = self._core.list_namespaced_event(
                self.namespace, field_selector="type=Warning", _request_timeout=TIMEOUT
            ).items
        ours = [event for event in events if (event.involved_object.name or "").startswith(name)]
        return [f"{event.reason}: {event.message}" for event in ours]

    def _own(self, there: Mapping[str, Any]) -> bool:
        """Add our own pod to a job's owners: with the last of them it goes, and that of the first try may go any time.

        False: the job changed since we looked.
        """
        metadata = there["metadata"]
        owners = metadata.get("ownerReferences", [])
        new = [one for one in self._us() if one["uid"] not in {owner["uid"] for owner in owners}]
        if not new:
            return True
        changes = {"resourceVersion": metadata["resourceVersion"], "ownerReferences": [*owners, *new]}
        with _explained(f"patch TrainJob {metadata['name']}", pass_on=(404, 409)):
            self._jobs.patch_namespaced_custom_object(
                *self._kind, metadata["name"], {"metadata": changes}, _request_timeout=TIMEOUT
            )
            return True
        return False

    def _us(self) -> list[dict[str, Any]]:
        """Our own pod as an owner, so that a job goes when the pipeline's run is deleted; it can own none elsewhere."""
        name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
        if not name or not uid or self.namespace != self.own:
            return []
        return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]


def _connection() -> tuple[Any, str]:
    """How to reach the cluster, and our own namespace there."""
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
        return configuration, OWN_NAMESPACE.read_text().strip()
    except config.ConfigException:
        file = os.environ.get("KUBECONFIG")  # the library reads it only when it is imported
    try:
        config.load_kube_config(file, client_configuration=configuration)
        context = config.list_kube_config_contexts(file)[1]["context"]
    except config.ConfigException as error:
        raise ConfigError(
            f"no cluster to train on ({error}); set KUBECONFIG, or INSTRUCTDIFFUSION_BACKEND to local"
        ) from None
    return configuration, context.get("namespace", "default")


def condition(job: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """A job's condition of that kind, if it is true."""
    found = job.get("status", {}).get("conditions", ())
    return next((c for c in found if c["type"] == kind and c["status"] == "True"), None)


def node(pod: Any) -> int:
    """Which node of the training a pod is, from 0."""
    return int((pod.metadata.labels or {}).get(INDEX, 0))


@contextmanager
def _explained(what: str, pass_on: tuple[int, ...] = ()) -> Iterator[None]:
    """The client's errors as ours; answers in `pass_on` are no errors."""
    import urllib3
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as error:
        if error.status in pass_on:
            return
        reason = _reason(error)
        if error.status in (401, 403):
            raise ServiceError(
                f"the cluster does not let us {what} ({error.status}): name the ServiceAccount that the step runs "
                "under in pipelines.serviceAccounts of the chart"
            ) from None
        if error.status == 404:
            raise ConfigError(
                f"can't {what}: is Kubeflow Trainer installed, and the namespace right? ({reason})"
            ) from None
        if error.status is not None and 400 <= error.status < 500 and error.status != 429:
            raise ConfigError(f"the cluster refuses to {what}: {reason}") from None
        raise Away(f"can't {what}: {reason}") from None
    except urllib3.exceptions.HTTPError as error:
        raise Away(f"can't {what}: the cluster does not answer ({type(error).__name__})") from None


def _reason(error: Any) -> str:
    """What the API server said, in one line."""
    try:
        text = str(json.loads(error.body)["message"])
    except (KeyError, TypeError, ValueError):
        text = str(error.reason)
    return " ".join(text.split())[:500]
