"""What stands before the routes: a limit on a request's bytes, and on how many edits wait. Both refuse unread."""

from __future__ import annotations

import math

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instructdiffusion.serving.metrics import metrics
from instructdiffusion.serving.settings import Settings

VERSION_HEADER = "X-Model-Version"
REASONS = {400: "invalid", 404: "unknown", 405: "unknown", 413: "too large", 415: "unsupported", 429: "busy"}


class Pace:
    """How many edits wait or are at work, and how long one takes."""

    def __init__(self) -> None:
        self.waiting = 0
        self.seconds = 1.0  # of an edit: a running mean that forgets

    def took(self, seconds: float) -> None:
        """Note how long an edit took."""
        self.seconds += 0.3 * (seconds - self.seconds)

    def wait(self) -> int:
        """Seconds until half of those who wait will have been answered: a good time to come again."""
        return max(1, math.ceil(self.waiting * self.seconds / 2))


class Guard:
    """Names the model's version on every answer, counts refusals, and refuses what is too much."""

    def __init__(self, app: ASGIApp, settings: Settings, pace: Pace, version: str) -> None:
        self.app, self.settings, self.pace, self.version = app, settings, pace, version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[VERSION_HEADER] = self.version
                if message["status"] >= 400:
                    metrics().refused.labels(REASONS.get(message["status"], "failed")).inc()
            await send(message)

        if scope["type"] != "http" or scope["method"] != "POST":  # every POST is for edits
            await self.app(scope, receive, named)
        elif refusal := self._refusal(Headers(scope=scope).get("content-length", "0")):
            await refusal(scope, receive, named)
        else:
            self.pace.waiting += 1
            try:
                await self.app(scope, receive, named)
            finally:
                self.pace.waiting -= 1

    def _refusal(self, length: str) -> JSONResponse | None:
        most = self.settings.max_body
        if length.isdigit() and int(length) > most:
            line = f"image: a request of {length} bytes, the limit is {most}; send a smaller picture"
            return JSONResponse({"error": line}, 413)
        if self.pace.waiting >= self.settings.max_waiting:
            seconds = self.pace.wait()
            line = f"{self.pace.waiting} requests wait, the limit is {self.settings.max_waiting}; retry in {seconds} s"
            return JSONResponse({"error": line}, 429, {"Retry-After": str(seconds)})
        return None
