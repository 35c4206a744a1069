"""What is kept of posts, without a site: licences, pictures seen before, pages to go on to, lines cut short."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from fakes import posts_site

from instructdiffusion.model.data.posted import Posted
from instructdiffusion.model.data.posts import Post, Refused, Seen, check, frontier, looks_of
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import append_line

POST = Post("http://a/1", "make it lighter", "http://a/b.png", "http://a/a.png", "CC BY 4.0 http://cc/licenses/by/4.0/")


def changed(**fields: str) -> Post:
    return Post(**{**POST.__dict__, **fields})


@pytest.mark.parametrize("field", ["request", "before", "after", "licence"])
def test_a_post_that_lacks_something_is_refused_by_name(field: str) -> None:
    with pytest.raises(Refused, match=f"http://a/1 has no {field}") as refused:
        check(changed(**{field: ""}), ["*"])
    assert refused.value.reason == f"{field}: missing"


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("CC BY 4.0 http://cc/licenses/by/4.0/", True),
        ("cc0 1.0", True),
        ("CC BY-NC 4.0 http://cc/licenses/by-nc/4.0/", False),
        ("all rights reserved", False),
        ("not cc0", False),
    ],
)
def test_a_licence_is_allowed_if_the_whole_of_it_matches_one_of_the_list(licence: str, allowed: bool) -> None:
    if allowed:
        check(changed(licence=licence), ["*/licenses/by/*", "CC0*"])
        return
    with pytest.raises(Refused) as refused:
        check(changed(licence=licence), ["*/licenses/by/*", "CC0*"])
    assert refused.value.reason == "licence: not on the list"


def test_a_pair_is_known_again_after_a_resize_and_a_compression_whatever_its_words() -> None:
    seen = Seen()
    seen.add("1", looks_of(POST, posts_site.picture(1), posts_site.picture(1, lighter=1)))
    smaller = [posts_site.picture(1, lighter, "JPEG", (200, 200)) for lighter in (0, 1)]
    with pytest.raises(Refused, match="shows what another post does"):
        seen.check(changed(request="other words"), looks_of(POST, *smaller))
    seen.check(POST, looks_of(POST, posts_site.picture(2), posts_site.picture(2, lighter=1)))
    assert "1" in seen
    assert "2" not in seen


def test_pictures_that_are_broken_or_show_no_change_are_refused() -> None:
    whole = posts_site.picture(1)
    with pytest.raises(Refused, match=r"a\.png is broken"):
        looks_of(POST, whole, whole[: len(whole) // 2])
    with pytest.raises(Refused, match="no change"):
        looks_of(POST, whole, whole)


def test_a_crawl_goes_on_where_finished_pages_lead_and_nowhere_else() -> None:
    assert [*frontier("1", {})] == ["1"]
    leads = {"1": ["2", "3", "2"], "2": ["1", "4"], "4": [], "9": ["8"]}
    assert [*frontier("1", leads)] == ["3"]
    assert [*frontier("1", {**leads, "3": ["5", "1"]})] == ["5"]
    assert [*frontier("1", {**leads, "3": []})] == []


def test_a_folder_knows_what_it_has_and_writes_a_line_again_that_was_cut_short(tmp_path: Path) -> None:
    posted = Posted(tmp_path)
    pictures = {n: (posts_site.picture(n), posts_site.picture(n, lighter=1)) for n in (1, 2)}
    for number, pair in pictures.items():
        posted.keep(changed(address=str(number)), *pair)
    posted.reject(changed(address="3"), Refused("licence: missing", "3 has no licence"))
    posted.finish("page", ["next"])
    listed = tmp_path / "triplets.jsonl"
    listed.write_bytes(listed.read_bytes()[:-30])

    again = Posted(tmp_path)
    assert (again.kept, dict(again.rejected), again.leads) == (1, {"licence: missing": 1}, {"page": ["next"]})
    assert "2" not in again.seen
    with pytest.raises(Refused, match="another post"):
        again.keep(changed(address="4"), *pictures[1])
    again.keep(changed(address="2"), *pictures[2])
    assert [json.loads(line)["address"] for line in listed.read_text().splitlines()] == ["1", "2"]


def test_a_disk_that_is_full_leaves_every_line_whole(tmp_path: Path) -> None:
    path = append_line(tmp_path / "lines", "a" * 8000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(DataError, match=f"can't write {path}: .*; free space"):
            append_line(path, "b" * 4000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert append_line(path, "c").read_text() == "a" * 8000 + "\nc\n"
