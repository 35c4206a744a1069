"""Rounds on a real Label Studio, with a real store: opened, answered, collected, closed, and what goes wrong."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from labeling.annotating import Labels, Proposed, command, failed, projects
from labeling.proposed import propose

from instructdiffusion.components import label_round, rank
from instructdiffusion.components.storage import Store
from instructdiffusion.labeling.label_studio import State
from instructdiffusion.labeling.rankings import FILE, REFERENCE, Ranking, read
from instructdiffusion.labeling.session import Session
from instructdiffusion.model.errors import ConfigError, ServiceError

DATABASE = "data/label_studio.sqlite3"


class Files(SimpleHTTPRequestHandler):
    """Another service: a folder over HTTP."""

    def log_message(self, *_: object) -> None:
        """Say nothing: it shares its output with the command."""


def submit(session: Session, labels: Labels, proposed: Proposed, state: State, picks: dict[str, str | None]) -> None:
    for key, task in labels.tasks(state).items():
        if key in picks:
            session.submit(task, proposed.answer(key, picks[key]), f"{session!r} {key} {picks[key]}")


def picked(rankings: tuple[Ranking, ...]) -> dict[tuple[str, str], str | None]:
    """Best edit by prompt and annotator."""
    found = {(r.key, r.annotator): r.edits[0] if r.edits else None for r in rankings}
    assert len(found) == len(rankings)
    return found


def test_a_round_that_is_opened_twice_is_there_once(labels: Labels, proposed: Proposed) -> None:
    first = label_round.open_round(proposed.folder, labels.settings)
    assert label_round.open_round(proposed.folder, labels.settings) == first
    (project,) = projects(first)
    titled = labels.owner.projects.list(title=f"Edits {first.id}")
    assert [p.id for p in titled] == [project]
    assert labels.tasks(first).keys() == proposed.best.keys()
    assert len(labels.owner.import_storage.s3.list(project=project)) == 1
    assert (first.prompts, first.done, first.wanted, first.closed, first.rankings) == (3, 0, 2, False, ())


def test_nothing_on_the_server_tells_how_an_edit_was_made(labels: Labels, proposed: Proposed) -> None:
    state = label_round.open_round(proposed.folder, labels.settings)
    tasks = list(labels.owner.tasks.list(project=projects(state)[0], fields="all", resolve_uri=False))
    places = set()
    for task in tasks:
        assert {*task.data} == {"task_key", "instruction", "source_image", "edit_1", "edit_2", "edit_3", "edit_4"}
        (best,) = (n for n in range(1, 5) if proposed.best[task.data["task_key"]] in task.data[f"edit_{n}"])
        places.add(best)
        assert not task.meta
    assert "denoise" not in json.dumps([task.data["source_image"] for task in tasks])
    assert places != {1}  # where the truth stands among the candidates


def test_candidates_in_the_store_are_the_same_round(
    labels: Labels, proposed: Proposed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = label_round.open_round(proposed.folder, labels.settings)
    address = Store.open(labels.settings).put_directory(proposed.folder, f"candidates/{state.id}")
    monkeypatch.chdir(tmp_path)  # it is copied there
    told = command("label", "status", address, "--json", **labels.environment).output
    assert json.loads(told)["addresses"] == [*state.addresses]


def test_a_half_opened_round_is_completed(labels: Labels, proposed: Proposed) -> None:
    state = label_round.open_round(proposed.folder, labels.settings)
    key, task = min(labels.tasks(state).items())
    labels.owner.tasks.delete(id=str(task))
    assert key not in labels.tasks(state)
    label_round.open_round(proposed.folder, labels.settings)
    assert labels.tasks(state).keys() == proposed.best.keys()


def test_prompts_of_different_numbers_of_edits_have_a_screen_each(labels: Labels, proposed: Proposed) -> None:
    document = json.loads((proposed.folder / "candidates.json").read_text())
    del document["prompts"][0]["edits"][2:]
    (proposed.folder / "candidates.json").write_text(json.dumps(document))
    state = label_round.open_round(proposed.folder, labels.settings)
    assert len(state.addresses) == 2
    assert labels.tasks(state).keys() == proposed.best.keys()


def test_two_answer_and_a_third_time_nothing_new_is_collected(
    labels: Labels, proposed: Proposed, tmp_path: Path
) -> None:
    state, file = label_round.open_round(proposed.folder, labels.settings), tmp_path / FILE
    with labels.annotator("ana") as ana, labels.annotator("bo") as bo:
        submit(ana, labels, proposed, state, dict(proposed.best))
        half = label_round.collect_round(proposed.folder, file, labels.settings)
        assert (half.done, half.finished) == (0, False)
        submit(bo, labels, proposed, state, {**proposed.best, min(proposed.best): None})
    state = label_round.collect_round(proposed.folder, file, labels.settings)
    assert (state.done, state.finished, state.faults) == (3, True, ())
    expected: dict[tuple[str, str], str | None] = {
        (key, f"{name}@example.org"): best for key, best in proposed.best.items() for name in ("ana", "bo")
    }
    expected[min(proposed.best), "bo@example.org"] = None
    assert picked(tuple(read(file))) == picked(state.rankings) == expected
    assert {r.kind for r in state.rankings} == {"person"}
    assert {r.round for r in state.rankings} == {state.id}
    before = file.read_bytes()
    assert label_round.collect_round(proposed.folder, file, labels.settings) == state
    assert file.read_bytes() == before


def test_of_several_answers_of_one_person_the_newest_counts_and_a_skip_never(
    labels: Labels, proposed: Proposed
) -> None:
    state = label_round.open_round(proposed.folder, labels.settings)
    key, task = min(labels.tasks(state).items())
    with labels.annotator("ana") as ana:
        for edit in (proposed.best[key], None, proposed.other(key)):
            ana.submit(task, proposed.answer(key, edit, edit_2=["artifact"]), f"{task} {edit}")
        ana.submit(task, proposed.answer(key, None), f"{task} {None}")  # once more what is there: changes nothing
    labels.owner.annotations.create(id=task, result=proposed.answer(key, proposed.best[key]), was_cancelled=True)
    (found,) = label_round.status_of_round(proposed.folder, labels.settings).rankings
    assert (found.annotator, found.edits) == ("ana@example.org", (proposed.other(key),))
    assert [*found.defects.values()] == [("artifact",)]


def refusals(labels: Labels) -> int:
    """How often the server's database was locked when it wanted to write."""
    return (labels.folder / "label-studio" / "label-studio.log").read_text().count("database is locked")


