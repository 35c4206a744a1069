"""A crawl for requests that people posted with a picture before and after, by Scrapy; nothing starts it but a person.

robots.txt is obeyed, one request is under way at a time, pauses grow with the site's answers, and nothing is kept whose
licence is not on a list. What is kept is decided in `model/data/posts.py`.

start  ->  pages, where they lead  ->  posts  ->  pictures  ->  a triplet folder
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError

from instructdiffusion.model.data.posted import Posted
from instructdiffusion.model.data.posts import Markup
from instructdiffusion.model.errors import ConfigError, ServiceError

LARGEST = 64_000_000  # bytes of a page or a picture


def markup(path: Path | None) -> Markup:
    """The markup that a YAML file describes; what it leaves out, or no file, is as pages with semantic links have it.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    try:
        found = Markup.model_validate(yaml.safe_load(path.read_text()) or {}) if path else Markup()
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"markup {path}: {' '.join(str(error).split())}; docs/crawling.md shows one") from None
    return found


def crawl(
    start: str,
    out: Path,
    licences: Sequence[str],
    *,
    markup: Markup | None = None,
    delay: float,
    most: int | None = None,
    contact: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Mapping[str, Any]:
    """Collect posts from a site into the triplet folder `out`; the same call goes on where one was stopped.

    Once in a process, from its main thread.

    Args:
        start: address of the page to begin with; pages of its host are read.
        licences: that are allowed, * standing for any text.
        delay: seconds between two requests to a host, at least half of it, more when the host is slow.
        most: triplets after which it ends.
        contact: where the site's owner can write to; sent with every request.
        progress: called with (triplets kept, `most` or 0).

    Returns:
        triplets kept, posts rejected by reason and pages finished, of all calls; of this one, pages that robots.txt
        forbids, and pages and posts that failed.

    Raises:
        ConfigError: the address is none of the web, a selector is none, or Scrapy is not installed.
        DataError: the disk is full; what was kept stays.
        ServiceError: the site does not answer, or forbids to be read.
        KeyboardInterrupt: told to stop, and stopped in order.
    """
    try:
        from scrapy.crawler import AsyncCrawlerProcess
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; run: pip install 'instructdiffusion[crawl]'") from None

    from instructdiffusion.components.spider import Requests, require

    if urlsplit(start).scheme not in ("http", "https") or not urlsplit(start).hostname:
        raise ConfigError(f"{start} is no address of a page; begin with http:// or https://")
    where, posted = markup or Markup(), Posted(out)
    require(where)
    told = {"begin": start, "licences": licences, "markup": where, "posted": posted, "most": most}
    process = AsyncCrawlerProcess(settings(delay, contact))
    logging.getLogger("scrapy").setLevel(logging.CRITICAL)  # what matters of it, the spider tells
    crawler = process.create_crawler(Requests)
    process.crawl(crawler, **told, progress=progress)
    process.start()
    spider = crawler.spider
    assert isinstance(spider, Requests)
    if spider.broken:
        raise spider.broken
    if spider.ended == "shutdown":
        raise KeyboardInterrupt
    if not posted.seen and not posted.leads:
        raise ServiceError(f"nothing could be read from {start} ({spider.why}); check the address, or try again later")
    found = {"kept": posted.kept, "rejected": dict(sorted(posted.rejected.items()))}
    return {**found, "pages": len(posted.leads), "forbidden": spider.forbidden, "failed": spider.failed}


def settings(delay: float, contact: str) -> dict[str, Any]:
    """Scrapy's settings for a guest who minds the house."""
    name = f"instructdiffusion/{version('instructdiffusion')}"
    return {
        "USER_AGENT": f"{name} ({contact})" if contact else name,
        "ROBOTSTXT_OBEY": True,
        # After tries were repeated (550), before robots.txt is read (100).
        "DOWNLOADER_MIDDLEWARES": {"instructdiffusion.components.spider.Cautious": 540},
        "DOWNLOAD_DELAY": delay,
        "AUTOTHROTTLE_ENABLED": True,
        "AUTOTHROTTLE_START_DELAY": delay,
        "CONCURRENT_REQUESTS_PER_DOMAIN": 1,
        "DOWNLOAD_HANDLERS": dict.fromkeys(("data", "file", "ftp", "s3")),  # a page must not name files of this machine
        "DOWNLOAD_MAXSIZE": LARGEST,
        "DOWNLOAD_WARNSIZE": 0,
        "COOKIES_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_INSTALL_ROOT_HANDLER": False,
        "EXTENSIONS": {"scrapy.extensions.logcount.LogCount": None},  # it would take warnings from the terminal
    }
