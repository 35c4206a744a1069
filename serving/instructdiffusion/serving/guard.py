"""What stands before the routes: limits on a request's bytes, on how long they take, and on how many edits wait.

A request waits for its edit, and counts, once all of it has come: one that never comes keeps nobody out.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instructdiffusion.serving.metrics import metrics
from instructdiffusion.serving.settings import Settings

VERSION_HEADER = "X-Model-Version"
REASONS = {
    400: "invalid",
    404: "unknown",
    405: "unknown",
    408: "slow",
    413: "too large",
    415: "unsupported",
    429: "busy",
}


class Pace:
    """How many edits wait or are at work, what their requests weigh, and how long one takes."""

    def __init__(self) -> None:
        self.waiting = 0
        self.held = 0  # bytes of requests, those that are still on their way among them
        self.seconds = 1.0  # of an edit: a running mean that forgets

    def took(self, seconds: float) -> None:
        """Note how long an edit took."""
        self.seconds += 0.3 * (seconds - self.seconds)

    def wait(self) -> int:
        """Seconds until half of those who wait will have been answered: a good time to come again."""
        return max(1, math.ceil(self.waiting * self.seconds / 2))


class Body:
    """What a request sends: taken in, then handed on to who asks for it."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.messages, self.size = receive, deque[Message](), 0

    async def take(self) -> Message:
        """Take in what comes next."""
        message = await self.receive()
        self.messages.append(message)
        self.size += len(message.get("body", b""))
        return message

    async def give(self) -> Message:
        """Hand on what was taken in, then what comes after it."""
        return self.messages.popleft() if self.messages else await self.receive()


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
            return
        body = Body(receive)
        try:
            length = Headers(scope=scope).get("content-length", "0")
            announced = int(length) if length.isdigit() else 0
            refusal = self._large(announced) or self._busy() or await self._arrival(body) or self._busy()
            await (refusal or self._counted)(scope, body.give, named)
        finally:
            self.pace.held -= body.size

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.pace.waiting += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.pace.waiting -= 1

    async def _arrival(self, body: Body) -> JSONResponse | None:
        """Take in a request to its end; the refusal, if it doesn't come to one."""
        more, room = True, self.settings.max_waiting * self.settings.max_body
        try:
            async with asyncio.timeout(self.settings.max_arrival):
                while more:
                    before = body.size
                    message = await body.take()
                    self.pace.held += body.size - before
                    if message["type"] == "http.disconnect":  # nobody will read this
                        return _refusal(400, "request: it ended before all of it had come; send it again")
                    if refusal := self._large(body.size):  # its length was not announced
                        return refusal
                    if self.pace.held > room:
                        return self._later(f"requests of {self.pace.held} bytes wait, the limit is {room}")
                    more = message.get("more_body", False)
        except TimeoutError:
            most = self.settings.max_arrival
            line = f"request: not all of it came within {most} s, the limit; send a smaller picture"
            return _refusal(408, line, {"Connection": "close"})
        return None

    def _large(self, size: int) -> JSONResponse | None:
        most = self.settings.max_body
        line = f"image: over {most} bytes in a request, the limit; send a smaller picture"
        return _refusal(413, line) if size > most else None

    def _busy(self) -> JSONResponse | None:
        waiting, most = self.pace.waiting, self.settings.max_waiting
        return self._later(f"{waiting} requests wait, the limit is {most}") if waiting >= most else None

    def _later(self, reason: str) -> JSONResponse:
        seconds = self.pace.wait()
        return _refusal(429, f"{reason}; retry in {seconds} s", {"Retry-After": str(seconds)})


def _refusal(status: int, line: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": line}, status, headers)
