"""A vision model as judge of edits, behind any endpoint that speaks OpenAI's chat protocol.

What it said once of a picture is kept by content: a benchmark that is run again asks nothing twice. A judge that is
away or talks nonsense gives a reason in place of points, never a zero.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.task import Image
from instructdiffusion.serving.schema import png_of

ASKED = (
    "The first picture was to be edited by this instruction: {instruction}\n"
    "The second picture is the result. Give two numbers from 0 to 10. follows: how well the instruction is carried "
    "out, and nothing beyond it; nothing done at all is 0. quality: how natural the result looks, without traces of "
    'editing. Answer with JSON only: {{"follows": 0, "quality": 0}}'
)
POINTS = ("follows", "quality")


class Judge:
    """Asks one model. `url` is the address up to and with `/v1`; `cache` the folder of what it said."""

    def __init__(self, url: str, model: str, cache: Path, *, key: str = "", timeout: float = 120.0) -> None:
        self.url, self.model, self.cache = url.rstrip("/"), model, cache
        self.spec_model = f"{model}; asked {hashlib.sha256(ASKED.encode()).hexdigest()[:12]}"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout, connect=10.0))
        self._away = ""

    def __call__(self, source: Image, output: Image, instruction: str) -> Mapping[str, float] | str:
        """Points by name, 0..10; or why there are none."""
        pictures = [png_of(source), png_of(output)]
        named = hashlib.sha256(b"\0".join([self.spec_model.encode(), instruction.encode(), *pictures])).hexdigest()
        kept = self.cache / f"{named}.json"
        if kept.is_file():
            return dict(json.loads(kept.read_text()))
        if self._away:  # one that does not answer is not waited for again and again
            return self._away
        points = self._ask(ASKED.format(instruction=instruction), pictures)
        if not isinstance(points, str):
            write_atomic(kept, json.dumps(points), sync=False)
        return points

    def _ask(self, text: str, pictures: list[bytes]) -> dict[str, float] | str:
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for picture in pictures:
            address = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
            content.append({"type": "image_url", "image_url": {"url": address}})
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": content}]}
        try:
            answer = self._http.post(f"{self.url}/chat/completions", json=body)
            answer.raise_for_status()
            return points_of(str(answer.json()["choices"][0]["message"]["content"]))
        except httpx.HTTPStatusError as error:
            return f"the judge at {self.url} answered {error.response.status_code}"
        except httpx.HTTPError as error:
            self._away = f"the judge at {self.url} can't be reached ({type(error).__name__})"
            return self._away
        except (ValueError, LookupError, TypeError):
            return f"{self.url} does not speak the chat protocol; is it the address up to and with /v1?"


def points_of(said: str) -> dict[str, float] | str:
    """The points in a judge's answer, or why there are none."""
    for text in re.findall(r"\{[^{}]*\}", said):
        try:
            found = json.loads(text)
            points = {name: float(found[name]) for name in POINTS}
        except (ValueError, KeyError, TypeError):
            continue
        if all(0 <= value <= 10 for value in points.values()):
            return points
    return f"the judge gave no points: {' '.join(said.split())[:80]!r}"
