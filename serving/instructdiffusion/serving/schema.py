"""What goes over the wire: a request, a response with its typed result, and the limits on both.

The service and the client share these classes, so neither torch nor bentoml is imported here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageOps
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)
from pydantic.config import JsonDict

from instructdiffusion.model.data.rle import decode_rle
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image, Mask
from instructdiffusion.serving.settings import Settings

LIMITS = Settings()  # where a caller names none: the defaults
MIN_SIDE, MAX_SIDE = 16, 8192  # pixels
MOST_STEPS = 1000  # a service's setting is lower
FORMATS = ("PNG", "JPEG", "WEBP")

# What a picture may hold: 16-bit and floating-point samples would be clipped without a word.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


class TooLarge(DataError):
    """A picture or a request exceeds a limit on its size."""


def read_picture(data: bytes, field: str = "image", limits: Settings = LIMITS) -> Image:
    """Decode a PNG, JPEG or WebP picture, turned upright, as uint8 height x width x 3; alpha is dropped.

    Its header is checked before any pixel is read, so a small file can't unfold to a huge picture.

    Raises:
        DataError: not such a picture, cut short, or a side out of range; the line starts with `field`.
        TooLarge: more bytes or pixels than the limits.
    """
    picture = _opened(data, field, limits)
    try:
        upright = PIL.ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:
        raise DataError(f"{field}: the {picture.format} data is damaged or cut short; send it again") from error
    return np.asarray(upright)


def pixels_of(data: bytes, field: str = "image", limits: Settings = LIMITS) -> int:
    """How many pixels a picture has by its header, which is all that is read of it.

    Raises:
        DataError, TooLarge: as `read_picture` does for what the header tells.
    """
    width, height = _opened(data, field, limits).size
    return width * height


def _opened(data: bytes, field: str, limits: Settings) -> PIL.Image.Image:
    """The picture with its header checked, and no pixel decoded."""
    if len(data) > limits.max_bytes:
        raise TooLarge(f"{field}: {len(data)} bytes, the limit is {limits.max_bytes}; send a smaller picture")
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.Image.DecompressionBombError as error:
        raise TooLarge(f"{field}: far over {limits.max_pixels} pixels, the limit; send a smaller picture") from error
    except Exception as error:  # the decoders raise anything from OSError to struct.error
        raise DataError(f"{field}: not a picture that can be read; send {', '.join(FORMATS)}") from error
    _check_size(picture, field, limits.max_pixels)
    return picture


def _check_size(picture: PIL.Image.Image, field: str, most: int) -> None:
    width, height = picture.size
    if width * height > most:
        raise TooLarge(
            f"{field}: {width} x {height} = {width * height} pixels, the limit is {most}; send a smaller picture"
        )
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise DataError(f"{field}: {width} x {height} pixels, each side must be {MIN_SIDE} to {MAX_SIDE}")
    if picture.mode not in _MODES:
        raise DataError(f"{field}: samples of kind {picture.mode}; send 8 bits per channel")


def png_of(picture: Image | PIL.Image.Image) -> bytes:
    """Encode a picture (uint8 height x width x 3, or Pillow's) as PNG."""
    buffer = io.BytesIO()
    (picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)).save(buffer, "PNG")
    return buffer.getvalue()


def _decode(value: object) -> PIL.Image.Image:
    if isinstance(value, PIL.Image.Image):
        return value
    if isinstance(value, str):
        return PIL.Image.open(io.BytesIO(base64.b64decode(value, validate=True)))
    raise ValueError("send a PNG in base64")


def _file(value: object) -> object:
    """The bytes of a picture's file from any form that callers send: bytes, base64, {"b64": base64}, a data: URI."""
    if isinstance(value, bytes):
        return value
    text = value.get("b64") if isinstance(value, dict) and len(value) == 1 else value
    if isinstance(text, str):
        head, comma, tail = text.partition(",")
        try:
            return base64.b64decode(tail if comma and head.startswith("data:") else text, validate=True)
        except ValueError:
            pass
    raise ValueError("send the picture itself: a file, or its bytes in base64, neither its name nor its address")


File = Annotated[
    bytes,
    BeforeValidator(_file),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": f"{', '.join(FORMATS)}, in base64"}),
]


