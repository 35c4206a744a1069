"""What is refused before a route is asked: too many edits at once, requests that don't come to their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from instructdiffusion.serving.guard import VERSION_HEADER, Guard, Pace
from instructdiffusion.serving.settings import Settings

SETTINGS = Settings(max_waiting=2, max_arrival=1, max_bytes=2**10)
ROOM = SETTINGS.max_waiting * SETTINGS.max_body


class Slow:
    """An app that answers a POST, with what was sent, once it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.guard = Guard(self, SETTINGS, Pace(), "7")
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.guard), base_url="http://service")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = ""
        while scope["method"] == "POST":
            message = await receive()
            text += message["body"].decode()
            if not message["more_body"]:
                await self.go.wait()
                break
        await PlainTextResponse(text)(scope, receive, send)

    def post(self, *parts: str, ends: bool = True) -> asyncio.Task[httpx.Response]:
        """Send a request in these parts, and then no more, or not even the end."""

        async def body() -> AsyncIterator[bytes]:
            for part in parts:
                yield part.encode()
            await asyncio.sleep(0 if ends else 600)

        return asyncio.create_task(self.client.post("/edit", content=body()))

    async def waiting(self, count: int) -> None:
        """Wait until so many requests do."""
        while self.guard.pace.waiting != count:
            await asyncio.sleep(0.01)


def test_beyond_the_queue_it_is_said_when_to_come_again() -> None:
    async def asked() -> None:
        app = Slow()
        first = [app.post("a", "b"), app.post("c")]
        await app.waiting(2)
        refused = await app.post("d")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert refused.json() == {"error": "2 requests wait, the limit is 2; retry in 1 s"}
        assert refused.headers[VERSION_HEADER] == "7"
        assert (await app.client.get("/readyz")).status_code == 200
        app.go.set()
        assert [answer.text for answer in await asyncio.gather(*first, app.post("e"))] == ["ab", "c", "e"]
        assert (app.guard.pace.waiting, app.guard.pace.held) == (0, 0)

    asyncio.run(asyncio.wait_for(asked(), 30))


def test_requests_that_never_come_to_their_end_keep_nobody_out_and_are_given_up() -> None:
    async def asked() -> None:
        app = Slow()
        app.go.set()
        begun = [app.post("a", ends=False) for _ in range(5)]
        await asyncio.sleep(0.1)
        assert (await app.post("b")).text == "b"
        assert app.guard.pace.held == 5
        for answer in await asyncio.gather(*begun):
            assert (answer.status_code, answer.headers["Connection"]) == (408, "close")
            assert "request: not all of it came within 1 s, the limit" in answer.json()["error"]
        assert app.guard.pace.held == 0

    asyncio.run(asyncio.wait_for(asked(), 30))


def test_together_requests_on_their_way_hold_no_more_than_those_that_may_wait() -> None:
    async def asked() -> None:
        app = Slow()
        app.go.set()
        large = "x" * SETTINGS.max_body
        begun = [app.post(large, ends=False) for _ in range(2)]
        await asyncio.sleep(0.1)
        refused = await app.post("b")
        assert refused.status_code == 429
        assert refused.json()["error"].startswith(f"requests of {ROOM + 1} bytes wait, the limit is {ROOM}; retry in ")
        await asyncio.gather(*begun)
        assert (await app.post("b")).text == "b"

    asyncio.run(asyncio.wait_for(asked(), 30))
