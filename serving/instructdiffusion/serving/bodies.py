"""How the bodies of the routes are read, and how the description shows them."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from instructdiffusion.model.errors import DataError
from instructdiffusion.serving.inference import TENSORS
from instructdiffusion.serving.schema import EXAMPLE, EditRequest, complaint


class Refusal(BaseModel):
    """Why a request was refused: one line that names each wrong field and its limit."""

    error: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal},
    429: {"model": Refusal, "description": "Too many requests wait; the header Retry-After says when to try again."},
}


def content_type(request: Request) -> str:
    """The media type of a request's body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def edit_request(request: Request) -> EditRequest:
    """The edit that a JSON object or a form asks for.

    Raises:
        DataError: a field is missing, unknown or wrong; HTTPException: it is neither.
    """
    kind = content_type(request)
    try:
        if kind == "application/json":
            return EditRequest.model_validate_json(await request.body())
        if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
            raise HTTPException(415, f"can't read {kind or 'no type'}; send multipart/form-data or application/json")
        async with request.form(max_files=1, max_fields=16) as form:
            fields = {n: await v.read() if isinstance(v, UploadFile) else v for n, v in form.items()}
        return EditRequest.model_validate({name: value for name, value in fields.items() if value != ""})
    except ValidationError as error:
        raise DataError(complaint(error)) from error


_SCHEMA = EditRequest.model_json_schema()
_FORM = {**_SCHEMA["properties"], "image": {"type": "string", "format": "binary", "description": "a picture's file"}}
EDIT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _SCHEMA, "example": EXAMPLE},
            "multipart/form-data": {"schema": {**_SCHEMA, "title": "EditForm", "properties": _FORM, "examples": []}},
        },
    }
}
PREDICT = {"instances": [EXAMPLE]}
INFER = {
    "inputs": [
        {"name": name, "datatype": TENSORS[name], "shape": [1], "data": [value]} for name, value in EXAMPLE.items()
    ]
}