def test_an_answer_that_meets_a_locked_database_is_sent_again(labels: Labels, proposed: Proposed) -> None:
    state, before = label_round.open_round(proposed.folder, labels.settings), refusals(labels)
    key, task = min(labels.tasks(state).items())
    with labels.annotator("ana") as ana, ThreadPoolExecutor(1) as thread:
        with closing(sqlite3.connect(labels.folder / "label-studio" / DATABASE)) as other:
            other.execute("BEGIN IMMEDIATE")
            sent = thread.submit(ana.submit, task, proposed.answer(key, proposed.best[key]), f"locked {task}")
            while refusals(labels) == before:
                assert not sent.done()
                time.sleep(0.1)
        sent.result()
    assert picked(label_round.status_of_round(proposed.folder, labels.settings).rankings) == {
        (key, "ana@example.org"): proposed.best[key]
    }


def test_an_answer_that_can_t_be_read_is_named_and_keeps_none_back(labels: Labels, proposed: Proposed) -> None:
    state = label_round.open_round(proposed.folder, labels.settings)
    (key, task), (_, other), *_ = sorted(labels.tasks(state).items())
    with labels.annotator("ana") as ana:
        ana.submit(task, proposed.answer(key, proposed.best[key]), f"good {task}")
        ana.submit(other, [], f"empty {other}")
    state = label_round.status_of_round(proposed.folder, labels.settings)
    assert picked(state.rankings) == {(key, "ana@example.org"): proposed.best[key]}
    (fault,) = state.faults
    assert "picks nothing" in fault


def test_a_closed_round_waits_for_nobody_and_opens_again(labels: Labels, proposed: Proposed, tmp_path: Path) -> None:
    state = label_round.open_round(proposed.folder, labels.settings)
    with labels.annotator("ana") as ana:
        submit(ana, labels, proposed, state, dict(proposed.best))
    with pytest.raises(ServiceError, match=f"0 of 3 prompts.*{re.escape(state.addresses[0])}"):
        label_round.answered_by_people(proposed.folder, labels.settings)
    closed = label_round.close_round(proposed.folder, tmp_path / FILE, labels.settings)
    assert (closed.closed, closed.finished, closed.done) == (True, True, 0)
    assert len(read(tmp_path / FILE)) == 3
    assert label_round.answered_by_people(proposed.folder, labels.settings) == closed.rankings
    opened = label_round.open_round(proposed.folder, labels.settings)
    assert (opened.closed, opened.finished, opened.addresses) == (False, False, state.addresses)
    assert opened.rankings == closed.rankings


def test_the_reference_answers_as_two_users_and_counts_as_no_person(labels: Labels, tmp_path: Path) -> None:
    propose(tmp_path, {"denoise": 2}, size=32, seed=999)
    folders = tmp_path / "candidates", tmp_path / "data"
    alone = read(rank.run(*folders, tmp_path / "alone", picks=1).path / FILE)
    made = rank.run(*folders, tmp_path / "there", annotator="label-studio", settings=labels.settings)
    assert made.facts["people"] == 0
    assert made.facts["annotators"] == {f"{REFERENCE} 1": 2, f"{REFERENCE} 2": 2}
    found = read(made.path / FILE)
    assert {(r.key, r.edits) for r in found} == {(r.key, r.edits) for r in alone}
    again = label_round.answered_by_reference(tmp_path / "candidates", alone, labels.settings)
    assert [*again] == found  # a retry of the step answers nothing twice


