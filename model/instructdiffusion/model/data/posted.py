"""A triplet folder that grows post by post, and knows what it has when it is opened again.

    triplets.jsonl     what was kept, as `readers/own.py` reads it
    rejected.jsonl     what was not, each with its reason
    pages.jsonl        pages that are finished, and where they lead to
    before/, after/    pictures as they were served

Each line is written once what it names is there, so that a crawl can be killed at any time.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from instructdiffusion.model.data.posts import Post, Refused, Seen, looks_of
from instructdiffusion.model.data.readers.own import LIST
from instructdiffusion.model.data.readers.photos import lines_of
from instructdiffusion.model.files import append_line, write_atomic

REJECTED, PAGES = "rejected.jsonl", "pages.jsonl"


class Posted:
    """The folder; `leads` holds where each finished page leads to, `kept` how many triplets there are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen = Seen()
        self.kept = 0
        self.rejected = Counter[str]()
        self.leads: dict[str, list[str]] = {}
        for line in self._lines(LIST):
            before, after = (int(look, 16) for look in line["looks"])
            self.seen.add(line["address"], (before, after))
            self.kept += 1
        for line in self._lines(REJECTED):
            self.seen.add(line["address"])
            self.rejected[line["reason"]] += 1
        for line in self._lines(PAGES):
            self.leads[line["page"]] = line["leads"]

    def keep(self, post: Post, before: bytes, after: bytes) -> None:
        """Add a post with its pictures.

        Raises:
            Refused: a picture is broken, nothing changes, or a pair like it was kept.
            DataError: the disk is full; what was kept stays.
        """
        looks = looks_of(post, before, after)
        self.seen.check(post, looks)
        key = hashlib.sha256(before + after).hexdigest()[:16]
        names = {"source": _name("before", key, before), "target": _name("after", key, after)}
        for name, data in zip(names.values(), (before, after), strict=True):
            write_atomic(self.folder / name, data)
        told = {"instruction": post.request, "licence": post.licence, "author": post.author, "address": post.address}
        self._add(LIST, {**names, **told, "looks": [f"{look:016x}" for look in looks]})
        self.seen.add(post.address, looks)
        self.kept += 1

    def reject(self, post: Post, refused: Refused) -> None:
        """Remember why a post was not kept."""
        self._add(REJECTED, {"address": post.address, "reason": refused.reason, "told": str(refused)})
        self.seen.add(post.address)
        self.rejected[refused.reason] += 1

    def finish(self, page: str, leads: Sequence[str]) -> None:
        """Remember that all posts of a page were kept or rejected, and where it leads to."""
        self._add(PAGES, {"page": page, "leads": list(leads)})
        self.leads[page] = list(leads)

    def _add(self, name: str, line: dict[str, Any]) -> None:
        append_line(self.folder / name, json.dumps(line, ensure_ascii=False))

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The whole lines of a file: one that was cut short is written again when its post is met again."""
        path = self.folder / name
        return (line for line in lines_of(path) if isinstance(line, dict)) if path.is_file() else iter(())


def _name(folder: str, key: str, data: bytes) -> str:
    """Where a picture goes; its content decides the ending."""
    with Pillow.open(io.BytesIO(data)) as picture:
        kind = (picture.format or "").lower()
    return f"{folder}/{key}.{ {'jpeg': 'jpg', 'mpo': 'jpg'}.get(kind, kind) }"
