"""Figures that benches measured, one file each in `results/`, and the page that is made of them.

python bench/figures.py         # writes docs/performance.md
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from instructdiffusion.model.files import write_atomic

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs/performance.md"
HEAD = """# Performance

What the benches measured, on two shared CPU cores without a GPU: medians, beside what each is held against.
`make bench` and `make soak` measure all of it again and write this page.

| what | value | unit | against | ratio | repeats |
|---|---|---|---|---|---|
"""
ROW = "| {name} | {value:g} | {unit} | {held}: {against:g} | {ratio:g} | {repeats} |\n"


def record(name: str, value: float, unit: str, against: float, *, held: str, repeats: int, to: Path = RESULTS) -> None:
    """Write a figure to `results/<name>.json`.

    Args:
        name: what was measured.
        held: what `against` is.
        repeats: how many measurements `value` is the median of.
    """
    told: dict[str, Any] = {"name": name, "value": _rounded(value), "unit": unit, "against": _rounded(against)}
    told |= {"held": held, "ratio": _rounded(value / against), "repeats": repeats}
    file = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    write_atomic(to / f"{file}.json", json.dumps(told, indent=1) + "\n")
    print(f"{name}: {told['value']} {unit}, {told['ratio']} of {held} ({told['against']})")


def page(results: Path = RESULTS) -> str:
    """The page of all figures that are there."""
    figures = [json.loads(file.read_text()) for file in sorted(results.glob("*.json"))]
    return HEAD + "".join(ROW.format(**figure) for figure in figures)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


if __name__ == "__main__":
    write_atomic(PAGE, page())
