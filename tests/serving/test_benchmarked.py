"""The running service as an endpoint of a benchmark, by its own protocol and by KServe's."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from instructdiffusion.components.deploy import Deployment
from instructdiffusion.components.endpoints import KServe, Remote, Served, endpoint
from instructdiffusion.components.judge import Judge, points_of
from instructdiffusion.model.benchmark import Order
from instructdiffusion.model.benchmarks import benchmark_named
from instructdiffusion.model.endpoints import Still
from instructdiffusion.model.errors import ConfigError, ServiceError
from instructdiffusion.model.scoring import merge, run
from instructdiffusion.model.task import Ask, Image


@pytest.mark.parametrize("path", ["", "/v2/models/instructdiffusion"])
def test_a_service_is_scored_like_a_folder(path: str, deployment: Deployment, tmp_path: Path) -> None:
    service = endpoint("", deployment.address + path)
    assert isinstance(service, KServe if path else Served)
    run(benchmark_named("restoration"), service, tmp_path, Order(samples=1))
    report = merge(tmp_path, resamples=20)
    assert report.values["psnr"].value is not None
    assert report.values["psnr"].bound is None  # nobody sees its autoencoder
    assert report.editor == deployment.address + path


@pytest.mark.parametrize("kind", [Served, KServe])
def test_a_service_that_is_down_is_named(kind: type[Remote], picture: Image) -> None:
    service = kind("http://127.0.0.1:9/v2/models/m" if kind is KServe else "http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9.* can't be reached"):
        service.edit([picture], [Ask("edit", "Make it red.")], [0])


def test_a_model_and_a_service_are_not_scored_at_once() -> None:
    assert isinstance(endpoint("do-nothing", ""), Still)
    with pytest.raises(ConfigError, match="one of them at a time"):
        endpoint("do-nothing", "http://127.0.0.1:9")


@contextmanager
def vision_model(said: str, status: int = 200) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """A server that speaks the chat protocol and always says the same; keeps what it was asked."""
    asked: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": said}}]}).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
        server.shutdown()


def test_a_judge_sees_both_pictures_once_and_what_it_said_is_kept(picture: Image, tmp_path: Path) -> None:
    with vision_model('Here you go: {"follows": 7, "quality": 9.5}') as (url, asked):
        judge = Judge(url, "eyes", tmp_path, key="secret")
        points = judge(picture, 255 - picture, "Invert it.")
        assert points == {"follows": 7, "quality": 9.5} == judge(picture, 255 - picture, "Invert it.")
        assert judge(picture, picture, "Invert it.") == points
    assert [request["path"] for request in asked] == ["/v1/chat/completions"] * 2
    assert {request["key"] for request in asked} == {"Bearer secret"}
    text, *shown = asked[0]["messages"][0]["content"]  # type: ignore[index]
    assert "Invert it." in text["text"]
    assert [s["image_url"]["url"][:22] for s in shown] == ["data:image/png;base64,"] * 2
    assert base64.b64decode(shown[0]["image_url"]["url"][22:])[:4] == b"\x89PNG"
    assert not any("secret" in path.read_text() for path in tmp_path.iterdir())


def test_a_judge_who_is_away_or_talks_nonsense_gives_a_reason(picture: Image, tmp_path: Path) -> None:
    with vision_model("", status=429) as (url, _):
        assert "answered 429" in str(Judge(url, "eyes", tmp_path)(picture, picture, "x"))
    assert "can't be reached" in str(Judge(url, "eyes", tmp_path)(picture, picture, "x"))
    for said in ("lovely", '{"follows": 11, "quality": 3}', '{"follows": "high", "quality": 3}', "{}"):
        assert str(points_of(said)).startswith("the judge gave no points")
    assert not list(tmp_path.iterdir())
