"""Addresses: where files and folders lie, as sources files and policies name them.

coco, ../coco                   beside the file that names it
/data/coco, s3://bucket/coco    anywhere on disk, or in the store
lama:big-lama.pt                a network: what it is, and behind a colon where it lies
openai/clip-vit-large-patch14   where a network is named without its kind: a hub id, unless it begins with a dot
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable

S3 = "s3://"
FILES = ("lama:",)  # kinds of networks that are files, never on the hub
KINDS = (*FILES, "paint-by-example:", "blip2:")
Move = Callable[[str, bool], str]  # an address, and whether it is a path for sure: as `below` takes them


def parted(address: str) -> tuple[str, str]:
    """What an address says it is, with its colon, and where that lies; most say nothing of the first."""
    kind = next((kind for kind in KINDS if address.startswith(kind)), "")
    return kind, address.removeprefix(kind)


def below(address: str, folder: str, sure: bool = True) -> str:
    """An address that is relative to a folder, which may be in the store, as one that is relative to nothing.

    Args:
        sure: whether it names a file or a folder; else it may be a word or a hub id, and is a path if it has a dot
            in front.
    """
    kind, place = parted(address)
    dotted = place.startswith(("./", "../"))
    if not place or place.startswith((S3, "/")) or not (sure or dotted or kind in FILES):
        return address
    scheme = S3 if folder.startswith(S3) else ""
    return f"{kind}{scheme}{posixpath.normpath(f'{folder.removeprefix(scheme)}/{place}')}"
