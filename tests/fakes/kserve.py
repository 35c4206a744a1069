"""An API server of Kubernetes with KServe as the reconciler sees them: InferenceServices and Deployments, in memory.

It refuses what KServe's webhook and schema refuse, and ends a predictor's Deployment at once when its name goes. When
pods are ready is the test's to say.
"""

from __future__ import annotations

import re
from typing import Any

from fakes.api_server import status

NAMESPACE = "ml"
PATH = re.compile(rf"/apis/serving\.kserve\.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices(?:/(?P<name>[^/?]+))?")
OWNED = "labelSelector=serving.kserve.io%2Finferenceservice%3Dedits"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments?{OWNED}"


class Cluster:
    """An API server with KServe: what they hold; `refusal` makes it fail."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.refusal: tuple[int, str] | None = None
        self.calls: set[tuple[str, str]] = set()

    @property
    def service(self) -> dict[str, Any]:
        return self.objects["edits"]

    def spec(self) -> dict[str, Any]:
        return dict(self.service["spec"])

    def reconcile(self) -> None:
        """Do what KServe does at once: a Deployment of each predictor by its name, and of no other."""
        asked = [self.spec()["predictor"], *(canary["predictor"] for canary in self.spec().get("canary") or ())]
        names = {"-".join(filter(None, ("edits-predictor", one.get("name")))): one for one in asked}
        self.deployments = {
            name: changed(self.deployments.get(name), name, one["model"]) for name, one in names.items()
        }

    def ready(self, canary: bool = True, **status: Any) -> None:
        """Do what KServe and Kubernetes do, until all pods are ready, or all but the canary's."""
        self.reconcile()
        for name, deployment in self.deployments.items():
            if canary or name == "edits-predictor":
                replicas = deployment["spec"]["replicas"]
                counts = dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), replicas)
                deployment["status"] = {"observedGeneration": deployment["metadata"]["generation"], **counts}
        conditions = [{"type": "Ready", "status": "True"}]
        self.service["status"] = {"conditions": conditions, "url": "http://edits.ml.example.org", **status}

    def answer(self, verb: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.refusal:
            return refused(*self.refusal)
        if path == DEPLOYMENTS:
            self.calls.add(("LIST", "deployments"))
            return 200, {"kind": "DeploymentList", "items": list(self.deployments.values())}
        found = PATH.fullmatch(path.partition("?")[0])
        if found is None:
            return 404, {}
        self.calls.add((verb, "inferenceservices"))
        name = found["name"] or body["metadata"]["name"]
        if verb == "POST":
            if name in self.objects:
                return refused(409, "already exists")
            return self.admit(name, {**body, "metadata": {**body["metadata"], "generation": 1}})
        if name not in self.objects:
            return refused(404, f'inferenceservices "{name}" not found')
        if verb == "PATCH":
            return self.admit(name, merged(self.objects[name], body))
        return 200, self.objects[name]

    def admit(self, name: str, new: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Refuse what KServe's webhook and schema refuse of what we could ask for."""
        if "name" in new["spec"]["predictor"]["model"]:
            return refused(400, "the 'name' field is not allowed in standard predictor")
        for canary in new["spec"].get("canary") or ():
            if not canary["predictor"].get("name") or not canary["predictor"]["model"].get("name"):
                return refused(422, "spec.canary[0].predictor: a name is required, and a name of its model")
        self.objects[name] = new
        return 200, new


def changed(before: dict[str, Any] | None, name: str, model: dict[str, Any]) -> dict[str, Any]:
    """A Deployment for a predictor's model: as it was, or at the beginning of a change."""
    environment = [{"name": "PORT", "value": "8080"}, *model["env"]]
    containers = [{"name": "other"}, {"name": "kserve-container", "image": model.get("image"), "env": environment}]
    template = {"metadata": {}, "spec": {"containers": containers}}
    if before and before["spec"]["template"] == template:
        return before
    generation = before["metadata"]["generation"] + 1 if before else 1
    status = dict(before["status"]) if before else {}  # of the pods before, which go on
    spec = {"replicas": 2, "selector": {}, "template": template}
    return {"metadata": {"name": name, "generation": generation}, "spec": spec, "status": status}


def refused(code: int, message: str) -> tuple[int, dict[str, Any]]:
    """An answer that says no."""
    return code, status(code, message)


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386, as the API server does."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
