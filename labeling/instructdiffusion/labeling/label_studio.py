"""Ranking rounds on a Label Studio server: opened, read, closed.

A round is the edits of one set of candidates; its id derives from them, so whatever is done again finds what is there.
On the server it is a project for each number of edits that its prompts have. The server learns neither how an edit was
made nor whose it is: pictures are named by content and shown in an order by lot, which can be derived again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from instructdiffusion.labeling import screen
from instructdiffusion.labeling.rankings import REFERENCE, Ranking, newest
from instructdiffusion.labeling.session import ADDRESS, Session, explained
from instructdiffusion.model.errors import DataError, ServiceError

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio

TIMEOUT = 600  # seconds; the client's own minute is too short for big rounds
BATCH = 500  # tasks sent at once
ONCE: Any = {"max_retries": 0}  # the client repeats a POST that failed late, and would make things twice
CLOSED = "Closed: "
ACCOUNT = re.compile(r"reference-annotator-(\d+)@programs\.invalid")  # no person's address ends in .invalid


@dataclass(frozen=True)
class Prompt:
    """A source, what to do with it, and edits of it."""

    key: str
    instruction: str
    source: str  # name of the picture
    edits: Mapping[str, str]  # name of the picture by id


@dataclass(frozen=True)
class Round:
    """Prompts whose edits are ranked together."""

    id: str
    prompts: Sequence[Prompt]

    def shown(self, prompt: Prompt) -> list[str]:
        """Ids of a prompt's edits in their places: by lot, the same lot for everybody and every time."""
        return sorted(prompt.edits, key=lambda edit: hashlib.sha256(f"{self.id}/{prompt.key}/{edit}".encode()).digest())

    @cached_property
    def titles(self) -> dict[int, str]:
        """Titles of its projects, by the number of edits."""
        counts = sorted({len(prompt.edits) for prompt in self.prompts})
        return {count: f"Edits {self.id}, {count} each" for count in counts}


@dataclass(frozen=True)
class Pictures:
    """Where the server reads pictures."""

    bucket: str
    prefix: str  # of all their names
    access_key: str
    secret_key: str
    uris: Mapping[str, str]  # s3://bucket/prefix/... by name


@dataclass(frozen=True)
class State:
    """What a round has come to."""

    id: str
    addresses: tuple[str, ...]  # where to rank
    prompts: int
    done: int  # prompts with as many answers as wanted
    wanted: int  # answers to each prompt, of different annotators
    closed: bool
    rankings: tuple[Ranking, ...]
    faults: tuple[str, ...]  # answers that can't be read, one line each

    @property
    def finished(self) -> bool:
        """Whether no more answers are waited for."""
        return self.closed or self.done == self.prompts


