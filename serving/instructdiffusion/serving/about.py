"""Routes that tell about the service: its page, examples, and what KServe's clients ask before they send an edit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException

from instructdiffusion.serving import inference
from instructdiffusion.serving.bodies import content_type
from instructdiffusion.serving.examples import EACH, example
from instructdiffusion.serving.settings import Settings

PAGE = Path(__file__).parent / "page"
# The page needs nothing from elsewhere, and shows pictures that it made itself.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' data:; img-src 'self' data: blob:"


def addressed(settings: Settings) -> Callable[[Request, str], None]:
    """A dependency of routes with a model's name: it refuses another model's, and bodies that can't be read."""

    def check(request: Request, name: str) -> None:
        if name != settings.name:
            raise HTTPException(404, f"no model is named {name[:60]!r}; there is {settings.name}")
        if inference.BINARY in request.headers:
            raise HTTPException(415, "binary tensors are not read; send pictures in base64 (binary_data=False)")
        if request.method == "POST" and content_type(request) != "application/json":
            raise HTTPException(415, f"can't read {content_type(request) or 'no type'}; send application/json")

    return check


def tasks() -> dict[str, Any]:
    """The tasks by name: their family, and examples, each an instruction and the address of its picture."""
    from instructdiffusion.model.tasks import TASKS

    return {task.name: {"family": task.family, "examples": _examples(task.name)} for task in TASKS.values()}


def _examples(task: str) -> list[dict[str, str]]:
    instructions = [example(task, number)[1] for number in range(EACH)]
    return [{"instruction": words, "image": f"examples/{task}/{n}.png"} for n, words in enumerate(instructions)]


def example_picture(task: str, number: int) -> Response:
    """The picture of an example."""
    return Response(example(task, number)[0], media_type="image/png", headers={"Cache-Control": "max-age=3600"})


async def index(request: Request) -> Response:
    """The page to try it; to KServe's V1 client, which asks here whether the server lives, a word."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"status": "alive"})
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY, "Vary": "Accept"})


def router(settings: Settings, model_version: str, package_version: str) -> APIRouter:
    """The routes. Ready and live are one: Bento answers nothing at all until the weights are in memory."""
    routes, ours = APIRouter(), [Depends(addressed(settings))]
    routes.get("/", include_in_schema=False)(index)
    routes.get("/tasks")(tasks)
    routes.get("/examples/{task}/{number}.png", responses={200: {"content": {"image/png": {}}}})(example_picture)

    @routes.get("/v1/models")
    @routes.get("/v2/models")
    async def models() -> dict[str, Any]:
        """The models that are served here."""
        return {"models": [settings.name]}

    @routes.get("/v1/models/{name}", dependencies=ours)
    @routes.get("/v2/models/{name}/ready", dependencies=ours)
    async def model_ready() -> dict[str, Any]:
        """Whether the model can be asked."""
        return {"name": settings.name, "ready": True}

    @routes.get("/v2/models/{name}", dependencies=ours)
    async def model_metadata() -> dict[str, Any]:
        """The tensors that the model takes and gives."""
        return inference.metadata(settings.name, model_version)

    @routes.get("/v2")
    async def server_metadata() -> dict[str, Any]:
        """What this server is."""
        return {"name": "instructdiffusion", "version": package_version, "extensions": []}

    @routes.get("/v2/health/{state}")
    async def health(state: Literal["live", "ready"]) -> dict[str, bool]:
        """Whether the server lives, and whether edits can be asked for."""
        return {state: True}

    return routes
