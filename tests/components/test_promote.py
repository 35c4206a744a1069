"""Promotion on a real registry: once, only on a pass, and never over a champion that was not compared."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from components.promoting_page import blocks
from markdown_it import MarkdownIt
from PIL import Image as Pillow

from instructdiffusion.components import gate, promote, train
from instructdiffusion.components.evaluate import HELD_OUT
from instructdiffusion.components.policy import Check
from instructdiffusion.components.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, Version
from instructdiffusion.components.step import data_digest
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.components.version_page import LEFT_OUT, LIMIT, SHEET, SHOWN, Facts, page
from instructdiffusion.model.data.shards import Manifest
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.weights import model_digest

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
        content = {"tasks": {"referring": row}, "model": model_digest(model), "data": "sha256:d"}
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


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (1600, 80), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def papers(models: Models, tmp_path: Path) -> Path:
    """A folder with the evaluation, contact sheet and task sheet of a model `new`, which is judged against `old`."""
    old, new = models.make("old", 0.5), models.make("new", 0.7)
    models.promote(old, models.judge(old, None))
    folder = tmp_path / "evaluation-of-new"
    folder.mkdir()
    (folder / "evaluation.json").write_bytes((tmp_path / f"{new}.json").read_bytes())
    for name in ("sheet", "referring"):
        (folder / f"{name}.png").write_bytes(picture("red"))
    return folder


def manifest(folder: Path, split: str, counts: dict[str, int], licence: str) -> Path:
    """A folder with the manifest of a data set."""
    folder.mkdir(exist_ok=True)
    Manifest(size=64, split=split, seed=0, counts=counts, shards=(), licences=(licence,)).save(folder)
    return folder


def promoted(models: Models, papers: Path) -> Version:
    """Promote `new` with all its papers, the manifests of what it was trained and scored on among them."""
    manifest(papers / HELD_OUT, "test", {"referring": 30}, "CC0-1.0")
    run = models.tracker.open_run(models.name, key=models.name)
    data = manifest(models.folder / "latents", "train", {"referring": 900}, "CC-BY-4.0")
    train.track(run, data, "train-64px", "s3://b/t")
    verdict = models.judge("new", "old")
    known: dict[str, Any] = {"registry": models.registry, "tracked": run}
    found = promote.run(models.folder / "new", "s3://bucket/new", papers, verdict, **known)
    return models.registry.version(found["version"])


def test_all_that_a_decision_needs_lies_beside_the_version(models: Models, registry: Registry, papers: Path) -> None:
    version = promoted(models, papers)
    top = {item.path for item in registry.client.list_artifacts(version.run_id, "version-2") if not item.is_dir}
    names = ("evaluation.json", "referring.png", "sheet-small.png", "sheet.png", "verdict.html", "verdict.json")
    assert top == {f"version-2/{name}" for name in names}
    for name in ("held-out", "training"):
        data = registry.client.list_artifacts(version.run_id, f"version-2/data/{name}")
        assert [item.path for item in data] == [f"version-2/data/{name}/manifest.json"]


def test_the_page_of_a_version_lets_a_lead_decide(models: Models, registry: Registry, papers: Path) -> None:
    version = promoted(models, papers)
    tokens = MarkdownIt("commonmark").enable("table").parse(version.description)
    cells = [
        inside.content.replace("&ensp;", "").strip()
        for token, inside in pairwise(tokens)
        if token.type in {"th_open", "td_open"}
    ]
    titles, row = cells[:8], cells[8:]
    shown = dict(zip(titles, row, strict=True))
    assert shown.pop("change").startswith("+0.200 [")
    assert shown.pop("this version").startswith("0.700 [")
    numbers = {"champion": "0.500", "floor to bound": "0.000 to 1.000", "n": "30"}
    assert shown == {"task": "referring", "metric": "iou", **numbers, "gate": "passed"}
    text = version.description
    assert text.startswith("**passed**: no task fell and the alignment score rose by +0.200")
    assert "Held against version 1, the champion then." in text
    trained_on, scored_on = (data_digest(folder)[:19] for folder in (models.folder / "latents", papers / HELD_OUT))
    assert f"Trained on `train-64px`, 900 triplets, `{trained_on}`; CC-BY-4.0." in text
    assert f"`held-out`, 30 triplets, `{scored_on}`; CC0-1.0." in text
    assert "instructdiffusion promote 2" in text


def test_the_links_of_a_page_lead_to_what_is_kept(models: Models, registry: Registry, papers: Path) -> None:
    version = promoted(models, papers)
    inline = [child for token in MarkdownIt().parse(version.description) for child in token.children or []]
    (sheet,) = [str(token.attrs["src"]) for token in inline if token.type == "image"]
    answer = httpx.get(f"{registry.uri}/{sheet}")
    with Pillow.open(io.BytesIO(answer.content)) as shown:
        assert shown.size == (800, 40)
    links = [str(token.attrs["href"]) for token in inline if token.type == "link_open"]
    files = [link.partition("/artifacts/")[2] for link in links if "/artifacts/" in link]
    assert {Path(name).name for name in files} == {"verdict.html", "evaluation.json", "sheet.png", "manifest.json"}
    for name in files:
        answer = httpx.get(f"{registry.uri}/get-artifact", params={"path": name, "run_uuid": version.run_id})
        assert answer.status_code == 200


def test_notes_that_people_wrote_on_a_page_stay(models: Models, registry: Registry, papers: Path) -> None:
    version = promoted(models, papers)
    registry.describe("2", version.description + "\nI looked at ten edits by hand.\n")
    assert promoted(models, papers).description.count("I looked at ten edits by hand.") == 1


FLAGS = ("remove rose while its background fell by 3.00 dB", "add rose while its background fell by 2.00 dB")


def facts(**changes: Any) -> Facts:
    """A page's facts, of a challenger that was refused for many reasons."""
    row = {
        "metric": "iou",
        "value": 0.7,
        "floor": 0.0,
        "bound": 1.0,
        "n": 30,
        "scores": [0.7 + part for part in SPREAD],
    }
    evaluation = {"tasks": {"referring": row}, "model": "sha256:new", "data": "sha256:d"}
    checks = [Check(name="leak", passed=True, told="none"), Check(name="latency", passed=False, told="slow")]
    judged = gate.verdict(evaluation, None).model_copy(update={"checks": (*checks, checks[0]), "flags": FLAGS})
    known: dict[str, Any] = {"verdict": judged, "files": ["evaluation.json", SHEET, SHOWN], **changes}
    return Facts("2", "f" * 32, "1", "refused", "; ".join(["add fell"] * 60), evaluation, **known)


