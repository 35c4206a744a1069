"""The reconciler: what is served is made equal to the alias `champion`.

It is told by events and believes only what it reads. All it has to remember is in the registry's tags, and what is
served is asked of the backend: it may be killed at any moment, and run again it goes on.

    served_at, served_until   when a version served last
    bento                     the Bento that was made of it, where the backend needs one
    canary_at                 since when it gets a share of the traffic
    serving_error             why it could not be served; what served before serves on
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NoReturn, Protocol

from instructdiffusion.components.registry import CHAMPION, PREVIOUS, Registry, Version, now, refusal, signed
from instructdiffusion.model.errors import InstructDiffusionError, ServiceError

log = logging.getLogger(__name__)

SERVED_AT, SERVED_UNTIL, CANARY_AT, ERROR = "served_at", "served_until", "canary_at", "serving_error"
ROLLED_BACK = "rolled_back_at"
TAG_LIMIT = 4000  # characters; the registry takes 5000
SLOWEST = 600.0  # seconds between two tries of what keeps failing


@dataclass(frozen=True)
class Served:
    """What a backend serves now. Versions are the registry's numbers; empty: none."""

    version: str = ""
    ready: bool = False
    canary: str = ""  # version that gets a share of the traffic
    canary_ready: bool = False
    why: str = ""  # what is not ready, in one line
    address: str = ""


@dataclass(frozen=True)
class Canary:
    """How a version starts that never served: with a share of the traffic, for a while; 0 percent: with all at once."""

    percent: int = 0
    hold: timedelta = timedelta(0)


@dataclass(frozen=True)
class Action:
    """What to do next, and why."""

    kind: Literal["nothing", "refuse", "wait", "try", "note", "serve", "record"]
    why: str = ""


@dataclass(frozen=True)
class Record:
    """What is to be written about who serves: tags by version, and whom a rollback returns to (empty: as it is)."""

    tags: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    previous: str = ""


class Backend(Protocol):
    """Where models are served. Each call may be repeated; what serves goes on until its successor is ready."""

    canary: Canary

    def served(self) -> Served:
        """What is served now."""

    def prepare(self, version: Version) -> Mapping[str, str]:
        """Make what is needed to serve a version, unless it is there; returns tags that name it.

        Raises:
            InstructDiffusionError: the version lacks something, or a service does not answer.
        """

    def serve(self, version: Version) -> None:
        """Give a version all the traffic."""

    def give_share(self, version: Version) -> None:
        """Start a version beside the one that serves, with the canary's share of the traffic."""

    def end_share(self) -> None:
        """End the canary, if there is one; all traffic goes to the version that serves."""


def decide(champion: Version | None, served: Served, versions: Sequence[Version], canary: Canary, at: str) -> Action:
    """What to do next; a pure function.

    Args:
        champion: the version with the alias, as it is now.
        served: what is served now.
        versions: all versions, with their tags.
        canary: how a new version starts.
        at: the time now, as tags hold it.
    """
    if champion is None:
        return Action("nothing", "no version has the alias champion; give it to one: instructdiffusion promote VERSION")
    number = champion.number
    if served.version != number and (refused := refusal(champion.tags)):
        return Action("refuse", f"version {number} {refused}; give the alias to another, or {signed(number)}")
    if served.version == number and not served.canary:
        if not served.ready:
            return Action("wait", served.why)
        changes = record(versions, number, at)
        return Action("record") if changes.tags else Action("nothing", f"version {number} serves at {served.address}")
    if served.version == number or not served.version or not canary.percent or SERVED_AT in champion.tags:
        return Action("serve")  # a version that has served needs no trial: a rollback must not wait for one
    if served.canary != number:
        return Action("try")
    if not served.canary_ready:
        return Action("wait", served.why)
    if CANARY_AT not in champion.tags:
        return Action("note")
    until = datetime.fromisoformat(champion.tags[CANARY_AT]) + canary.hold
    if datetime.fromisoformat(at) < until:
        when = until.isoformat(timespec="seconds")
        return Action("nothing", f"version {number} gets {canary.percent} % of the traffic until {when}")
    return Action("serve")


