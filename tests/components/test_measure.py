"""What is measured by benchmarks, kept in the store."""

from __future__ import annotations

from pathlib import Path

from instructdiffusion.components.measure import NOTHING, Measure, figures, merge, orders, run
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.model.endpoints import Still


def test_reports_are_uploaded_and_where_nothing_is_measured_there_is_nothing_to_upload(
    store: Store, tmp_path: Path
) -> None:
    (order,) = orders(["restoration"], Measure(samples=1, size=32))
    made = merge([run(order, Still, tmp_path / "part").path], tmp_path / "all", store=store)
    assert store.exists(made.uri)
    nothing = merge([run(NOTHING, Still, tmp_path / "idle").path], tmp_path / "nothing", store=store)
    assert (nothing.facts, nothing.uri) == ({}, "")


def test_the_tracker_gets_every_value_of_a_benchmark_linked_to_its_model(
    tracker: Tracker, name: str, tmp_path: Path
) -> None:
    (order,) = orders(["semantic"], Measure(samples=4, size=32))
    parts = [run(order, Still, tmp_path / "part").path]
    with tracker.open_run(name, key=name) as tracked:
        (report,) = merge(parts, tmp_path / "all", model=f"sha256:{name}", tracked=tracked).facts.values()
    found = tracker.client.get_run(tracked.run_id)
    assert found.data.metrics == figures(report)
    assert found.data.metrics["benchmark/semantic/ciou"] == report["values"]["ciou"]["value"]
    assert "benchmark/semantic/ciou_low" in found.data.metrics
    (of,) = tracker.client.search_logged_models([found.info.experiment_id], f"source_run_id = '{tracked.run_id}'")
    assert {metric.key: metric.value for metric in of.metrics or []} == found.data.metrics
    assert [file.path for file in tracker.client.list_artifacts(tracked.run_id, "benchmarks")] == [
        "benchmarks/semantic.json"
    ]
    missing = {**report["values"]["ciou"], "value": None, "low": None}
    assert "benchmark/semantic/ciou" not in figures({**report, "values": {"ciou": missing}, "slices": {}})
