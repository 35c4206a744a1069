"""A crawl of a site on this machine, by the command as a person runs it: Scrapy runs once in a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fakes.posts_site import Site, page, picture, post

from instructdiffusion.components import crawl as crawling
from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.offers import Order
from instructdiffusion.model.data.readers import reader_for
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.data.sources import DataSet, Sources
from instructdiffusion.model.errors import ConfigError

pytest.importorskip("scrapy", reason="pip install 'instructdiffusion[crawl]'")

ALLOWED = ("--licence", "*/licenses/by/*", "--licence", "CC0*")


def started(url: str, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "instructdiffusion.pipelines", "data", "crawl", url, str(out), "--json", *ALLOWED]
    given = options if "--delay" in options else ("--delay", "0", *options)
    return subprocess.Popen([*command, *given], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def crawl(url: str, out: Path, *options: str) -> dict[str, Any]:
    process = started(url, out, *options)
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return dict(json.loads(told))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_allowed_and_new_is_kept_and_all_else_is_told_with_its_reason(tmp_path: Path) -> None:
    site = Site(
        {
            "/robots.txt": "User-agent: *\nDisallow: /private\n",
            "/": page(
                post(1),
                post(2, licence='<b rel="license">CC BY-NC 4.0 https://cc/licenses/by-nc/4.0/</b>'),
                post(3, after="/broken.png"),
                post(4, after="/private/4.png"),
                post(5, before="file:///etc/hostname"),
                leads=("/2", "/private", "http://elsewhere.invalid/", "/gone"),
            ),
            "/2": page(
                post(6, before="/small/before", after="/small/after", request="Other words"),
                post(7, after="/nothing.png"),
                post(8, licence="", request="No licence"),
                post(9, after="/before/9.png"),
                post(10, licence='<b rel="license">CC0 1.0</b>', request="Make it  dusk"),
                leads=("/",),
            ),
            "/broken.png": picture(3, lighter=1)[:300],
            "/private": page(post(11)),
            "/private/4.png": picture(4, lighter=1),
            "/small/before": picture(1, 0, "JPEG", (200, 200)),
            "/small/after": picture(1, 1, "JPEG", (200, 200)),
        }
    )
    site.cut = {"/2"}  # answered in half: no post of it may be lost
    with site.serving() as url:
        found = crawl(f"{url}/", tmp_path, "--contact", "me@here")
        assert (found["kept"], found["failed"], found["forbidden"]) == (1, 1, 1)
        assert site.asked.count("/2") == 3
        site.cut.clear()
        site.asked.clear()
        again = crawl(f"{url}/", tmp_path, "--contact", "me@here")
        assert "/" not in site.asked
        assert "/before/1.png" not in site.asked
        site.asked.clear()
        assert crawl(f"{url}/", tmp_path, "--contact", "me@here") == again
        assert site.asked == ["/robots.txt"]
    assert (again["kept"], again["failed"], again["forbidden"]) == (2, 0, 1)
    assert {line["address"].removeprefix(url): line["reason"] for line in lines(tmp_path / "rejected.jsonl")} == {
        "/post/2": "licence: not on the list",
        "/post/3": "picture: broken",
        "/post/4": "picture: not to be fetched",
        "/post/5": "picture: not to be fetched",
        "/post/6": "pictures: as in another post",
        "/post/7": "picture: not there",
        "/post/8": "licence: missing",
        "/post/9": "picture: the same before and after",
    }
    assert sum(again["rejected"].values()) == 8
    (agent,) = site.agents
    assert agent.startswith("instructdiffusion/")
    assert agent.endswith("(me@here)")

    one, two = lines(tmp_path / "triplets.jsonl")
    assert (one["author"], one["licence"]) == ("Ada", "CC BY 4.0 https://creativecommons.org/licenses/by/4.0/")
    assert (two["instruction"], two["address"]) == ("Make it dusk!", f"{url}/post/10")
    assert (tmp_path / two["target"]).read_bytes() == picture(10, lighter=1)
    reader = reader_for(tmp_path)
    assert (reader.name, reader.counts(tmp_path, "train").examples) == ("Triplet folder", 2)
    sources = Sources(sources=(DataSet(name="asked", path=str(tmp_path), split="train", licences=("CC0*",)),))
    build(Order(sources, size=32, seed=0), tmp_path / "built", workers=1)
    (made,) = read_triplets(tmp_path / "built")
    assert (made.ask.instruction, made.provenance["address"]) == ("Make it dusk!", f"{url}/post/10")


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_a_crawl_that_is_killed_goes_on_and_asks_for_nothing_twice(
    how: signal.Signals, code: int, tmp_path: Path
) -> None:
    numbers = range(1, 7)
    site = Site({f"/{n}": page(post(n), post(n + 10), leads=(f"/{n + 1}",)) for n in numbers})
    site.held = {"/before/13.png"}
    with site.serving() as url:
        process = started(f"{url}/1", tmp_path)
        assert site.reached.wait(60)
        os.kill(process.pid, how)
        if how == signal.SIGTERM:
            site.go.set()
        assert process.wait(60) == code
        site.go.set()
        site.held.clear()
        before = {line["address"] for line in lines(tmp_path / "triplets.jsonl")}
        assert 5 <= len(before) < 12
        found = crawl(f"{url}/1", tmp_path)
        asked = Counter(site.asked)
    assert (found["kept"], found["failed"], found["rejected"]) == (12, 0, {})
    assert {line["address"] for line in lines(tmp_path / "triplets.jsonl")} == {
        f"{url}/post/{n + more}" for n in numbers for more in (0, 10)
    }
    twice = {path for path, times in asked.items() if times > 1}
    assert twice <= {"/robots.txt", "/3", "/before/13.png", "/after/13.png"}


def test_nothing_is_read_where_robots_txt_can_not_be_and_that_is_an_error(tmp_path: Path) -> None:
    site = Site({"/": page(post(1)), "/robots.txt": ""})
    site.down = {"/robots.txt"}
    with site.serving() as url:
        process = started(url, tmp_path)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 4
    assert f"error: nothing could be read from {url} (Forbidden by robots.txt)" in errors
    assert set(site.asked) == {"/robots.txt"}


def test_requests_are_as_far_apart_as_was_asked_for_and_end_at_the_most(tmp_path: Path) -> None:
    site = Site({"/": page(*(post(n) for n in range(1, 6)))})
    with site.serving() as url:
        began = time.monotonic()
        assert crawl(url, tmp_path, "--delay", "0.4", "--most", "2")["kept"] == 2
        took = time.monotonic() - began
    assert len(site.asked) == 6  # robots.txt, the page, two pairs
    assert took >= 5 * 0.4 / 2


def test_a_site_that_does_not_answer_is_told_in_one_line(tmp_path: Path) -> None:
    process = started("http://127.0.0.1:9/", tmp_path / "out")
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 4
    assert "nothing could be read from http://127.0.0.1:9/ (" in errors.splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("url", "described", "told"),
    [
        ("ftp://127.0.0.1/", "", "ftp://127.0.0.1/ is no address of a page"),
        ("http://127.0.0.1:9/", "post: '::'", "markup: post is '::', which is no CSS selector"),
        ("http://127.0.0.1:9/", "picture: img", "picture Extra inputs are not permitted"),
        ("http://127.0.0.1:9/", "post: [", r"markup .*site\.yaml: while parsing .*; docs/crawling\.md shows one"),
    ],
)
def test_what_is_wrong_is_told_before_a_site_is_asked(url: str, described: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(described)
    with pytest.raises(ConfigError, match=told):
        crawling.crawl(url, tmp_path / "out", ["*"], markup=crawling.markup(tmp_path / "site.yaml"), delay=0)
