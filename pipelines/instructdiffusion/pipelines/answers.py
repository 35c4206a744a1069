"""Ask the service once per task, as a user would, and draw what it read from its own pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from instructdiffusion.model.task import Image
from instructdiffusion.serving.schema import EditResponse, Found, Joints, Nothing, Region, png_of

if TYPE_CHECKING:
    from instructdiffusion.model.data.shards import Triplet

SIDE = 192  # pixels that a small picture is enlarged to, so that what is drawn over it can be read
INK = ((230, 25, 75), (0, 130, 200), (60, 180, 75), (245, 130, 48), (145, 30, 180), (0, 0, 0))


@dataclass(frozen=True)
class Answer:
    """One call of the service: what was asked, what came back, and how good it is."""

    task: str
    instruction: str
    source: bytes  # PNG, as the other three
    target: bytes
    output: bytes
    drawn: bytes  # the output, larger, with the joints or the region that the service read
    result: dict[str, Any] | None  # the typed result, JSON-able
    words: str  # the same for people
    metric: str
    score: float
    seconds: float  # between request and answer
    model_version: str


def ask_each_task(address: str, shards: Path) -> Iterator[Answer]:
    """Send the first held-out triplet of every task to the service at `address`.

    Raises:
        ServiceError: it did not answer.
    """
    from instructdiffusion.model.data.shards import read_triplets
    from instructdiffusion.serving.client import Client

    seen: set[str] = set()
    with Client(address) as client:
        for triplet in read_triplets(shards):
            if triplet.ask.task not in seen:
                seen.add(triplet.ask.task)
                yield _ask(client, triplet)


def _ask(client: Any, triplet: Triplet) -> Answer:
    import time

    from instructdiffusion.model.tasks import EVERY

    task, began = EVERY[triplet.ask.task], time.perf_counter()
    response: EditResponse = client.edit(triplet.source, triplet.ask.instruction, task=task.name)
    seconds = time.perf_counter() - began
    output = np.asarray(response.picture.convert("RGB"))
    return Answer(
        task=task.name,
        instruction=triplet.ask.instruction,
        source=png_of(triplet.source),
        target=png_of(triplet.target),
        output=png_of(output),
        drawn=png_of(drawn(output, response.found)),
        result=response.found.model_dump(mode="json") if response.found else None,
        words=words(response.found),
        metric=task.metric.name,
        score=float(task.score(output, triplet.source, triplet.label, triplet.ask)[task.metric.name]),
        seconds=round(seconds, 3),
        model_version=response.model_version,
    )


def drawn(picture: Image, found: Found | None) -> Pillow.Image:
    """The picture enlarged, with joints as crosses and names, a region as its outline and box."""
    factor = max(1, SIDE // picture.shape[1])
    page = Pillow.fromarray(picture).resize(
        (picture.shape[1] * factor, picture.shape[0] * factor), Pillow.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(page)
    if isinstance(found, Joints):
        _draw_joints(draw, found, factor)
    elif isinstance(found, Region):
        _draw_region(draw, found, factor)
    return page


def _draw_joints(draw: ImageDraw.ImageDraw, found: Joints, factor: int) -> None:
    font, arm = ImageFont.load_default(11), 5
    for (name, joint), ink in zip(found.joints.items(), INK * len(found.joints), strict=False):
        x, y = (joint.x + 0.5) * factor, (joint.y + 0.5) * factor
        for dx, dy in ((arm, arm), (arm, -arm)):
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=ink, width=2)
        draw.text((x + arm + 1, y - 6), name, fill=ink, font=font, stroke_width=2, stroke_fill="white")


def _draw_region(draw: ImageDraw.ImageDraw, found: Region, factor: int) -> None:
    mask = np.pad(found.mask.pixels(), 1)
    edges = ((0, -1, (0, 0, 1, 0)), (0, 1, (0, 1, 1, 1)), (1, -1, (0, 0, 0, 1)), (1, 1, (1, 0, 1, 1)))
    for axis, shift, (x0, y0, x1, y1) in edges:
        outer = mask & ~np.roll(mask, -shift, axis)
        for y, x in np.argwhere(outer[1:-1, 1:-1]).tolist():
            line = ((x + x0) * factor, (y + y0) * factor, (x + x1) * factor, (y + y1) * factor)
            draw.line(line, fill=INK[0], width=2)
    left, top, right, bottom = (value * factor for value in found.box)
    draw.rectangle((left, top, right, bottom), outline=INK[1], width=2)


def words(found: Found | None) -> str:
    """A typed result in a line."""
    if isinstance(found, Joints):
        places = [f"{name} at {joint.x:.0f}, {joint.y:.0f}" for name, joint in found.joints.items()]
        return "; ".join(places) or "no joint found"
    if isinstance(found, Region):
        left, top, right, bottom = found.box
        pixels = int(found.mask.pixels().sum())
        return f"box {left:.0f}, {top:.0f} to {right:.0f}, {bottom:.0f}; mask of {pixels} pixels"
    return "nothing found" if isinstance(found, Nothing) else "a picture alone"
