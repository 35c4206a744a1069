"""Requests that people posted on the web, each with a picture before and one after: the rules for what is kept.

page  ->  posts  ->  nothing missing, licence allowed  ->  pictures  ->  none like them kept before  ->  triplet folder

Nothing here talks to a site, so every rule can be tried without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from instructdiffusion.model.data.looks import ALIKE, Pairs, look
from instructdiffusion.model.data.pictures import decode
from instructdiffusion.model.data.sources import licensed
from instructdiffusion.model.errors import DataError


class Refused(DataError):
    """A post that can't be used; `reason` starts with the field that is at fault."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Post:
    """What a page says of a request; a field is empty where it says nothing. Addresses are absolute."""

    address: str  # of the post itself
    request: str
    before: str  # address of the picture
    after: str
    licence: str  # in the site's words, an address, or both
    author: str = ""


class Markup(BaseModel):
    """Where a site's pages hold what: CSS selectors as Scrapy extends them (`::text`, `::attr(href)`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    post: str = Field("article", description="one request with its answer; what follows is looked for inside")
    request: str = Field(".request", description="what was asked for, in words")
    before: str = Field(".before::attr(src), .before img::attr(src)", description="address of the picture as it was")
    after: str = Field(".after::attr(src), .after img::attr(src)", description="address of the picture as it became")
    licence: str = Field("[rel~=license], [rel~=license]::attr(href)", description="words and address")
    author: str = Field("[rel~=author]", description="who is to be named")
    address: str = Field("[rel~=bookmark]::attr(href)", description="of the post itself; none: its page's")
    follow: str = Field(
        "a[rel~=next]::attr(href), a[rel~=bookmark]::attr(href)", description="pages to go on to, anywhere in a page"
    )


def check(post: Post, licences: Sequence[str]) -> None:
    """Judge a post before its pictures are fetched.

    Args:
        licences: that are allowed, * standing for any text.

    Raises:
        Refused: something is missing, or the licence is not on the list.
    """
    for field in ("request", "before", "after", "licence"):
        if not getattr(post, field):
            raise Refused(f"{field}: missing", f"{post.address} has no {field}")
    if not licensed(post.licence, licences):
        raise Refused("licence: not on the list", f"{post.address} is under {post.licence}")


def looks_of(post: Post, before: bytes, after: bytes) -> tuple[int, int]:
    """How the two pictures of a post look, 64 bits each.

    Raises:
        Refused: one is broken, or both show the same.
    """
    try:
        one, other = decode(before, post.before), decode(after, post.after)
    except DataError as error:
        raise Refused("picture: broken", str(error)) from error
    if np.array_equal(one, other):
        raise Refused("picture: the same before and after", f"{post.address} shows no change")
    return look(one), look(other)


class Seen:
    """Addresses and pictures of what was met before; 16 bytes for a pair of pictures."""

    def __init__(self) -> None:
        self._addresses: set[str] = set()
        self._pairs = Pairs()

    def __len__(self) -> int:
        return len(self._addresses)

    def __contains__(self, address: str) -> bool:
        return address in self._addresses

    def add(self, address: str, looks: tuple[int, int] | None = None) -> None:
        """Remember a post, and how its pictures look if it was kept."""
        self._addresses.add(address)
        if looks:
            self._pairs.add(looks)

    def check(self, post: Post, looks: tuple[int, int]) -> None:
        """Whatever its words, a pair is taken once: posted elsewhere, it was resized and compressed again.

        Raises:
            Refused: a pair like it was kept.
        """
        if self._pairs.nearest(looks) <= 2 * ALIKE:
            raise Refused("pictures: as in another post", f"{post.address} shows what another post does")


def frontier(start: str, leads: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Pages to read next: those that the start leads to by pages that are finished, and that are not finished.

    Args:
        leads: where each finished page leads to.
    """
    waiting, met = [start], {start}
    while waiting:
        page = waiting.pop(0)
        if page not in leads:
            yield page
        new = [lead for lead in dict.fromkeys(leads.get(page, ())) if lead not in met]
        met.update(new)
        waiting += new
