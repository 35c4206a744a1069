"""The service: `/edit`, KServe's V1 and V2 protocols, a page to try it, health and metrics.

The routes are FastAPI's, mounted in the Bento, because Bento's own multipart fields fetch any URL they are
given and answer a picture they can't decode with an internal error. Health and metrics stay Bento's; the
description at `/docs.json` is ours, as Bento's would not know these routes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated

import bentoml
import PIL.Image
from fastapi import Body, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.startup import ADAPTERS, UNUSED, hidden
from instructdiffusion.serving import about
from instructdiffusion.serving.bodies import EDIT_BODY, INFER, PREDICT, REFUSALS, edit_request
from instructdiffusion.serving.guard import VERSION_HEADER, Guard, Pace
from instructdiffusion.serving.inference import InferRequest, PredictRequest, PredictResponse
from instructdiffusion.serving.metrics import metrics
from instructdiffusion.serving.reading import answer_of
from instructdiffusion.serving.schema import EditRequest, EditResponse, TooLarge, complaint, pixels_of, read_picture
from instructdiffusion.serving.settings import Settings

if TYPE_CHECKING:
    from instructdiffusion.model.editor import Editor

log = logging.getLogger(__name__)

NAME = "instructdiffusion"
SETTINGS = Settings.from_environment()
PACE = Pace()


class Arguments(BaseModel):
    """What a Bento is built with, kept in it and read back when it is served."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    weights: str = ""  # tag in Bento's model store; empty: the base model that comes with the package
    model_version: str = "base"


ARGUMENTS = bentoml.use_arguments(Arguments)
VERSION = SETTINGS.version or ARGUMENTS.model_version


def load_editor(weights: Path | None) -> Editor:
    """Load the model that answers: a folder in the diffusers layout, or the embedded base."""
    with hidden(*UNUSED, *ADAPTERS):
        from instructdiffusion.model.editor import Editor

    return Editor.load(weights)


def mounted(folder: Path) -> Path | None:
    """The model that KServe's storage initializer put into a folder, or directly below it; None: it put nothing there.

    Raises:
        ConfigError: what is there is no model. The Bento's own would answer in its place, and nobody would notice.
    """
    found = [path.parent for path in (folder / "editor.json", *sorted(folder.glob("*/editor.json"))) if path.is_file()]
    if not found and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds no model: no editor.json there or directly below; correct the storageUri")
    if len(found) > 1 and found[0] != folder:
        raise ConfigError(f"{folder} holds {len(found)} models ({', '.join(p.name for p in found)}); give it one")
    return found[0] if found else None


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
    version=VERSION,
    openapi_url="/docs.json",
    docs_url=None,
    redoc_url=None,
)
app.add_middleware(Guard, settings=SETTINGS, pace=PACE, version=VERSION)


def _refusal(status: int, line: str) -> JSONResponse:
    return JSONResponse({"error": line}, status)


@app.exception_handler(RequestValidationError)
async def _invalid(request: Request, error: RequestValidationError) -> Response:
    return _refusal(400, complaint(list(error.errors())))


@app.exception_handler(ConfigError)
@app.exception_handler(DataError)
async def _wrong(request: Request, error: DataError | ConfigError) -> Response:
    return _refusal(413 if isinstance(error, TooLarge) else 400, str(error))


@app.exception_handler(HTTPException)
async def _refused(request: Request, error: HTTPException) -> Response:
    return _refusal(error.status_code, f"{request.url.path}: {error.detail}")


@app.exception_handler(Exception)
async def _failed(request: Request, error: Exception) -> Response:
    # The trace goes to the log alone: it may hold what a caller must not see. No middleware comes after this.
    metrics().refused.labels("failed").inc()
    answer = _refusal(500, "the edit failed on the server; its log says why")
    answer.headers[VERSION_HEADER] = VERSION
    return answer


ADDRESSED = [Depends(about.addressed(SETTINGS))]


