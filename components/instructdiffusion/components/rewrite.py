"""A language model that rewrites instructions, behind any endpoint that speaks OpenAI's chat protocol.

What it said is kept line by line with what it was asked and by which model, so that nothing is asked twice: the same
call goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential
from tenacity.wait import wait_base

from instructdiffusion.model.errors import ServiceError
from instructdiffusion.model.files import append_line
from instructdiffusion.model.instructions.bank import Wording
from instructdiffusion.model.instructions.keep import fault

log = logging.getLogger(__name__)
ASKED = (
    "Rewrite this instruction to a picture editor in {count} different ways, some short, some long, as different "
    "people would say it:\n{text}\nWhat stands in braces is filled in later: keep each of {slots} exactly as it is, "
    "once in every sentence. Answer with a JSON list of strings only."
)
ATTEMPTS, SLOWEST = 6, 60.0  # tries of one question, seconds between two


class Rewriter:
    """Asks one model. `url` is the address up to and with `/v1`; `cache` the file of what it said."""

    def __init__(
        self, url: str, model: str, cache: Path, *, key: str = "", timeout: float = 120.0, pause: float = 1.0
    ) -> None:
        self.url, self.model, self.cache, self.pause = url.rstrip("/"), model, cache, pause
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout, connect=10.0))
        self._said = dict(_read(cache))

    def paraphrases(
        self, wordings: Sequence[Wording], count: int, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Wording]:
        """`count` paraphrases of each wording, as the model gave them: to be sifted.

        Raises:
            ServiceError: the endpoint does not answer, or refuses; what it said so far is kept.
        """
        for number, wording in enumerate(wordings):
            slots = ", ".join(re.findall(r"\{\w+\}", wording.text)) or "no word in braces"
            asked = ASKED.format(count=count, text=wording.text, slots=slots)
            yield from self._reworded(wording, asked)
            progress(number + 1, len(wordings))

    def _reworded(self, wording: Wording, asked: str) -> list[Wording]:
        """What was said of a wording, or is said now; kept if there is anything in it that may be used."""
        named = hashlib.sha256(f"{self.model}\0{asked}".encode()).hexdigest()
        known = self._in(self._said.get(named, ""), wording)
        if _usable(known):
            return known
        body = {"model": self.model, "temperature": 1.0, "messages": [{"role": "user", "content": asked}]}
        said = self._ask(body)
        found = self._in(said, wording)
        if not _usable(found):
            start = " ".join(said.split())[:80]
            log.warning(
                "%s said nothing that rewrites %r (%r); the same command asks again", *(self.model, wording.text, start)
            )
            return found
        line = {"asked": named, "question": asked, "model": self.model, "said": said}
        line |= {"at": datetime.now(UTC).isoformat(timespec="seconds")}
        append_line(self.cache, json.dumps(line, ensure_ascii=False))
        self._said[named] = said
        return found

    def _in(self, said: str, wording: Wording) -> list[Wording]:
        return [Wording(wording.task, text, "model", wording.text, self.model) for text in texts_of(said)]

    def _ask(self, body: dict[str, Any]) -> str:
        tries = Retrying(
            retry=retry_if_exception(_passes),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_AsTold(wait_exponential(self.pause, max=SLOWEST)),
            reraise=True,
        )
        try:
            return str(tries(self._once, body))
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            fix = "check OPENAI_API_KEY" if code in (401, 403) else "the same command goes on"
            raise ServiceError(f"the language model at {self.url} answered {code}; {fix}") from None
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise ServiceError(
                f"the language model at {self.url} can't be reached ({kind}); the same command goes on"
            ) from None
        except (ValueError, LookupError, TypeError):
            raise ServiceError(
                f"{self.url} does not speak the chat protocol; give the address up to and with /v1"
            ) from None

    def _once(self, body: dict[str, Any]) -> str:
        answer = self._http.post(f"{self.url}/chat/completions", json=body)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])


class _AsTold(wait_base):
    """Waits as long as the server says, or else as another rule does."""

    def __init__(self, otherwise: wait_base) -> None:
        self.otherwise = otherwise

    def __call__(self, retry_state: Any) -> float:
        error = retry_state.outcome.exception()
        told = error.response.headers.get("Retry-After", "") if isinstance(error, httpx.HTTPStatusError) else ""
        wait = float(told) if told.isdigit() else self.otherwise(retry_state)
        return min(wait, SLOWEST)


def texts_of(said: str) -> list[str]:
    """The sentences in what a model said: those of a JSON list, else its lines without numbers and quotes."""
    for found in re.findall(r"\[.*\]", said, re.DOTALL):
        try:
            listed = json.loads(found)
        except ValueError:
            continue
        return [" ".join(text.split()) for text in listed if isinstance(text, str) and text.strip()]
    lines = (re.sub(r"^\s*(?:[-*]|\d+[.)])\s*", "", line).strip().strip('"') for line in said.splitlines())
    return [line for line in lines if line]


def _usable(found: Sequence[Wording]) -> bool:
    return any(fault(wording) is None for wording in found)


def _passes(error: BaseException) -> bool:
    """Whether a try may succeed where this one failed."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.HTTPError)


def _read(cache: Path) -> Iterator[tuple[str, str]]:
    """What was said before; a line that was cut short is asked for again."""
    if not cache.is_file():
        return
    for line in cache.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            known = json.loads(line)
            yield known["asked"], known["said"]
        except (ValueError, KeyError, TypeError):
            log.warning("a line of %s is damaged; what it said is asked for again", cache)
