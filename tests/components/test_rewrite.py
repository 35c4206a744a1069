"""A language model behind a real endpoint on this machine rewrites instructions."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from instructdiffusion.components.rewrite import Rewriter, texts_of
from instructdiffusion.model.errors import ConfigError, ServiceError
from instructdiffusion.model.instructions.bank import Wording, load
from instructdiffusion.pipelines.cli import app

WORDINGS = [Wording("remove", "Erase the {phrase}.", "hand"), Wording("denoise", "Remove the noise.", "hand")]


class Model:
    """Answers as OpenAI's chat endpoint does: first what is in `before`, then two rewrites, one of them wrong."""

    def __init__(self) -> None:
        self.before: list[tuple[int, dict[str, str], str]] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        self.asked.append(body)
        if self.before:
            return self.before.pop(0)
        (text,) = re.findall(r"different people would say it:\n(.*)\n", body["messages"][0]["content"])
        said = json.dumps([f"Kindly {text[0].lower()}{text[1:]}", "Remove the thing."])
        return 200, {}, json.dumps({"choices": [{"message": {"content": f"Here you are:\n{said}"}}]})

    @contextmanager
    def serving(self) -> Iterator[str]:
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/chat/completions"
                model.keys.append(self.headers.get("Authorization", ""))
                code, headers, text = model.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()


@pytest.fixture
def model() -> Model:
    return Model()


def test_what_was_said_is_kept_and_asked_for_only_once(model: Model, tmp_path: Path) -> None:
    cache = tmp_path / "said.jsonl"
    with model.serving() as url:
        made = [*Rewriter(url, "tiny", cache, key="sesame").paraphrases(WORDINGS, 2)]
        assert [w.text for w in made[:2]] == ["Kindly erase the {phrase}.", "Remove the thing."]
        assert (made[0].by, made[0].of, made[0].model) == ("model", "Erase the {phrase}.", "tiny")
        assert [*Rewriter(url, "tiny", cache).paraphrases(WORDINGS, 2)] == made
        assert len(model.asked) == 2
        lines = cache.read_text().splitlines()
        cache.write_text(lines[0] + "\n" + lines[1][:40])  # killed while it wrote
        assert [*Rewriter(url, "tiny", cache).paraphrases(WORDINGS, 2)] == made
        assert len(model.asked) == 3
        [*Rewriter(url, "other", cache).paraphrases(WORDINGS[:1], 2)]
        assert len(model.asked) == 4
    assert model.keys[0] == "Bearer sesame"
    assert "sesame" not in cache.read_text()
    assert {json.loads(line)["model"] for line in cache.read_text().splitlines() if line.endswith("}")} == {
        "tiny",
        "other",
    }


@pytest.mark.parametrize("apology", ["I am sorry, I can't do that.", "[]", "Remove the thing."])
def test_an_answer_that_rewrites_nothing_is_told_and_asked_for_again(
    apology: str, model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "said.jsonl"
    with model.serving() as url:
        model.before = [(200, {}, json.dumps({"choices": [{"message": {"content": apology}}]}))]
        [*Rewriter(url, "tiny", cache).paraphrases(WORDINGS[:1], 2)]
        assert not cache.exists()
        assert "tiny said nothing that rewrites 'Erase the {phrase}.'" in caplog.text
        made = [*Rewriter(url, "tiny", cache).paraphrases(WORDINGS[:1], 2)]
        assert "Kindly erase the {phrase}." in {w.text for w in made}
        assert len(model.asked) == 2
        line = json.loads(cache.read_text())
        cache.write_text(json.dumps({**line, "said": apology}) + "\n")  # kept by an earlier version
        assert [*Rewriter(url, "tiny", cache).paraphrases(WORDINGS[:1], 2)] == made


def test_a_busy_model_is_asked_again_when_it_says_and_a_broken_one_is_given_up_with_what_it_said_kept(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cache = tmp_path / "said.jsonl"
    with model.serving() as url:
        model.before = [(429, {"Retry-After": "0"}, ""), (500, {}, "")]
        assert len([*Rewriter(url, "tiny", cache, key="sesame", pause=0).paraphrases(WORDINGS[:1], 2)]) == 2
        assert len(model.asked) == 3
        model.before = [(500, {}, "")] * 6
        with pytest.raises(ServiceError, match="answered 500; the same command goes on"):
            [*Rewriter(url, "tiny", cache, pause=0).paraphrases(WORDINGS, 2)]
        assert len(model.asked) == 9  # the first one was known
        model.before = [(401, {}, "")]
        with pytest.raises(ServiceError, match="answered 401; check OPENAI_API_KEY"):
            [*Rewriter(url, "tiny", cache, pause=0).paraphrases(WORDINGS, 2)]
        model.before = [(200, {}, "<html>")]
        with pytest.raises(ServiceError, match="does not speak the chat protocol"):
            [*Rewriter(url, "tiny", cache, pause=0).paraphrases(WORDINGS, 2)]
    with pytest.raises(ServiceError, match=r"can't be reached \(ConnectError\)"):
        [*Rewriter("http://127.0.0.1:9/v1", "tiny", cache, pause=0).paraphrases(WORDINGS, 2)]
    assert "sesame" not in caplog.text


@pytest.mark.parametrize("said", ['["a b", "c"]', '```json\n["a  b", "c", 3]\n```', '1. a b\n2) "c"', "- a b\n\n* c"])
def test_sentences_are_found_in_whatever_form_a_model_lists_them(said: str) -> None:
    assert texts_of(said) == ["a b", "c"]


def test_the_command_keeps_what_asks_for_the_same_and_the_rest_with_its_reason(model: Model, tmp_path: Path) -> None:
    with model.serving() as url:
        given = ["data", "instructions", str(tmp_path), "--task", "remove", "--endpoint", url]
        ended = CliRunner().invoke(app, [*given, "--model", "tiny", "--count", "2"], env={"OPENAI_API_KEY": "sesame"})
        assert ended.exit_code == 0, ended.output
        assert "remove: 10 by hand" in ended.output
        assert "slots 10" in ended.output
        missing = CliRunner().invoke(app, given)
        told = {"OPENAI_API_KEY": "sesame", "OPENAI_BASE_URL": url, "OPENAI_MODEL": "tiny"}
        again = CliRunner().invoke(app, [*given[:5], "--count", "2"], env=told)
        assert again.output == ended.output
    assert missing.exit_code == ConfigError.exit_code
    assert "name the model" in missing.stderr
    kept = [w for w in load(tmp_path / "instructions.jsonl") if w.by == "model"]
    assert "Kindly erase the {phrase}." in {w.text for w in kept}
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert {r["rule"] for r in rejected} >= {"slots"}
    assert all(r["told"] for r in rejected)