def test_a_page_says_how_many_checks_passed_and_what_to_look_at() -> None:
    text = page(facts())
    assert "\n- 2 of 3 checks of the policy `default` passed.\n" in text
    for flag in FLAGS:
        assert f"\n- To look at: {flag}.\n" in text
    judged = gate.verdict(facts().evaluation, None)
    told = judged.model_copy(update={"notes": ("editing was not compared: other data",)})
    assert "\n- editing was not compared: other data.\n" in page(facts(verdict=told))
    assert "checks of the policy" not in page(facts(verdict=judged))
    other = judged.model_copy(update={"challenger": "sha256:other", "flags": ("add rose",)})
    assert "add rose" not in page(facts(verdict=other))  # it is of the challenger, and this is the champion's page


@pytest.mark.parametrize("length", [0, 2000, 3000, 4000, 4500, 4900, 4970])
@pytest.mark.parametrize("heading", ["", "**refused**: it fell.\n\n## Notes\n\n"])
def test_notes_stay_whole_and_what_finds_no_room_beside_them_goes_in_whole_parts(length: int, heading: str) -> None:
    notes = ("I looked at ten edits. " * 250)[:length].strip()
    text = page(facts(), heading + notes)
    assert len(text) <= LIMIT
    assert text.endswith(f"## Notes\n\n{notes or 'Yours to write; what stands below this heading is kept.'}\n")
    ours = text.partition("## Notes")[0].split("\n\n")[:-1]
    whole = page(facts()).partition("## Notes")[0].split("\n\n")[:-1]
    assert ours == [part for part in whole if part in ours] + [LEFT_OUT] * (LEFT_OUT in ours)
    assert (ours == whole) == (length <= 3000)
    assert page(facts(), text) == text


def test_notes_that_fill_the_page_stay_as_they_are() -> None:
    assert page(facts(), "x" * LIMIT) == "x" * LIMIT


def test_the_program_of_the_page_promotes_as_the_command_does(
    models: Models, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = blocks("python")
    named = Registry(registry.uri, "instructdiffusion")  # as the program says
    for name in ("1", "2"):
        named.register(f"s3://bucket/{name}", digest=f"sha256:{name}", run_id=models.tracker.open_run(name).run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    exec(program, {})
    assert number(named, CHAMPION) == "2"


def test_a_version_that_is_not_there_is_not_promoted_and_changes_nothing(models: Models, registry: Registry) -> None:
    old = models.make("old", 0.5)
    models.promote(old, models.judge(old, None))
    with pytest.raises(ConfigError, match=r"has no version 9; name one that is registered \(1\)"):
        registry.promote("9")
    assert number(registry, PREVIOUS) is None
