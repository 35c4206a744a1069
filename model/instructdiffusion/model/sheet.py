"""Contact sheets: source, output and target side by side under their instruction."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.task import Image

SCALE = 2  # enlargement of pictures narrower than 128 pixels
GAP, TEXT = 6, 30  # pixels between pictures, and for two lines of instruction
COLUMNS = 3  # triplets a row


def contact_sheet(triplets: Sequence[Triplet], outputs: Sequence[Image]) -> bytes:
    """A PNG with one cell per triplet: instruction, then source | output | target."""
    cells = [_cell(t, o) for t, o in zip(triplets, outputs, strict=True)]
    width, height = cells[0].size
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    page = Pillow.new("RGB", (columns * (width + 2 * GAP), rows * (height + GAP) + GAP), "white")
    for i, cell in enumerate(cells):
        page.paste(cell, (GAP + (i % columns) * (width + 2 * GAP), GAP + (i // columns) * (height + GAP)))
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def first_output(sheet: bytes, side: int) -> Image:
    """The output of a sheet's first triplet, whose pictures are `side` pixels wide."""
    factor = SCALE if side < 128 else 1
    left, top = 2 * GAP + side * factor, GAP + TEXT
    with Pillow.open(io.BytesIO(sheet)) as page:
        shown = page.convert("RGB").crop((left, top, left + side * factor, top + side * factor))
    return np.asarray(shown.resize((side, side), Pillow.Resampling.NEAREST), np.uint8)


def _cell(triplet: Triplet, output: Image) -> Pillow.Image:
    pictures = [_enlarged(p) for p in (triplet.source, output, triplet.target)]
    side = pictures[0].width
    cell = Pillow.new("RGB", (3 * side + 2 * GAP, TEXT + side), "white")
    lines = textwrap.wrap(triplet.ask.instruction, max(20, cell.width // 6))[:2]
    ImageDraw.Draw(cell).multiline_text(
        (0, 2), "\n".join(lines), fill="black", font=ImageFont.load_default(11), spacing=1
    )
    for i, picture in enumerate(pictures):
        cell.paste(picture, (i * (side + GAP), TEXT))
    return cell


def _enlarged(picture: Image) -> Pillow.Image:
    image = Pillow.fromarray(np.ascontiguousarray(picture))
    factor = SCALE if image.width < 128 else 1
    return image.resize((image.width * factor, image.height * factor), Pillow.Resampling.NEAREST)