@bentoml.service(
    name=NAME,
    image=_image(),
    workers=1,
    traffic={"timeout": 300},  # seconds; how many may wait is the guard's to say, with when to come back
)
@bentoml.asgi_app(app, path="/")
class Service:
    """Edits pictures by instruction, one at a time."""

    if ARGUMENTS.weights:
        weights = bentoml.models.BentoModel(ARGUMENTS.weights)

    def __init__(self) -> None:
        # Bento answers /readyz only after this returns, so ready means that the weights are in memory.
        self.editor = load_editor(
            mounted(Path(SETTINGS.models)) or (Path(self.weights.path) / "model" if ARGUMENTS.weights else None)
        )
        self.lock = Lock()

    @app.post("/edit", response_model=EditResponse, responses=REFUSALS, openapi_extra=EDIT_BODY)
    async def edit(self, request: Request) -> Response:
        """Edit `image` as `instruction` says; the answer holds the picture and what was found in it."""
        (answer,) = await run_in_threadpool(self.edited, [await edit_request(request)], "")
        return _json(answer)

    @app.post("/v1/models/{name}:predict", response_model=PredictResponse, responses=REFUSALS, dependencies=ADDRESSED)
    def predict(self, body: Annotated[PredictRequest, Body(examples=[PREDICT])]) -> Response:
        """Edit each instance, by KServe's V1 protocol."""
        return _json(PredictResponse(predictions=self.edited(body.instances, "instances[{}].")))

    @app.post("/v2/models/{name}/infer", responses=REFUSALS, dependencies=ADDRESSED)
    def infer(self, body: Annotated[InferRequest, Body(examples=[INFER])]) -> JSONResponse:
        """Edit each element of the tensors, by KServe's V2 protocol; `GET /v2/models/{name}` lists the tensors."""
        answers = self.edited(body.edits(), "inputs[{}].")
        return JSONResponse(body.answer(SETTINGS.name, VERSION, answers))

    def edited(self, edits: Sequence[EditRequest], where: str) -> list[EditResponse]:
        """The answers to one request. All of it is checked, pictures by their headers, before the first is edited.

        Raises:
            ConfigError, DataError: something in it is wrong or over its limit; `where` comes before a field's name.
        """
        several = where.partition("[")[0]  # the field that holds them; one picture alone has met its own limit
        if len(edits) > SETTINGS.max_pictures:
            raise DataError(
                f"{several}: {len(edits)} pictures in a request, the limit is {SETTINGS.max_pictures}; send several"
            )
        pixels = sum(_checked(edit, where.format(i)) for i, edit in enumerate(edits))
        if pixels > SETTINGS.max_pixels:
            raise TooLarge(f"{several}: {pixels} pixels in a request, the limit is {SETTINGS.max_pixels}; send several")
        return [self.answer(edit, where.format(i)) for i, edit in enumerate(edits)]

    def answer(self, request: EditRequest, where: str) -> EditResponse:
        """Edit one picture, and count it."""
        options = request.model_dump(exclude={"image", "instruction"}, exclude_none=True)
        # One pipeline, whose scheduler keeps state between steps. Those who wait for it hold files only, for a
        # file may unfold to a thousand times its size.
        with self.lock:
            picture = read_picture(request.image, f"{where}image", SETTINGS)
            edit = self.editor.edit(picture, request.instruction, **options)
        task = edit.ask.task if edit.ask else None
        PACE.took(edit.seconds)
        metrics().edits.labels(task or "none").inc()
        metrics().seconds.labels(task or "none").observe(edit.seconds)
        found, confidence = answer_of(edit, picture)
        return EditResponse(
            picture=PIL.Image.fromarray(edit.picture),
            task=task,
            found=found,
            confidence=confidence,
            seed=edit.seed,
            seconds=edit.seconds,
            model_version=VERSION,
        )


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _checked(edit: EditRequest, where: str) -> int:
    """The pixels of a request whose task and steps are what they may be, as its picture's header says."""
    from instructdiffusion.model.tasks import TASKS

    problems = []
    if edit.task is not None and edit.task not in TASKS:
        problems.append(f"{where}task: no task is named {edit.task[:60]!r}; there are {', '.join(TASKS)}")
    if edit.steps is not None and edit.steps > SETTINGS.max_steps:
        problems.append(f"{where}steps: {edit.steps}, the limit is {SETTINGS.max_steps}")
    if problems:
        raise ConfigError("; ".join(problems))
    return pixels_of(edit.image, f"{where}image", SETTINGS)


app.include_router(about.router(SETTINGS, VERSION, _package_version()))
app.mount("/page", StaticFiles(directory=about.PAGE))
