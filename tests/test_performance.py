"""The page of measurements, and the files that it is made of."""

from __future__ import annotations

import json
from pathlib import Path
from runpy import run_path

ROOT = Path(__file__).parents[1]
FIGURES = run_path(str(ROOT / "bench/figures.py"))


def test_the_page_in_docs_is_what_the_recorded_figures_make() -> None:
    assert (ROOT / "docs/performance.md").read_text() == FIGURES["page"]()


def test_every_recorded_figure_tells_its_unit_what_it_is_held_against_and_how_often_it_was_measured() -> None:
    files = sorted((ROOT / "bench/results").glob("*.json"))
    assert files
    for file in files:
        figure = json.loads(file.read_text())
        assert {"name", "value", "unit", "against", "held", "ratio", "repeats"} == set(figure), file
        assert abs(figure["value"] / figure["against"] - figure["ratio"]) <= 0.01 * figure["ratio"], file


def test_a_figure_is_recorded_beside_what_it_is_held_against(tmp_path: Path) -> None:
    FIGURES["record"]("Reading of shards", 1234.5, "triplets/s", 100, held="loose files", repeats=3, to=tmp_path)
    (row,) = [line for line in FIGURES["page"](tmp_path).splitlines() if "shards" in line]
    assert row == "| Reading of shards | 1230 | triplets/s | loose files: 100 | 12.3 | 3 |"
