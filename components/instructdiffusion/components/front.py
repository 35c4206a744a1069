"""The front: one fixed address, behind which the service may be replaced while requests are at work.

    python -m instructdiffusion.components.front HOME PORT

It asks for each request anew which service runs under HOME, and hands the request on. Where a service ended before it
answered, or none runs for a moment, the request waits and goes to the next one: an edit changes nothing but its answer,
and the same seed gives the same edit. It is a process of its own, so that a reconciler may come and go.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.components.deploy import current
from instructdiffusion.components.process import LOOPBACK, claim_port, last_words, port_is_free
from instructdiffusion.model.errors import ServiceError

if TYPE_CHECKING:
    import httpx
    import psutil
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

MODULE = "instructdiffusion.components.front"
PATIENCE = 120.0  # seconds that a request waits for a service
TRIES = 3  # services that one request may be handed to: it may be what ends them
MAX_BODY = 2**27  # bytes kept for a second try; the service's own limit is far below
START = 120.0  # seconds until it listens; a second or two on a machine that is not busy
HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}  # of one hop


def start(home: Path, port: int) -> str:
    """Make sure that a front for `home` listens on `port`; returns its address. One on another port is ended.

    Raises:
        ServiceError: the port is in use, or the front did not start.
    """
    home = home.absolute()
    address = f"http://{LOOPBACK}:{port}"
    if running(home) != [port]:
        stop(home)
        claim_port(port, "--port", "the service")
        _start(home, port)
    return address


def running(home: Path) -> list[int]:
    """The ports of the fronts for `home` that listen."""
    ports = [int(process.info["cmdline"][-1]) for process in _fronts(home)]
    return [port for port in ports if not port_is_free(port)]


def stop(home: Path) -> None:
    """End the fronts for `home`, after what they have at work; nothing happens when there is none."""
    import psutil

    fronts = _fronts(home)
    for process in fronts:
        process.terminate()
    _, alive = psutil.wait_procs(fronts, timeout=PATIENCE)
    for process in alive:
        process.kill()


def app(home: Path, patience: float = PATIENCE) -> Starlette:
    """The front for what `deploy` runs under `home`."""
    import httpx
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.body_limit import RequestBodyLimitMiddleware
    from starlette.routing import Route

    # No connection is used twice: a service that ends closes those that wait, and a request may just be on its way.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    client = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=5), limits=limits, trust_env=False)

    async def forward(request: Request) -> Response:
        return await _forwarded(request, await request.body(), client, home, patience)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(
        routes=[Route("/{path:path}", forward, methods=methods)],
        middleware=[Middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)],
        lifespan=lifespan,
    )


async def _forwarded(request: Request, body: bytes, client: httpx.AsyncClient, home: Path, patience: float) -> Response:
    import asyncio

    import httpx
    from starlette.responses import JSONResponse

    tried, until = set[int](), time.monotonic() + patience
    while len(tried) < TRIES:
        service = current(home)
        if service is not None and service.pid not in tried:
            try:
                return await _answer(request, body, client, service.address)
            except httpx.ConnectError:
                pass  # it just ended, or just begins: nothing was sent
            except httpx.HTTPError as error:
                log.warning("%s ended before it answered (%s)", service.tag, type(error).__name__)
                tried.add(service.pid)
        if time.monotonic() > until:
            return JSONResponse({"error": "no service runs at the moment; try again later"}, 503, {"Retry-After": "10"})
        await asyncio.sleep(0.1)
    return JSONResponse({"error": f"{TRIES} services ended over this request; its log says why"}, 502)


async def _answer(request: Request, body: bytes, client: httpx.AsyncClient, address: str) -> Response:
    """One service's answer, whole, so that one cut off can be asked for again; events are handed on as they come."""
    from starlette.background import BackgroundTask
    from starlette.responses import Response, StreamingResponse

    path = request.scope["raw_path"].decode() + (f"?{request.url.query}" if request.url.query else "")
    headers = [(k, v) for k, v in request.headers.raw if k.decode().lower() not in HOP | {"content-length"}]
    sent = client.build_request(request.method, address + path, headers=headers, content=body)
    answer = await client.send(sent, stream=True)
    kept = [(k.lower(), v) for k, v in answer.headers.raw if k.decode().lower() not in HOP]
    response: Response
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        response = StreamingResponse(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
    else:
        try:
            response = Response(b"".join([part async for part in answer.aiter_raw()]), answer.status_code)
        finally:
            await answer.aclose()
        if request.method != "HEAD":
            length = (b"content-length", str(len(response.body)).encode())
            kept = [(k, v) for k, v in kept if k != b"content-length"] + [length]
    response.raw_headers = kept
    return response


def _start(home: Path, port: int) -> None:
    log_file = home / "front.log"
    home.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(home), str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + START
    while port not in running(home):
        if child.poll() is not None or time.monotonic() > until:
            child.kill()
            why = last_words(log_file) or "it wrote no log"
            raise ServiceError(f"the front of the service did not start on port {port}: {why} (log: {log_file})")
        time.sleep(0.05)


def _fronts(home: Path) -> list[psutil.Process]:
    """The processes that are fronts for `home`: known by their command, so that nothing has to be remembered."""
    import psutil

    command = ["-m", MODULE, str(home.absolute())]  # and the port; one that has ended has no command
    return [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[1:-1] == command]


def main(home: str, port: str) -> None:
    """Listen until SIGTERM, then answer what is at work."""
    import uvicorn

    logging.basicConfig(format="%(asctime)s %(message)s")
    uvicorn.run(app(Path(home)), host=LOOPBACK, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
