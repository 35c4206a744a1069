"""The spider of a crawl: reads pages in the order in which they lead to each other, and settles their posts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urlsplit

import scrapy
from cssselect import SelectorError
from scrapy import exceptions
from scrapy.http.request import NO_CALLBACK

from instructdiffusion.model.data.posted import Posted
from instructdiffusion.model.data.posts import Markup, Post, Refused, check, frontier
from instructdiffusion.model.data.readers.editing import text_of
from instructdiffusion.model.errors import ConfigError

if TYPE_CHECKING:
    from parsel import Selector
    from scrapy.http import Request, Response, TextResponse

log = logging.getLogger(__name__)

GONE = frozenset(range(400, 500)) - {408, 429}  # answers that will be the same tomorrow
_LOST = (
    exceptions.CannotResolveHostError,
    exceptions.DownloadConnectionRefusedError,
    exceptions.DownloadFailedError,
    exceptions.DownloadTimeoutError,
    exceptions.ResponseDataLossError,
)


class Requests(scrapy.Spider):
    """Once a post is kept or rejected, and once a page is finished, that is on disk.

    `broken` is what ended the crawl, if anything did; `ended` Scrapy's word for why it closed; `forbidden` how many
    pages robots.txt forbids, `failed` how many pages and posts the site failed to give, and `why` it did the last one.
    """

    name = "requests"

    def __init__(
        self, begin: str, licences: Sequence[str], markup: Markup, posted: Posted, most: int | None,
        progress: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        super().__init__(allowed_domains=[urlsplit(begin).hostname])
        self.begin, self.licences, self.markup, self.posted = begin, licences, markup, posted
        self.most, self.progress = most, progress
        self.failed = self.forbidden = 0
        self.why = self.ended = ""
        self.broken: Exception | None = None

    async def start(self) -> AsyncIterator[Request]:
        for page in frontier(self.begin, self.posted.leads):
            yield self._page(page)

    async def parse(self, response: Response, page: str) -> AsyncIterator[Request]:
        """Keep or reject the posts of a page, and go on to where it leads."""
        try:
            leads, failures = leads_of(response, self.markup), self.failed
            for post in posts_of(response, self.markup):
                await self._settle(post)
            if self.failed == failures:
                self.posted.finish(page, leads)
        except exceptions.CloseSpider:
            raise
        except Exception as error:
            self.broken = error
            raise exceptions.CloseSpider("broken") from error
        for lead in leads:
            if lead not in self.posted.leads:
                yield self._page(lead)

    def closed(self, reason: str) -> None:
        self.ended = reason

    def _page(self, page: str) -> Request:
        return scrapy.Request(page, cb_kwargs={"page": page}, errback=self._lost)

    def _lost(self, failure: Any) -> None:
        """A page that can't be read: gone for good, not for us, or to be tried again the next time."""
        page, error = failure.request.cb_kwargs["page"], failure.value
        if getattr(getattr(error, "response", None), "status", 0) in GONE:
            self.posted.finish(page, [])
        elif isinstance(error, exceptions.IgnoreRequest) and not hasattr(error, "response"):
            self.forbidden += 1
            self.why = str(error)
        else:
            self._failed(page, error)

    async def _settle(self, post: Post) -> None:
        """Keep a post or reject it, once and for all; one whose pictures the site failed to give is met again."""
        if post.address in self.posted.seen:
            return
        try:
            check(post, self.licences)
            self.posted.keep(post, await self._picture(post.before), await self._picture(post.after))
        except Refused as refused:
            self.posted.reject(post, refused)
        except _LOST as error:
            self._failed(post.address, error)
        self.progress(self.posted.kept, self.most or 0)
        if self.most is not None and self.posted.kept >= self.most:
            raise exceptions.CloseSpider("enough")

    async def _picture(self, address: str) -> bytes:
        assert self.crawler.engine
        asked = scrapy.Request(address, meta={"allow_offsite": True}, callback=NO_CALLBACK)
        try:
            response = await self.crawler.engine.download_async(asked)
        except exceptions.IgnoreRequest as error:
            raise Refused("picture: not to be fetched", f"{address}: {error}") from error
        except (exceptions.NotSupported, exceptions.DownloadCancelledError) as error:
            raise Refused("picture: not to be fetched", f"{address}: {error}") from error
        if response.status in GONE:
            raise Refused("picture: not there", f"{address} answered {response.status}")
        if response.status != 200:
            raise exceptions.DownloadFailedError(f"answered {response.status}")
        return response.body

    def _failed(self, address: str, error: object) -> None:
        self.failed += 1
        self.why = " ".join(str(error).split()) or type(error).__name__
        log.warning("%s could not be read (%s); the same command tries again", address, self.why)


class Cautious:
    """A robots.txt that a site fails to give forbids everything (RFC 9309, section 2.3.1.4)."""

    def process_response(self, request: Request, response: Response) -> Response:
        return self._forbidding(request) if _of_robots(request) and response.status >= 500 else response

    def process_exception(self, request: Request, exception: Exception) -> Response | None:
        return self._forbidding(request) if _of_robots(request) else None

    def _forbidding(self, request: Request) -> Response:
        log.warning("%s can't be read, so nothing is read there; try again later", request.url)
        return scrapy.http.TextResponse(request.url, body=b"User-agent: *\nDisallow: /", request=request)


def _of_robots(request: Request) -> bool:
    return urlsplit(request.url).path == "/robots.txt"


def require(markup: Markup) -> None:
    """Look at the selectors before a site is asked for anything.

    Raises:
        ConfigError: one is none; names it.
    """
    for field, selector in markup:
        try:
            scrapy.Selector(text="<p>").css(selector)
        except SelectorError as error:
            raise ConfigError(f"markup: {field} is {selector!r}, which is no CSS selector ({error})") from error


def posts_of(response: Response, markup: Markup) -> Iterator[Post]:
    """The posts of a page, with absolute addresses; several without an address of their own are numbered."""
    if not isinstance(response, scrapy.http.TextResponse):
        return
    found = response.css(markup.post)
    for number, post in enumerate(found, 1):
        own = f"{response.url}#{number}" if len(found) > 1 else response.url
        yield Post(
            address=_link(response, post, markup.address) or own,
            request=_words(post, markup.request),
            before=_link(response, post, markup.before),
            after=_link(response, post, markup.after),
            licence=_words(post, markup.licence),
            author=_words(post, markup.author),
        )


def leads_of(response: Response, markup: Markup) -> list[str]:
    """Where a page leads to: absolute addresses without the part behind #, each once."""
    if not isinstance(response, scrapy.http.TextResponse):
        return []
    links = (urldefrag(response.urljoin(link.strip())).url for link in response.css(markup.follow).getall())
    return list(dict.fromkeys(link for link in links if urlsplit(link).scheme in ("http", "https")))


def _words(post: Selector, selector: str) -> str:
    """All that a selector finds, on one line: texts and attributes as they are, of elements the text inside."""
    found = (one.get() if isinstance(one.root, str) else one.xpath("string()").get() for one in post.css(selector))
    return text_of(" ".join(text for text in found if text)) or ""


def _link(response: TextResponse, post: Selector, selector: str) -> str:
    first = post.css(selector).get()
    return response.urljoin(first.strip()) if first else ""
