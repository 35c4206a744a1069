"""docs/data.md says of data sets and joints what the readers and the lexicon say."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructdiffusion.model.data.lexicon import ORDER
from instructdiffusion.model.data.readers import readers

PAGE = Path(__file__).parents[3] / "docs/data.md"


def rows(heading: str) -> list[str]:
    """The rows of the table under a heading, without its head."""
    text = PAGE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_the_page_lists_every_data_set_as_its_reader_does() -> None:
    wanted = [f"| [{r.name}]({r.address}) | `{r.task}` | {r.licence} |" for r in readers().values()]
    assert sorted(rows("Data sets")) == sorted(wanted)


def test_the_page_lists_every_joint_of_the_lexicon() -> None:
    assert rows("Joints") == [f"| {name} | {', '.join(joints)} |" for name, joints in ORDER.items()]


@pytest.mark.parametrize("name", sorted(readers()))
def test_the_page_shows_how_each_data_set_must_lie(name: str) -> None:
    assert f"\n### {name}\n" in PAGE.read_text()
