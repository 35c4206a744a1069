"""Pictures as the world stores them, good ones and bad ones, each under a name that says which."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import published
from PIL import Image as Pillow

#: Stored in an unusual way, and fine.
FINE = ("plain", "print", "deep", "clear", "gray", "palette", "turned", "speck", "wide")
#: Of no use, whatever is done.
BAD = ("cut", "page", "nothing", "bomb", "thread")


def spread(folder: Path, ending: str = ".png") -> dict[str, Path]:
    """Write one of each into a folder; the ending says nothing of the content."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = Pillow.fromarray(published.texture(5, (96, 64)))
    exif = Pillow.Exif()
    exif[0x0112] = 6
    paths = {name: folder / f"{name}{ending}" for name in (*FINE, *BAD)}
    drawn.save(paths["plain"], "PNG")
    drawn.convert("CMYK").save(paths["print"], "JPEG")
    Pillow.fromarray(np.asarray(drawn.convert("L"), np.uint16) * 257).save(paths["deep"], "PNG")
    drawn.convert("RGBA").save(paths["clear"], "PNG")
    drawn.convert("L").save(paths["gray"], "PNG")
    drawn.convert("P").save(paths["palette"], "PNG")
    drawn.save(paths["turned"], "JPEG", exif=exif)
    drawn.resize((1, 1)).save(paths["speck"], "PNG")
    drawn.resize((450, 9)).save(paths["wide"], "PNG")
    drawn.save(paths["cut"], "JPEG")
    paths["cut"].write_bytes(paths["cut"].read_bytes()[:-400])
    paths["page"].write_text("<html>404</html>")
    paths["nothing"].write_bytes(b"")
    paths["bomb"].write_bytes(bomb(30_000))
    Pillow.new("RGB", (30_000, 1)).save(paths["thread"], "PNG")
    return paths


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it is `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))
