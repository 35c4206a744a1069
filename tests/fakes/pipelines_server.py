"""A server of Kubeflow Pipelines as its clients see it: the v2beta1 API's experiments and runs, kept in memory.

It takes a run as the real one does: the pipeline must parse strictly and every parameter without a default be given.
How a run goes on is the test's to say.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1"


class PipelinesServer:
    """What the server knows."""

    def __init__(self, token: str) -> None:
        self.token, self.address = token, ""
        self.refusal = ""  # why no run is started
        self.away = 0  # how many looks at a run are answered by a proxy, for nobody else is there
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.course: list[dict[str, Any]] = []  # what becomes of a run, one change for each look at it

    def answer(self, method: str, url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        path = urlsplit(url)
        match (method, *path.path.removeprefix(f"{API}/").split("/")):
            case ("GET", "healthz"):
                return 200, {"multi_user": False}
            case ("GET", "experiments"):
                return 200, {"experiments": self._named(parse_qs(path.query))}
            case ("POST", "experiments"):
                return 200, self._keep(self.experiments, "experiment_id", body)
            case ("POST", "runs"):
                return self._start(body)
            case ("GET", "runs", _) if self.away:
                self.away -= 1
                return 503, {"message": "upstream connect error"}
            case ("GET", "runs", run) if run in self.runs:
                if self.course:
                    self.runs[run] |= self.course.pop(0)
                return 200, self.runs[run]
        return 404, {"error": f"{url} not found", "code": 5, "message": f"{url} not found"}

    def _named(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        wanted = json.loads(query["filter"][0])["predicates"][0]["stringValue"] if "filter" in query else None
        return [e for e in self.experiments.values() if wanted in (None, e["display_name"])]

    def _start(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        from google.protobuf import json_format
        from kfp.pipeline_spec import pipeline_spec_pb2

        package = body["pipeline_spec"]
        spec = package.get("pipeline_spec", package)
        try:
            json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        except json_format.ParseError as error:
            return 400, {"code": 3, "message": f"Failed to parse the pipeline: {error}"}
        given = body.get("runtime_config", {}).get("parameters", {})
        known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        wrong = [name for name in given if name not in known]
        wrong += [name for name, told in known.items() if not told.get("isOptional") and name not in given]
        if self.refusal or wrong or body["experiment_id"] not in self.experiments:
            return 400, {"code": 3, "message": self.refusal or f"Invalid input: {wrong}"}
        return 200, self._keep(self.runs, "run_id", {**body, "state": "PENDING"})

    def _keep(self, where: dict[str, dict[str, Any]], name: str, body: dict[str, Any]) -> dict[str, Any]:
        made = {**body, name: str(uuid.uuid4())}
        where[made[name]] = made
        return made


@contextmanager
def pipelines_server(token: str = "") -> Iterator[PipelinesServer]:
    """Serve on 127.0.0.1 within the block; a token other than an empty one is asked for."""
    server = PipelinesServer(token)

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
                status, answer = 401, {"code": 16, "message": "Unauthenticated"}
            else:
                status, answer = server.answer(self.command, self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.address = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            http.shutdown()
