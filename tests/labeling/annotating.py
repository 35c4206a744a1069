"""What annotators and leads do, for tests: log in, answer, type commands."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio
from typer.testing import CliRunner, Result

from instructdiffusion.components.label_round import round_of
from instructdiffusion.components.settings import Settings
from instructdiffusion.labeling import screen
from instructdiffusion.labeling.label_studio import Round, Rounds, State
from instructdiffusion.labeling.session import Session

PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Proposed:
    """Candidates whose best edits are known."""

    folder: Path
    best: dict[str, str]  # edit by prompt

    @cached_property
    def round(self) -> Round:
        return round_of(self.folder)

    def answer(self, key: str, edit: str | None, **defects: list[str]) -> list[Any]:
        """The answer that picks an edit, or none; `defects` by place."""
        shown = self.round.shown(next(p for p in self.round.prompts if p.key == key))
        ticked = {shown[int(place.removeprefix("edit_")) - 1]: names for place, names in defects.items()}
        return screen.answer(edit, shown, ticked)

    def other(self, key: str) -> str:
        """An edit that is not the best."""
        (prompt,) = (p for p in self.round.prompts if p.key == key)
        return next(edit for edit in sorted(prompt.edits) if edit != self.best[key])


@dataclass(frozen=True)
class Labels:
    """A running Label Studio, its store, and who may do anything there."""

    folder: Path
    environment: dict[str, str]  # what the lead's shell has once it has read the access file

    @cached_property
    def settings(self) -> Settings:
        return Settings.from_environment(self.environment, needs=["store", "label"])

    @cached_property
    def rounds(self) -> Rounds:
        return Rounds(self.settings.label_url, self.settings.label_token.get_secret_value())

    @cached_property
    def owner(self) -> Any:
        """The server's own client, with the owner's rights; its lists have no types."""
        return LabelStudio(base_url=self.settings.label_url, api_key=self.settings.label_token.get_secret_value())

    @contextmanager
    def annotator(self, name: str) -> Iterator[Session]:
        """A person's session."""
        session = Session(self.settings.label_url)
        try:
            session.join(self.rounds.invitation(), f"{name}@example.org", PASSWORD)
            yield session
        finally:
            session.close()

    def tasks(self, state: State) -> dict[str, int]:
        """Ids of the tasks, by prompt."""
        found = [t for project in projects(state) for t in self.owner.tasks.list(project=project, fields="task_only")]
        tasks = {str(task.data["task_key"]): int(task.id) for task in found}
        assert len(tasks) == len(found)  # none is there twice
        return tasks


def projects(state: State) -> list[int]:
    """Ids of the projects that a round's addresses lead to."""
    return [int(number) for address in state.addresses for number in re.findall(r"/projects/(\d+)/", address)]


def shell(**variables: str) -> dict[str, str]:
    """The environment of a lead's shell: nothing of ours but these variables."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("INSTRUCTDIFFUSION_")}
    return {**own, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **variables}


def command(*arguments: object, **variables: str) -> Result:
    """Type a command into a lead's shell; here without the seconds that starting Python takes."""
    from instructdiffusion.pipelines.cli import app

    hidden = dict.fromkeys(name for name in os.environ if name.startswith("INSTRUCTDIFFUSION_"))
    return CliRunner().invoke(app, [*map(str, arguments)], env={**hidden, **variables})


def failed(ended: Result, code: int, secrets: Mapping[str, str]) -> str:
    """The one line of a command that failed with `code`, which gives no secret away."""
    assert ended.exit_code == code, ended.output
    (line,) = ended.output.strip().splitlines()
    assert not [name for name, value in secrets.items() if name.endswith(("TOKEN", "SECRET_KEY")) and value in line]
    return line
