"""An API server of Kubernetes as a training's launcher sees it: TrainJobs, pods, their logs and events, in memory.

There is no controller: what becomes of a job is the test's to say, one change for each time that someone looks at it.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE = "vision"


class ApiServer:
    """What the server knows."""

    def __init__(self) -> None:
        self.address = ""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[str]] = {}  # lines with their time stamps, by pod
        self.events: list[dict[str, Any]] = []
        self.course: list[Callable[[], None]] = []
        self.races = 0  # how many patches come after someone else's
        self.refuses, self.refusals = 0, 0  # with which status the next calls are refused, and how many of them

    def pod(self, name: str, node: int = 0, phase: str = "Running", attempt: int = 0, **state: Any) -> None:
        """Add or change a pod of the job `name`; `state` is that of its container."""
        pod = f"{name}-node-{node}" + (f"-{attempt}" if attempt else "")
        labels = {"jobset.sigs.k8s.io/jobset-name": name, "batch.kubernetes.io/job-completion-index": str(node)}
        container = {"name": "node", "image": "x:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        self.pods[pod] = {
            "metadata": {"name": pod, "labels": labels, "creationTimestamp": f"2026-01-01T00:0{attempt}:00Z"},
            "status": {"phase": phase, "containerStatuses": [container]},
        }

    def says(self, pod: str, *lines: str, second: int) -> None:
        """Add lines to a pod's log."""
        self.logs.setdefault(pod, []).extend(
            f"2026-01-01T00:00:{second:02}.{at}Z {line}" for at, line in enumerate(lines, 1)
        )

    def condition(self, name: str, kind: str, reason: str = "", message: str = "") -> None:
        """Make a condition of a job true."""
        conditions = self.jobs[name].setdefault("status", {}).setdefault("conditions", [])
        conditions.append({"type": kind, "status": "True", "reason": reason, "message": message})

    def warn(self, about: str, reason: str, message: str) -> None:
        """Add an event."""
        self.events.append(
            {
                "metadata": {"name": uuid.uuid4().hex},
                "involvedObject": {"name": about},
                "type": "Warning",
                "reason": reason,
                "message": message,
            }
        )

    def answer(self, method: str, url: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.refusals:
            self.refusals -= 1
            return self.refuses, status(self.refuses, "refused")
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match (method, *parts.path.strip("/").split("/")):
            case (_, "apis", "trainer.kubeflow.org", "v1alpha1", "namespaces", _, "trainjobs", *name):
                return self._job(method, name[0] if name else "", body)
            case ("GET", "api", "v1", "namespaces", _, "pods"):
                return 200, {"kind": "PodList", "items": self._selected(query["labelSelector"])}
            case ("GET", "api", "v1", "namespaces", _, "events"):
                return 200, {"kind": "EventList", "items": self.events}
            case ("GET", "api", "v1", "namespaces", _, "pods", pod, "log"):
                return self._log(pod, query)
        return 404, status(404, f"{url} not found")

    def _job(self, method: str, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        if method == "POST":
            name = body["metadata"]["name"]
            if name in self.jobs:
                return 409, status(409, f"trainjobs {name} already exists")
            own = {"uid": str(uuid.uuid4()), "resourceVersion": "1"}
            self.jobs[name] = {**body, "metadata": {**body["metadata"], **own}}
            self.created.append(self.jobs[name])
            return 201, self.jobs[name]
        if method == "GET" and self.course:
            self.course.pop(0)()
        if name not in self.jobs:
            return 404, status(404, f"trainjobs {name} not found")
        if method == "PATCH":
            return self._patched(self.jobs[name]["metadata"], body["metadata"])
        if method == "DELETE":
            self.deleted.append(name)
            self.pods.clear()
            return 200, self.jobs.pop(name)
        return 200, self.jobs[name]

    def _patched(self, metadata: dict[str, Any], changes: dict[str, Any]) -> tuple[int, Any]:
        if self.races:
            self.races, metadata["resourceVersion"] = self.races - 1, str(int(metadata["resourceVersion"]) + 1)
        if changes["resourceVersion"] != metadata["resourceVersion"]:
            return 409, status(409, "the object has been modified")
        metadata |= {**changes, "resourceVersion": str(int(metadata["resourceVersion"]) + 1)}
        return 200, {"metadata": metadata}

    def _selected(self, selector: str) -> list[dict[str, Any]]:
        name, _, value = selector.partition("=")
        return [pod for pod in self.pods.values() if pod["metadata"]["labels"].get(name) == value]

    def _log(self, pod: str, query: dict[str, str]) -> tuple[int, Any]:
        if pod not in self.pods:
            return 404, status(404, f"pods {pod} not found")
        lines = self.logs.get(pod, [])[-int(query.get("tailLines", 10**6)) :]
        stamped = query.get("timestamps", "").lower() == "true"
        return 200, "".join(f"{line if stamped else line.partition(' ')[2]}\n" for line in lines)


def status(code: int, message: str) -> dict[str, Any]:
    """What the server says when it refuses."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


@contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """Serve on 127.0.0.1 within the block, with a kubeconfig in `folder`."""
    server = ApiServer()
    with served(server.answer, folder, NAMESPACE) as server.address:
        yield server


@contextmanager
def served(reply: Callable[[str, str, dict[str, Any]], tuple[int, Any]], folder: Path, namespace: str) -> Iterator[str]:
    """Serve answers to (method, path, body) on 127.0.0.1, and yield the address, which `folder/kubeconfig` names."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            code, answer = reply(self.command, self.path, json.loads(self.rfile.read(length) or b"{}"))
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        address = f"http://127.0.0.1:{http.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": namespace}}],
            "clusters": [{"name": "here", "cluster": {"server": address}}],
            "users": [{"name": "me", "user": {"token": "tops3cret"}}],
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield address
        finally:
            http.shutdown()