def _encode(picture: PIL.Image.Image) -> str:
    return base64.b64encode(png_of(picture)).decode()


Picture = Annotated[
    PIL.Image.Image,
    PlainValidator(_decode),
    PlainSerializer(_encode, return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}),
]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


EXAMPLE: JsonDict = {
    "image": _encode(PIL.Image.new("RGB", (64, 64), "seagreen")),
    "instruction": "Add a red ball in the middle.",
    "seed": 7,
}


class EditRequest(_Message):
    """A picture and what to do to it; how, where it is left out, is up to the model."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    image: File
    instruction: str = Field(min_length=1, max_length=500, pattern=r"\S", description="what to do, in words")
    task: str | None = Field(None, description="a task's name; left out, the instruction tells which one it is")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="the same seed gives the same edit")
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="denoising steps")
    text_guidance: float | None = Field(None, ge=0, le=30, description="weight of the instruction")
    image_guidance: float | None = Field(None, ge=0, le=30, description="weight of the source picture")


class Joint(_Message):
    """A keypoint, in pixels of the picture that was sent."""

    x: float
    y: float
    confidence: float = Field(ge=0, le=1)


class Joints(_Message):
    """The keypoints found, by name; those not found are left out."""

    kind: Literal["joints"] = "joints"
    joints: dict[str, Joint]


class Runs(_Message):
    """A mask as COCO's uncompressed run lengths: column by column, background first."""

    size: tuple[int, int] = Field(description="height, width in pixels")
    counts: list[int]

    def pixels(self) -> Mask:
        """The mask as a bool array, height x width.

        Raises:
            DataError: the runs don't add up to the size.
        """
        height, width = self.size
        if sum(self.counts) != height * width:
            raise DataError(f"mask: runs of {sum(self.counts)} pixels for a picture of {height} x {width}")
        return decode_rle(self.model_dump())


class Region(_Message):
    """The pixels found, and the box round them."""

    kind: Literal["region"] = "region"
    box: tuple[float, float, float, float] = Field(
        description="left, top, right, bottom: pixels, right and bottom excluded"
    )
    mask: Runs


class Nothing(_Message):
    """The task looked for something, or was to change something, and there is nothing of it in the answer."""

    kind: Literal["nothing"] = "nothing"


Found = Joints | Region | Nothing


def found_of(found: Mapping[str, Any]) -> Joints | Region | None:
    """The typed form of what the editor found; None when it found nothing, or was not to find anything."""
    if "joints" in found:
        return Joints(joints=found["joints"])
    if "mask" in found:
        return Region(box=found["box"], mask=found["mask"])
    return None


class EditResponse(BaseModel):
    """The edited picture and what the model read in it."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, protected_namespaces=())

    picture: Picture = Field(description="PNG in base64, of the size that was sent")
    task: str | None = Field(description="the task that was understood; none for a plain edit")
    found: Annotated[Found, Field(discriminator="kind")] | None = Field(
        description="joints, a region, or that nothing was found; none where nothing was to be found"
    )
    confidence: float | None = Field(
        None, ge=0, le=1, description="how clearly `found` stands in the answer; none where there is none"
    )
    seed: int
    seconds: float = Field(description="time the model took")
    model_version: str


def complaint(error: ValidationError | list[Any], where: str = "") -> str:
    """Everything that is wrong with a request, in one line that names each field, with `where` before its name."""
    items: list[Any] = list(error.errors()) if isinstance(error, ValidationError) else error
    return "; ".join(where + _one(item) for item in items)


def _one(item: Mapping[str, Any]) -> str:
    path = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"] if part != "body"]
    field = "".join(path).lstrip(".") or "request"
    if item["type"] == "missing":
        return f"{field}: missing; it must be given"
    if item["type"] == "extra_forbidden":
        return f"{field}: no such field; there are {', '.join(EditRequest.model_fields)}"
    message = " ".join(str(item["msg"]).removeprefix("Value error, ").split())
    given = "" if item["type"] in ("value_error", "json_invalid") else f", not {str(item.get('input'))[:60]!r}"
    return f"{field}: {message[:1].lower()}{message[1:]}{given}"
