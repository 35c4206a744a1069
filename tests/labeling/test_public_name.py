"""Label Studio with a public name: people are sent there, and steps reach it inside of the cluster all the same."""

from __future__ import annotations

import re

import httpx
import pytest
from labeling.annotating import Labels, Proposed, command

from instructdiffusion.components import label_round
from instructdiffusion.labeling import screen
from instructdiffusion.model.errors import ServiceError

PUBLIC = "https://labels.example.org"


def test_steps_log_in_and_answer_over_http_where_cookies_are_for_https(behind_https: Labels) -> None:
    page = httpx.get(f"{behind_https.settings.label_url}/user/login/")
    assert "Secure" in page.headers["set-cookie"]
    owner = behind_https.owner
    project = owner.projects.create(title="one task", label_config=screen.config(1))
    places = dict.fromkeys(("instruction", screen.SOURCE, "edit_1"), "none")
    owner.projects.import_tasks(project.id, request=[{"data": places}])
    (task,) = owner.tasks.list(project=project.id, fields="task_only")
    for time in ("signs up", "logs in"):
        with behind_https.annotator("ana") as ana:
            ana.submit(task.id, screen.answer("a", ["a"]), time)
    (task,) = owner.tasks.list(project=project.id, fields="all")
    names = {user.id: user.email for user in owner.users.list()}
    assert [names[answer["completed_by"]] for answer in task.annotations] == ["ana@example.org"] * 2


def test_people_are_sent_to_the_public_address(labels: Labels, proposed: Proposed) -> None:
    variables = {**labels.environment, "INSTRUCTDIFFUSION_LABEL_PUBLIC_URL": f"{PUBLIC}/"}
    told = command("label", "open", proposed.folder, **variables).output
    assert re.search(rf"rank at {PUBLIC}/projects/\d+/data", told)
    assert labels.settings.label_url not in told
    assert command("label", "invite", **variables).output.startswith(f"{PUBLIC}/user/signup/?token=")
    settings = labels.settings.model_copy(update={"label_public_url": PUBLIC})
    with pytest.raises(ServiceError, match=f"rank at {PUBLIC}/projects/"):
        label_round.answered_by_people(proposed.folder, settings)