class Rounds:
    """The rounds on one server."""

    def __init__(self, url: str, token: str, public: str = "") -> None:
        """Connect lazily: nothing is sent until the first call.

        Args:
            url: http(s)://host:port.
            token: access token of an account, of either kind that Label Studio has.
            public: the same server as people's browsers reach it; empty: at `url`.
        """
        self.url, self._token = url.rstrip("/"), token.strip()
        self.public = public.rstrip("/") or self.url

    @cached_property
    def _client(self) -> LabelStudio:
        from label_studio_sdk import LabelStudio
        from label_studio_sdk.core.api_error import ApiError

        client = LabelStudio(base_url=self.url, api_key=self._token, timeout=TIMEOUT)
        try:
            known = bool(client.users.whoami().email)  # the client checks no answer's shape
        except ApiError as error:
            if error.status_code != 404:
                raise
            known = False
        if not known:
            raise ServiceError(f"what answers at {self.url} is no Label Studio; set {ADDRESS}")
        return client

    def open(self, round: Round, pictures: Pictures, annotators: int = 2) -> None:
        """Put a round on the server, or what is missing of it; one that was closed is open again.

        Args:
            round: to open.
            pictures: of its prompts; they must be in the store.
            annotators: whose answers are wanted for each prompt; a round that is there keeps its number.

        Raises:
            ConfigError: a prompt has too many edits for a screen, or the token is refused.
            ServiceError: the server does not answer, or can't read the store.
        """
        configs = {count: screen.config(count) for count in round.titles}  # before anything is made
        with explained(self.url):
            for count, title in round.titles.items():
                project = self._project(title) or self._create(title, configs[count], annotators)
                if project.title != title:
                    self._client.projects.update(id=project.id, title=title)
                if not self._client.import_storage.s3.list(project=project.id):
                    self._connect(project.id, pictures)
                self._import(project.id, round, count, pictures.uris)

    def closed(self, round: Round) -> bool:
        """Whether all its projects are there and closed."""
        with explained(self.url):
            found = [self._project(title) for title in round.titles.values()]
        return all(project and project.title.startswith(CLOSED) for project in found)

    def close(self, round: Round) -> None:
        """Wait for no more answers; the projects stay, renamed, with all that is in them."""
        with explained(self.url):
            for count, project in self._projects(round).items():
                self._client.projects.update(id=project.id, title=CLOSED + round.titles[count])

    def read(self, round: Round) -> State:
        """All that was answered so far: for each prompt and annotator the newest answer that is no skip.

        Raises:
            ServiceError: the round is not on the server, or that does not answer.
        """
        with explained(self.url):
            projects = self._projects(round)
            names = {user.id: user.email for user in self._client.users.list()}
            prompts = {prompt.key: prompt for prompt in round.prompts}
            found, faults = [], []
            for project in projects.values():
                for key, annotation in self._annotations(project.id):
                    try:
                        found.append(_ranking(round, prompts.get(key), annotation, names))
                    except DataError as error:
                        faults.append(f"answer {annotation['id']} to prompt {key} is left out: {error}")
        rankings = newest(found)
        wanted = {count: int(project.maximum_annotations) for count, project in projects.items()}
        answers: defaultdict[str, int] = defaultdict(int)
        for ranking in rankings:
            answers[ranking.key] += 1
        return State(
            id=round.id,
            addresses=tuple(f"{self.public}/projects/{project.id}/data?labeling=1" for project in projects.values()),
            prompts=len(prompts),
            done=sum(answers[key] >= wanted[len(prompt.edits)] for key, prompt in prompts.items()),
            wanted=max(wanted.values()),
            closed=all(project.title.startswith(CLOSED) for project in projects.values()),
            rankings=tuple(rankings),
            faults=tuple(faults),
        )

    def invitation(self) -> str:
        """Path of the page where whoever has this link makes an account."""
        with explained(self.url):
            return str(self._client.organizations.invites.get_invite_link().invite_url)

    def answer(self, round: Round, rankings: Iterable[Ranking], accounts: int = 2) -> None:
        """Let the reference annotator answer as `accounts` annotators do: each in a session of its own.

        Their addresses name them as programs. What one has answered before stays as it is.
        """
        best = {ranking.key: (ranking.edits or (None,))[0] for ranking in rankings}
        with explained(self.url):
            tasks = [task for project in self._projects(round).values() for task in self._tasks(project.id)]
        prompts = {prompt.key: prompt for prompt in round.prompts}
        invitation = self.invitation()
        for number in range(1, accounts + 1):
            email = f"reference-annotator-{number}@programs.invalid"
            password = hmac.new(self._token.encode(), email.encode(), "sha256").hexdigest()
            with closing(Session(self.url)) as session:
                session.join(invitation, email, password)
                for task in tasks:
                    key = task.data["task_key"]
                    result = screen.answer(best[key], round.shown(prompts[key]))
                    session.submit(task.id, result, f"{round.id}/{task.id}/{key}/{email}")

    def _project(self, title: str) -> Any | None:
        """The project of that title, open or closed; of several the first, should two have opened it at once."""
        there: Iterable[Any] = self._client.projects.list(title=title, ordering="id", page_size=100)
        return next((p for p in there if p.title in (title, CLOSED + title)), None)

    def _projects(self, round: Round) -> dict[int, Any]:
        found = {count: self._project(title) for count, title in round.titles.items()}
        if None in found.values():
            raise ServiceError(
                f"round {round.id} is not on Label Studio at {self.url}: never opened, or its project was deleted; "
                "open it with: instructdiffusion label open (rankings collected before are kept)"
            )
        return found

    def _create(self, title: str, config: str, annotators: int) -> Any:
        return self._client.projects.create(
            title=title,
            label_config=config,
            maximum_annotations=annotators,
            sampling="Uniform sampling",  # everyone in an order of their own
            expert_instruction=screen.HINT,
            skip_queue="REQUEUE_FOR_OTHERS",
            enable_empty_annotation=False,
            request_options=ONCE,
        )

    def _connect(self, project: int, pictures: Pictures) -> None:
        """Let the project read the pictures; the server hands them on, so that browsers need not reach the store."""
        self._client.import_storage.s3.create(
            project=project,
            title="pictures",
            bucket=pictures.bucket,
            prefix=pictures.prefix,
            region_name="us-east-1",
            aws_access_key_id=pictures.access_key,
            aws_secret_access_key=pictures.secret_key,
            use_blob_urls=True,
            presign=False,
            request_options=ONCE,
        )

    def _import(self, project: int, round: Round, count: int, uris: Mapping[str, str]) -> None:
        known = {task.data["task_key"] for task in self._tasks(project)}
        new = [p for p in round.prompts if len(p.edits) == count and p.key not in known]
        for start in range(0, len(new), BATCH):
            tasks: Any = [{"data": _data(round, prompt, uris)} for prompt in new[start : start + BATCH]]
            self._client.projects.import_tasks(project, request=tasks, request_options=ONCE)

    def _tasks(self, project: int, *, answered: bool = False) -> Iterator[Any]:
        """The project's tasks, in the order they were made: new answers meanwhile hide none."""
        some = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}
        query = {"ordering": ["tasks:id"], "filters": {"conjunction": "and", "items": [some] if answered else []}}
        yield from self._client.tasks.list(
            project=project,
            fields="all" if answered else "task_only",
            query=json.dumps(query),
            page_size=100,
            resolve_uri=False,
        )

    def _annotations(self, project: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every answer that is no skip, with the key of its prompt."""
        for task in self._tasks(project, answered=True):
            for annotation in task.annotations or []:
                if not annotation["was_cancelled"]:
                    yield str(task.data["task_key"]), annotation


def _data(round: Round, prompt: Prompt, uris: Mapping[str, str]) -> dict[str, str]:
    """A task's data: nothing in it tells how an edit was made."""
    places = {f"edit_{place}": uris[prompt.edits[edit]] for place, edit in enumerate(round.shown(prompt), 1)}
    told = {"task_key": prompt.key, "instruction": prompt.instruction}
    return {**told, screen.SOURCE: uris[prompt.source], **places}


def _ranking(round: Round, prompt: Prompt | None, annotation: Mapping[str, Any], names: Mapping[int, str]) -> Ranking:
    """An answer as a record.

    Raises:
        DataError: it can't be one.
    """
    if prompt is None:
        raise DataError("there is no such prompt in the round")
    shown = round.shown(prompt)
    best, defects = screen.read(annotation["result"], shown)
    by = annotation["completed_by"]
    who = by["id"] if isinstance(by, dict) else by
    email = names.get(who, f"former member {who}")
    program = ACCOUNT.fullmatch(email)
    return Ranking(
        key=prompt.key,
        edits=(best,) if best else (),
        rejected=best is None,
        defects=defects,
        shown=tuple(sorted(shown)),
        annotator=f"{REFERENCE} {program[1]}" if program else email,
        kind="reference" if program else "person",
        when=annotation["updated_at"],
        round=round.id,
    )
