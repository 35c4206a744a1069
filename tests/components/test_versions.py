"""What the tracker keeps of an evaluation, and two versions side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from components.promoting_page import COMPARE, run

from instructdiffusion.components import evaluate
from instructdiffusion.components.registry import Registry
from instructdiffusion.components.servers import Server
from instructdiffusion.components.settings import NAMES
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.components.versions import differences
from instructdiffusion.model import network, recipes
from instructdiffusion.model.data.shards import read_triplets
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.sheet import contact_sheet, first_output
from instructdiffusion.model.synthesis.write import synthesize


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    synthesize(folder, split="test", counts={"remove": 3, "denoise": 3}, size=32, seed=5, workers=1)
    return folder


def test_the_tracker_keeps_specs_slices_pictures_and_a_model_with_its_numbers(
    tracker: Tracker, shards: Path, name: str, tmp_path: Path
) -> None:
    smoke = recipes.smoke()
    model = network.create(smoke.network, smoke.diffusion, [t.source for t in read_triplets(shards)], seed=0)
    network.save(model, tmp_path / "model")
    for _ in range(2):  # a step that is tried again
        with tracker.open_run(name, key=name) as tracked:
            made = evaluate.run(tmp_path / "model", shards, tmp_path / "out", tracked=tracked)
    client, run_id = tracker.client, tracked.run_id
    kept = json.loads(Path(client.download_artifacts(run_id, "evaluation/specs.json", str(tmp_path))).read_text())
    assert kept["remove/background"]["resolution"] == 32
    table = json.loads(Path(client.download_artifacts(run_id, "evaluation/samples.json", str(tmp_path))).read_text())
    assert table["columns"] == ["task", "instruction", "source", "output", "target", "score"]
    assert [cell["type"] for cell in table["data"][0][2:5]] == ["image"] * 3
    experiment = client.get_run(run_id).info.experiment_id
    (logged,) = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    values = {metric.key: metric.value for metric in logged.metrics or ()}
    assert values["remove/gain"] == pytest.approx(made.facts["tasks"]["remove"]["value"])
    assert "remove/background" in values
    assert logged.params["digest"] == made.facts["model"]
    assert logged.status == "READY"
    assert [f.path for f in client.list_logged_model_artifacts(logged.model_id)] == ["MLmodel"]


def test_a_sheets_first_output_is_the_one_that_was_made(shards: Path) -> None:
    triplets = list(read_triplets(shards))
    outputs = [np.full((32, 32, 3), 10 * (i + 1), np.uint8) for i in range(len(triplets))]
    assert np.array_equal(first_output(contact_sheet(triplets, outputs), 32), outputs[0])


def evaluation(level: float, **changes: Any) -> dict[str, Any]:
    hard = np.random.default_rng(0).normal(0, 5, 50)
    span = {
        "value": level,
        "low": level - 1,
        "high": level + 1,
        "n": 50,
        "unit": "dB",
        "scores": (level + hard).tolist(),
    }
    row = {**span, "metric": "gain", "also": {"background": {**span, "slices": {}}}, "slices": {"red": [level, 0, 9]}}
    return {"tasks": {"remove": {**row, **changes}}, "data": "sha256:data", "model": "sha256:m"}


def test_versions_are_compared_sample_by_sample() -> None:
    found = {d.name: d for d in differences(evaluation(5.0), evaluation(5.5))}
    assert found.keys() == {"remove/gain", "remove/gain, red", "remove/background"}
    change = found["remove/gain"].change
    assert change is not None
    assert change == pytest.approx((0.5, 0.5, 0.5))  # though samples differ by far more
    assert found["remove/gain, red"].change is None
    assert found["remove/gain, red"].other == (5.5, 0, 9)


def test_what_only_one_version_has_is_shown_as_missing_in_the_other() -> None:
    one, other = evaluation(5.0), evaluation(5.5)
    other["tasks"]["add"] = other["tasks"]["remove"]
    other["tasks"]["remove"] = {**one["tasks"]["remove"], "also": {}, "slices": {}}
    found = {d.name: d for d in differences(one, other)}
    tasks = {"remove/gain", "remove/gain, red", "remove/background", "add/gain", "add/gain, red", "add/background"}
    assert found.keys() == tasks
    assert (found["add/gain"].one, found["add/gain"].other, found["add/gain"].n) == (None, (5.5, 4.5, 6.5), 50)
    assert (found["remove/background"].one, found["remove/background"].other) == ((5.0, 4.0, 6.0), None)
    assert (found["remove/gain, red"].one, found["remove/gain, red"].other) == ((5.0, 0, 9), None)
    assert [d.name for d in found.values() if d.change] == ["remove/gain"]


def test_versions_that_were_measured_differently_are_refused() -> None:
    with pytest.raises(DataError, match="remove was measured by two specs"):
        differences(evaluation(5.0), evaluation(5.0, spec={"version": 2}))
    with pytest.raises(DataError, match="on different data"):
        differences(evaluation(5.0), {**evaluation(5.0), "data": "sha256:other"})
    with pytest.raises(DataError, match="remove/gain was scored on 50 samples and on 2; evaluate both on the same"):
        differences(evaluation(5.0), evaluation(5.0, scores=[5.0, 5.0]))


def test_the_command_shows_what_changed(
    tracker: Tracker, registry: Registry, tracking_server: Server, name: str, tmp_path: Path
) -> None:
    for level in (5.0, 5.5):
        found = evaluation(level)
        found["tasks"] |= {"add": found["tasks"]["remove"]} if level == 5.5 else {}
        tracked = tracker.open_run(name)
        version = registry.register(f"s3://b/{level}", digest=f"sha256:{level}", run_id=tracked.run_id)
        registry.put_evaluation(version.number, found)
    variables = {**tracking_server.environment, NAMES["registered_model"]: name, "COLUMNS": "120"}
    ended = run(COMPARE, tmp_path, variables)
    assert ended.returncode == 0, ended.stderr
    assert "+0.500 (+0.500 to +0.500)" in ended.stdout
    assert re.search(r"add/gain +missing +5\.500 \(4\.500 to 6\.500\)", ended.stdout)
