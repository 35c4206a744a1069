"""What the soak counts as lost."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

import pytest

from instructdiffusion.model import account
from instructdiffusion.model.data.latents import Latents

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_triplet_that_was_left_out_or_taken_twice_is_lost(
    lost: int, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    soak = run_path(str(BENCH / "soak.py"))
    run = soak["run_of"](1)
    due = Latents.open(latents).mixture(run.seed, run.weights).draws(range(24))
    written = account.Account(tmp_path / "killed", 0)
    for step in range(6):
        written.add(step + 1, due[4 * step : 4 * step + 4 - lost * (step == 2)])
    assert soak["triplets"](tmp_path, run) == (24, lost)
    written.add(7, due[:3])  # of a step that was not due
    assert soak["triplets"](tmp_path, run) == (24, 3)
