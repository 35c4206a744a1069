"""Promotion on a real registry: once, only on a pass, and never over a champion that was not compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instructdiffusion.components import gate, promote
from instructdiffusion.components.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of

SPREAD = [-0.1, 0.0, 0.1] * 10


class Models:
    """Small models with evaluations of a wanted level, the gate and the promotion of one against another."""

    def __init__(self, folder: Path, registry: Registry, tracker: Tracker, name: str) -> None:
        self.folder, self.registry, self.tracker, self.name = folder, registry, tracker, name

    def make(self, name: str, level: float) -> str:
        """A model whose only task scores `level` on average, 0..1."""
        model = self.folder / name
        model.mkdir()
        (model / "editor.json").write_text(json.dumps({"model": name, "of": self.name}))
        scores = [level + part for part in SPREAD]
        row = {"metric": "iou", "value": level, "floor": 0.0, "bound": 1.0, "n": len(scores), "scores": scores}
        content = {"tasks": {"referring": row}, "model": digest_of(model), "data": "sha256:d"}
        (self.folder / f"{name}.json").write_text(json.dumps(content))
        return name

    def judge(self, name: str, champion: str | None) -> Path:
        old = self.folder / f"{champion}.json" if champion else None
        return gate.run(self.folder / f"{name}.json", old, self.folder / f"{name}-over-{champion}").path

    def promote(self, name: str, verdict: Path, evaluation: str = "") -> promote.Promoted:
        run = self.tracker.open_run(self.name, key=self.name)
        return promote.run(
            self.folder / name,
            f"s3://bucket/{name}",
            self.folder / f"{evaluation or name}.json",
            verdict,
            registry=self.registry,
            tracked=run,
        )


@pytest.fixture
def models(tmp_path: Path, registry: Registry, tracker: Tracker, name: str) -> Models:
    return Models(tmp_path, registry, tracker, name)


def number(registry: Registry, alias: str) -> str | None:
    found = registry.at(alias)
    return found.number if found else None


def test_a_better_model_becomes_the_champion_once_and_the_old_one_can_return(
    models: Models, registry: Registry
) -> None:
    old, new = models.make("old", 0.5), models.make("new", 0.7)
    first = models.promote(old, models.judge(old, None))
    assert (first["version"], first["promoted"], first["champion"], first["previous"]) == ("1", True, "1", "")
    verdict = models.judge(new, old)
    second = models.promote(new, verdict)
    assert (second["version"], second["champion"], second["previous"]) == ("2", "2", "1")
    assert models.promote(new, verdict) == second  # a repeat changes nothing
    assert len(registry.versions()) == 2
    version = registry.version("2")
    assert version.tags["gate"] == "passed"
    assert registry.evaluation("2")["tasks"]["referring"]["value"] == 0.7
    kept = {item.path for item in registry.client.list_artifacts(version.run_id, "verdicts/version-2")}
    assert kept == {"verdicts/version-2/verdict.json", "verdicts/version-2/verdict.html"}

    registry.rollback()
    back = models.promote(new, verdict)  # a retry of the pipeline must not undo what a person did
    assert not back["promoted"]
    assert "rolled back" in back["reason"]
    assert number(registry, CHAMPION) == "1"


def test_a_worse_or_equal_model_is_registered_and_the_champion_stays(models: Models, registry: Registry) -> None:
    old, worse, equal = models.make("old", 0.5), models.make("worse", 0.3), models.make("equal", 0.5)
    models.promote(old, models.judge(old, None))
    for name in (worse, equal):
        found = models.promote(name, models.judge(name, old))
        assert not found["promoted"]
        assert found["champion"] == "1"
        assert registry.version(found["version"]).tags["gate"] == "refused"
        assert number(registry, CHALLENGER) == found["version"]
    assert "below the champion" in registry.version("2").tags["gate_reasons"]
    assert number(registry, PREVIOUS) is None


def test_the_champion_that_was_defended_serves_where_nobody_did(models: Models, registry: Registry) -> None:
    old, worse = models.make("old", 0.5), models.make("worse", 0.3)
    found = models.promote(old, models.judge(worse, old))
    assert (found["promoted"], found["champion"]) == (True, "1")
    assert registry.version("1").tags["gate"] == "defended"


def test_the_first_champion_needs_no_verdict_and_a_second_is_not_seated(models: Models, registry: Registry) -> None:
    for name in (models.make("first", 0.2), models.make("later", 0.9)):
        run = models.tracker.open_run(models.name, key=models.name)
        model, evaluation = models.folder / name, models.folder / f"{name}.json"
        assert promote.seat(model, f"s3://bucket/{name}", evaluation, registry=registry, tracked=run) == "1"
    assert number(registry, CHAMPION) == "1"
    assert registry.version("1").tags["gate"] == "first"
    assert len(registry.versions()) == 1


def test_a_verdict_against_another_champion_is_refused(models: Models, registry: Registry) -> None:
    old, new, newer = models.make("old", 0.5), models.make("new", 0.7), models.make("newer", 0.6)
    models.promote(old, models.judge(old, None))
    models.promote(new, models.judge(new, old))
    with pytest.raises(DataError, match=r"the champion is version 2 .* run the gate with that version's evaluation"):
        models.promote(newer, models.judge(newer, old))
    assert number(registry, CHAMPION) == "2"
    assert len(registry.versions()) == 2


def test_papers_of_another_model_are_refused(models: Models, tmp_path: Path) -> None:
    old, new, third = models.make("old", 0.5), models.make("new", 0.7), models.make("third", 0.9)
    verdict = models.judge(new, old)
    with pytest.raises(DataError, match="evaluate this model"):
        models.promote(new, verdict, evaluation=old)
    with pytest.raises(DataError, match="run the gate again"):
        models.promote(third, verdict)
    with pytest.raises(DataError, match="run the gate step again"):
        models.promote(new, tmp_path)