def record(versions: Sequence[Version], number: str, at: str) -> Record:
    """What is to be written once version `number` serves; a pure function, and empty when all is written.

    Whoever served before is what a rollback returns to, unless it was a rollback that took it out of service.
    """
    tags: dict[str, dict[str, str | None]] = {}
    before = [v for v in versions if v.number != number and SERVED_AT in v.tags and SERVED_UNTIL not in v.tags]
    for version in before:
        tags[version.number] = {SERVED_UNTIL: at}
    for version in versions:
        if version.number == number:
            again = SERVED_AT not in version.tags or SERVED_UNTIL in version.tags
            changes: dict[str, str | None] = {SERVED_AT: at} if again else {}
            changes |= {tag: None for tag in (SERVED_UNTIL, CANARY_AT, ERROR) if tag in version.tags}
            tags |= {number: changes} if changes else {}
    last = max(before, key=lambda v: v.tags[SERVED_AT], default=None)
    kept = last is not None and last.tags.get(ROLLED_BACK, "") < last.tags[SERVED_AT]
    return Record(tags, last.number if last and kept else "")


class Reconciler:
    """Acts until what is served is what the registry says."""

    def __init__(self, registry: Registry, backend: Backend, *, patience: float = 900.0, poll: float = 1.0) -> None:
        """`patience` is how many seconds a version may take to be ready, `poll` the seconds between two looks."""
        self.registry, self.backend, self.patience, self.poll = registry, backend, patience, poll
        self._due = time.monotonic() + patience

    def promise(self, seconds: float = 0.0) -> None:
        """Promise a look in so many seconds; it may take as long as a version may to be ready."""
        self._due = time.monotonic() + seconds + self.patience

    def alive(self) -> bool:
        """Whether the last promise was kept, or still may be; a look that hangs keeps none."""
        return time.monotonic() < self._due

    def once(self) -> str:
        """Act until nothing is left to do now; returns the state in one line.

        Raises:
            InstructDiffusionError: the champion can't be served, or a service does not answer; what served serves on.
        """
        until = time.monotonic() + self.patience
        while True:
            self.promise()
            champion, versions, served = self.registry.at(CHAMPION), self.registry.versions(), self.backend.served()
            at = now()
            action = decide(champion, served, versions, self.backend.canary, at)
            if action.kind == "nothing" or champion is None:
                return action.why
            log.info("version %s: %s %s", champion.number, action.kind, action.why)
            if action.kind == "refuse":
                self._blame(champion, action.why)
                if served.canary:
                    self.backend.end_share()
                return action.why
            if action.kind == "record":
                self._write(record(versions, champion.number, at))
            elif action.kind == "note":
                self.registry.tag(champion.number, {CANARY_AT: at})
            else:
                self._move(champion, served, action, until)

    def _move(self, champion: Version, served: Served, action: Action, until: float) -> None:
        """Get on with serving a version; what keeps it from being served is written down with it."""
        try:
            if action.kind == "wait":
                if time.monotonic() > until:
                    raise ServiceError(f"not ready after {self.patience:g} s: {action.why or 'no reason is known'}")
                time.sleep(self.poll)
                return
            self.registry.tag(champion.number, self.backend.prepare(champion))
            if action.kind == "try":
                self.registry.tag(champion.number, {CANARY_AT: None})  # of an earlier try
            prepared = self.registry.version(champion.number)
            (self.backend.give_share if action.kind == "try" else self.backend.serve)(prepared)
        except InstructDiffusionError as error:
            self._blame(champion, str(error))
            others = served.version not in ("", champion.number)
            rest = f"; version {served.version} serves on" if others else ""
            raise type(error)(f"version {champion.number} can't be served: {error}{rest}") from None

    def _write(self, wanted: Record) -> None:
        """The tags come last: they are what says that all is written."""
        if wanted.previous:
            self.registry.set_alias(PREVIOUS, wanted.previous)
        for number, tags in wanted.tags.items():
            self.registry.tag(number, tags)

    def _blame(self, champion: Version, reason: str) -> None:
        try:
            if champion.tags.get(ERROR) != reason[:TAG_LIMIT]:
                self.registry.tag(champion.number, {ERROR: reason[:TAG_LIMIT]})
        except InstructDiffusionError as error:
            log.warning("why version %s can't be served is not in the registry: %s", champion.number, error)


def watch(reconciler: Reconciler, tell: Callable[[str], None], *, wake: threading.Event, every: float) -> NoReturn:
    """Reconcile when woken, and every so many seconds; a fault is told and tried again, ever more slowly.

    Args:
        reconciler: acts.
        tell: gets the state in one line whenever it changes.
        wake: set by whoever knows of a change.
        every: seconds between two looks that nobody asked for.
    """
    told, pause = "", every
    while True:
        wake.clear()
        try:
            line, pause = reconciler.once(), every
        except InstructDiffusionError as error:
            line, pause = f"error: {error}", min(pause * 2, max(SLOWEST, every))
        if line != told:
            tell(line)
            told = line
        reconciler.promise(pause)
        if wake.wait(pause):
            pause = every