def test_no_label_studio_is_told_before_anything_is_sent(labels: Labels, proposed: Proposed) -> None:
    without = labels.settings.model_copy(update={"label_url": ""})
    with pytest.raises(ConfigError, match="INSTRUCTDIFFUSION_LABEL_URL and INSTRUCTDIFFUSION_LABEL_TOKEN"):
        label_round.open_round(proposed.folder, without)


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"TOKEN": "0" * 40}, 2, "set INSTRUCTDIFFUSION_LABEL_TOKEN"),
        ({"TOKEN": ""}, 2, "INSTRUCTDIFFUSION_LABEL_TOKEN is not set"),
        ({"URL": "http://127.0.0.1:9"}, 4, "make label-studio"),
        ({"URL": "127.0.0.1:9"}, 2, "INSTRUCTDIFFUSION_LABEL_URL is wrong"),
    ],
    ids=["wrong token", "no token", "service down", "no address"],
)
def test_a_server_that_can_t_be_used_is_one_line_with_the_fix(
    labels: Labels, proposed: Proposed, change: dict[str, str], code: int, told: str
) -> None:
    variables = {**labels.environment, **{f"INSTRUCTDIFFUSION_LABEL_{name}": value for name, value in change.items()}}
    ended = command("label", "status", proposed.folder, **variables)
    assert told in failed(ended, code, labels.environment)


@pytest.mark.parametrize("pages", [[], ["api/current-user/whoami"]], ids=["answers 404", "answers 200"])
def test_another_service_at_the_address_is_told(
    pages: list[str], labels: Labels, proposed: Proposed, tmp_path: Path
) -> None:
    for name in pages:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    files = partial(Files, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{other.server_port}"
        variables = {**labels.environment, "INSTRUCTDIFFUSION_LABEL_URL": address}
        ended = command("label", "status", proposed.folder, **variables)
        other.shutdown()
    assert failed(ended, 4, labels.environment).endswith("is no Label Studio; set INSTRUCTDIFFUSION_LABEL_URL")


def test_a_store_that_is_down_is_one_line_and_nothing_is_opened(labels: Labels, proposed: Proposed) -> None:
    variables = {**labels.environment, "INSTRUCTDIFFUSION_STORE_ENDPOINT": "127.0.0.1:9"}
    ended = command("label", "open", proposed.folder, **variables)
    assert "127.0.0.1:9" in failed(ended, 4, labels.environment)
    assert [p.title for p in labels.owner.projects.list(title=proposed.round.id)] == []


def test_more_edits_than_fit_on_a_screen_are_one_line_and_nothing_is_opened(labels: Labels, tmp_path: Path) -> None:
    propose(tmp_path, {"denoise": 1}, size=32, seed=998)
    document = json.loads((tmp_path / "candidates" / "candidates.json").read_text())
    edits = document["prompts"][0]["edits"]
    edits += [{**edits[0], "id": f"more {n}"} for n in range(3)]
    (tmp_path / "candidates" / "candidates.json").write_text(json.dumps(document))
    ended = command("label", "open", tmp_path / "candidates", **labels.environment)
    assert "propose 1 to 6" in failed(ended, 2, labels.environment)
    round = label_round.round_of(tmp_path / "candidates")
    assert [p.title for p in labels.owner.projects.list(title=round.id)] == []


def test_a_picture_that_is_lost_is_named_before_anyone_sees_a_gap(labels: Labels, proposed: Proposed) -> None:
    lost = min((proposed.folder / "pictures").iterdir())
    lost.unlink()
    ended = command("label", "open", proposed.folder, **labels.environment)
    assert lost.name in failed(ended, 3, labels.environment)


def test_a_project_that_was_deleted_is_one_line_and_what_was_collected_stays(
    labels: Labels, proposed: Proposed, tmp_path: Path
) -> None:
    state, file = label_round.open_round(proposed.folder, labels.settings), tmp_path / FILE
    with labels.annotator("ana") as ana:
        submit(ana, labels, proposed, state, dict(proposed.best))
    label_round.collect_round(proposed.folder, file, labels.settings)
    before = file.read_bytes()
    labels.owner.projects.delete(id=projects(state)[0])
    ended = command("label", "collect", proposed.folder, "--file", file, **labels.environment)
    assert "instructdiffusion label open" in failed(ended, 4, labels.environment)
    assert file.read_bytes() == before
    assert len(read(file)) == 3
