"""MLflow's webhooks: a small receiver that wakes the reconciler, and the subscription to it.

An event is trusted for nothing but that it is worth a look, so one that comes twice does no harm.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from instructdiffusion.components.process import claim_port
from instructdiffusion.components.registry import Registry
from instructdiffusion.components.tracking import explained
from instructdiffusion.model.errors import ConfigError, ServiceError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

ID, TIMESTAMP, SIGNATURE = "X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature"
WINDOW = 300  # seconds that an event may be old, or our clock behind
MAX_BODY = 2**16
SECRET = "INSTRUCTDIFFUSION_WEBHOOK_SECRET"


def problem(headers: Mapping[str, str], body: bytes, secret: str, at: float) -> str:
    """What is wrong with a delivery; empty: it was signed with our secret, and lately. A pure function.

    Args:
        headers: of the request; names in any case, as Starlette has them.
        body: as it came.
        secret: that the webhook was made with.
        at: seconds since 1970, now.
    """
    identity, stamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
    if not identity or not stamp.isdecimal():
        return f"no {ID} or {TIMESTAMP}: not from MLflow"
    signed = hmac.new(secret.encode(), f"{identity}.{stamp}.".encode() + body, hashlib.sha256).digest()
    expected = f"v1,{base64.b64encode(signed).decode()}"
    if not hmac.compare_digest(expected.encode(), headers.get(SIGNATURE, "").encode()):
        return f"wrong {SIGNATURE}: give MLflow's webhook and {SECRET} the same secret"
    if abs(at - int(stamp)) > WINDOW:
        return f"{TIMESTAMP} is {at - int(stamp):.0f} s ago: an old delivery, or a clock that is wrong"
    return ""


def app(secret: str, wake: Callable[[], None], alive: Callable[[], bool]) -> Starlette:
    """The receiver: `POST /` calls `wake`, `GET /healthz` says whether who is woken is `alive`."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.body_limit import RequestBodyLimitMiddleware
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    async def receive(request: Request) -> Response:
        if reason := problem(request.headers, await request.body(), secret, time.time()):
            log.warning("a webhook is refused: %s", reason)
            return JSONResponse({"error": reason}, 401)
        wake()
        return Response(status_code=204)

    async def health(request: Request) -> Response:
        return PlainTextResponse("alive\n") if alive() else PlainTextResponse("the reconciler hangs\n", 503)

    return Starlette(
        routes=[Route("/", receive, methods=["POST"]), Route("/healthz", health)],
        middleware=[Middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)],
    )


@contextmanager
def receiver(
    secret: str, host: str, port: int, wake: Callable[[], None], alive: Callable[[], bool] = lambda: True
) -> Iterator[str]:
    """Listen within the block, for what wakes and for who asks whether we are alive; yields the address.

    Raises:
        ConfigError: there is no secret.
        ServiceError: the port is in use.
    """
    import uvicorn

    if not secret:
        raise ConfigError(f"a webhook needs a secret; set {SECRET} to one, as from: openssl rand -hex 20")
    port = claim_port(port, "--webhook-port", "the webhook")
    server = uvicorn.Server(uvicorn.Config(app(secret, wake, alive), host=host, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise ServiceError(f"the webhook can't listen at {host}:{port}; choose another --webhook-port")
        time.sleep(0.02)
    try:
        yield f"http://{host}:{port}/"
    finally:
        server.should_exit = True
        thread.join(10)


def subscribe(registry: Registry, url: str, secret: str) -> None:
    """Make MLflow call `url` whenever an alias moves; a webhook of that address that is there gets the secret anew.

    Raises:
        ServiceError: MLflow does not answer, or takes no such address.
    """
    try:
        with explained(registry.uri):
            there = [hook for hook in registry.client.list_webhooks(max_results=100) if hook.url == url]
            if there:
                registry.client.update_webhook(there[0].webhook_id, secret=secret, status="ACTIVE")
            else:
                name = f"{registry.model}-reconciler"
                registry.client.create_webhook(
                    name, url, ["model_version_alias.created", "model_version_alias.deleted"], secret=secret
                )
    except ServiceError as error:
        raise ServiceError(
            f"no webhook to {url}: {error}; for an address inside the cluster the MLflow server needs "
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https, MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true and "
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
        ) from None
