"""What is measured by benchmarks, kept in the store."""

from __future__ import annotations

from pathlib import Path

from instructdiffusion.components.measure import NOTHING, Measure, merge, orders, run
from instructdiffusion.components.storage import Store
from instructdiffusion.model.endpoints import Still


def test_reports_are_uploaded_and_where_nothing_is_measured_there_is_nothing_to_upload(
    store: Store, tmp_path: Path
) -> None:
    (order,) = orders(["restoration"], Measure(samples=1, size=32))
    made = merge([run(order, Still, tmp_path / "part").path], tmp_path / "all", store=store)
    assert store.exists(made.uri)
    nothing = merge([run(NOTHING, Still, tmp_path / "idle").path], tmp_path / "nothing", store=store)
    assert (nothing.facts, nothing.uri) == ({}, "")
