"""The service `instructdiffusion`: `POST /edit` takes a picture and an instruction and answers with the edit.

The routes are FastAPI's, mounted in the Bento, because Bento's own multipart fields fetch any URL they are
given and answer a picture they can't decode with an internal error. Health and metrics stay Bento's; the
description at `/docs.json` is ours, as Bento's would not know these routes.
"""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any

import bentoml
import PIL.Image
from fastapi import FastAPI, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.serving.schema import (
    MAX_BYTES,
    EditRequest,
    EditResponse,
    TooLarge,
    complaint,
    found_of,
    read_picture,
)

if TYPE_CHECKING:
    from instructdiffusion.model.editor import Editor

log = logging.getLogger(__name__)

NAME = "instructdiffusion"
MAX_BODY = MAX_BYTES + 2**16  # the picture and the other fields
MAX_REQUESTS = 16  # waiting or at work; further ones are answered 429
VERSION_HEADER = "X-Model-Version"


class Arguments(BaseModel):
    """What a Bento is built with, kept in it and read back when it is served."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    weights: str = ""  # tag in Bento's model store; empty: the base model that comes with the package
    model_version: str = "base"


ARGUMENTS = bentoml.use_arguments(Arguments)


def load_editor(weights: Path | None) -> Editor:
    """Load the model that answers: a folder in the diffusers layout, or the embedded base."""
    from instructdiffusion.model.editor import Editor

    return Editor.load(weights)


class BodyLimit:
    """Refuse a body by its announced length, in a line that names the limit; Starlette counts the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = Headers(scope=scope).get("content-length", "0") if scope["type"] == "http" else "0"
        if length.isdigit() and int(length) > MAX_BODY:
            line = f"image: a request of {length} bytes, the limit is {MAX_BODY}; send a smaller picture"
            await _refusal(413, line)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _refusal(status: int, line: str) -> JSONResponse:
    return JSONResponse({"error": line}, status, {VERSION_HEADER: ARGUMENTS.model_version})


def _package_version() -> str:
    try:
        return version("instructdiffusion")
    except PackageNotFoundError:  # run from a clone that was not installed
        return ""


def _image() -> bentoml.images.Image:
    """The container of the Bento: this package at the version that built it.

    Locking every package would need the index at build time, and would pin the GPU build of torch.
    """
    pinned = f"=={_package_version()}" if _package_version() else ""
    return bentoml.images.Image(python_version="3.11", lock_python_packages=False).python_packages(
        f"instructdiffusion[serve]{pinned}"
    )


app = FastAPI(
    title="InstructDiffusion",
    description="Edits, restores and reads pictures by instruction.",
    version=ARGUMENTS.model_version,
    openapi_url="/docs.json",
    docs_url=None,
    redoc_url=None,
)
app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)
app.add_middleware(BodyLimit)


class Refusal(BaseModel):
    """Why a request was refused: one line that names each wrong field and its limit."""

    error: str


class EditForm(EditRequest):
    """The fields of `POST /edit`, as multipart."""

    image: UploadFile


@app.exception_handler(RequestValidationError)
async def _invalid(request: Request, error: RequestValidationError) -> Response:
    return _refusal(400, complaint(list(error.errors())))


@app.exception_handler(ConfigError)
@app.exception_handler(DataError)
async def _wrong(request: Request, error: DataError | ConfigError) -> Response:
    return _refusal(413 if isinstance(error, TooLarge) else 400, str(error))


@app.exception_handler(HTTPException)
async def _refused(request: Request, error: HTTPException) -> Response:
    if error.status_code == 413:  # a body that did not announce its length
        return _refusal(413, f"image: the limit of a request is {MAX_BODY} bytes; send a smaller picture")
    return _refusal(error.status_code, f"{request.url.path}: {error.detail}")


@app.exception_handler(Exception)
async def _failed(request: Request, error: Exception) -> Response:
    # The trace goes to the log alone: it may hold what a caller must not see.
    return _refusal(500, "the edit failed on the server; its log says why")


@bentoml.service(
    name=NAME,
    image=_image(),
    workers=1,
    traffic={"timeout": 300, "max_concurrency": MAX_REQUESTS},
)
@bentoml.asgi_app(app, path="/")
class Service:
    """Edits pictures by instruction, one at a time."""

    if ARGUMENTS.weights:
        weights = bentoml.models.BentoModel(ARGUMENTS.weights)

    def __init__(self) -> None:
        # Bento answers /readyz only after this returns, so ready means that the weights are in memory.
        self.editor = load_editor(Path(self.weights.path) / "model" if ARGUMENTS.weights else None)
        self.lock = Lock()

    @app.post("/edit", response_model=EditResponse, responses={"4XX": {"model": Refusal}})
    def edit(self, form: Annotated[EditForm, Form(media_type="multipart/form-data")]) -> Response:
        """Edit `image` as `instruction` says; the answer holds the picture and what was found in it."""
        _check_task(form.task)
        picture = read_picture(form.image.file.read(MAX_BYTES + 1))
        options = form.model_dump(exclude={"image", "instruction"}, exclude_none=True)
        with self.lock:  # one pipeline, whose scheduler keeps state between steps
            edit = self.editor.edit(picture, form.instruction, **options)
        answer = EditResponse(
            picture=PIL.Image.fromarray(edit.picture),
            task=edit.ask.task if edit.ask else None,
            found=found_of(edit.found),
            seed=edit.seed,
            seconds=edit.seconds,
            model_version=ARGUMENTS.model_version,
        )
        return Response(answer.model_dump_json(), 200, {VERSION_HEADER: ARGUMENTS.model_version}, "application/json")

    @app.get("/tasks")
    def tasks(self) -> dict[str, Any]:
        """The tasks by name: their family, and some ways to ask for them."""
        from instructdiffusion.model.tasks import TASKS

        return {task.name: {"family": task.family, "examples": task.templates[:3]} for task in TASKS.values()}


@app.get("/", include_in_schema=False)
def index() -> Response:
    """Show the description: the page that Bento would show loads a tracker and scripts from elsewhere."""
    return RedirectResponse("/docs.json")


def _check_task(name: str | None) -> None:
    from instructdiffusion.model.tasks import TASKS

    if name is not None and name not in TASKS:
        raise ConfigError(f"task: no task is named {name[:60]!r}; there are {', '.join(TASKS)}")
