"""docs/crawling.md and the code say the same: its command collects from a site with the page's markup."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import yaml
from fakes.posts_site import Site
from markdown_it import MarkdownIt

from instructdiffusion.model.data.looks import ALIKE
from instructdiffusion.model.data.posts import Markup

PAGE = Path(__file__).parents[1] / "docs/crawling.md"
HTML = """
<div class="thread"><h1>Make it dusk</h1><a class="permalink" href="/t/1">#</a>
<img class="original" data-full="/before/1.png" src="small.png">
<div class="best-answer"><img src="/after/1.png"><i class="name">Ada</i></div>
<footer><p class="terms">CC0 1.0</p></footer></div><nav class="pages"><a href="/2">2</a></nav>
"""


def test_the_commands_of_the_page_work_as_they_stand(tmp_path: Path) -> None:
    tokens = MarkdownIt("commonmark").parse(PAGE.read_text())
    (markup,), (text,) = ([t.content for t in tokens if t.info == language] for language in ("yaml", "sh"))
    (tmp_path / "site.yaml").write_text(markup)
    install, crawl, check = (shlex.split(line) for line in text.splitlines())
    assert install == ["pip", "install", "instructdiffusion[crawl]"]
    site = Site({"/requests": HTML})
    with site.serving() as url:
        given = [word.replace("https://pictures.example", url) for word in crawl[1:]]
        for line in ([*given, "--markup", "site.yaml", "--delay", "0"], check[1:]):
            run = [sys.executable, "-m", "instructdiffusion.pipelines", *line]
            ended = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert ended.returncode == 0, ended.stderr
    assert "1 triplets" not in ended.stdout
    assert "Triplet folder" in ended.stdout
    assert {"/2", "/t/1"} <= set(site.asked)
    assert len((tmp_path / "out/requests/triplets.jsonl").read_text().splitlines()) == 1


def test_the_page_knows_every_part_of_the_markup_and_the_numbers_of_the_code() -> None:
    page = PAGE.read_text()
    (text,) = (t.content for t in MarkdownIt("commonmark").parse(page) if t.info == "yaml")
    assert set(yaml.safe_load(text)) == set(Markup.model_fields)
    assert f"at most {2 * ALIKE} bits of 128 differ" in page
