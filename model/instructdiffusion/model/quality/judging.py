"""A policy with its networks in memory, and what it says of triplets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import ConfigError, DataError, InstructDiffusionError
from instructdiffusion.model.quality import Score, Values
from instructdiffusion.model.quality.policy import WHOLE, Policy, Rule
from instructdiffusion.model.tasks import EVERY


class Verdict(BaseModel):
    """What became of a triplet, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    task: str
    source: str = Field("", description="of a data set built of several, the source's name")
    rule: str = Field("", description="the first rule it breaks; empty: it is kept")
    value: float | None = Field(None, description="what that rule was broken by; null: there was none")
    told: str = Field("", description="why, in words")
    values: dict[str, float | None] = Field(default={}, description="of every rule that applies")


@dataclass(frozen=True)
class Judge:
    """The scores of a policy, loaded. It remembers what it let pass, where a rule asks for that."""

    policy: Policy
    scores: Mapping[str, Score]  # by rule
    models: Mapping[str, str]  # networks and files by rule, with their digests

    @staticmethod
    def load(policy: Policy, here: Callable[[str], str] = str) -> Judge:
        """Load whatever the policy names.

        Args:
            here: the address on this machine of a file or a network; the same where there is no store.

        Raises:
            ConfigError: something is not there; one line with every rule that lacks something, and the fix.
        """
        shared: dict[str, Score] = {}
        scores, models, problems = dict[str, Score](), dict[str, str](), list[str]()
        for rule in policy.rules:
            asked = json.dumps([rule.score, rule.options], sort_keys=True, default=str)
            try:
                if asked not in shared:
                    made = rule.made(lambda address, sure: here(policy.place(address, sure)))
                    models[rule.name] = made.load()
                    shared[asked] = made
                scores[rule.name] = shared[asked]
            except InstructDiffusionError as error:
                problems.append(f"rule {rule.name}: {error}")
        if problems:
            raise ConfigError(f"policy {policy.name}: {'; '.join(problems)}; --set RULE.OPTION=... names another")
        return Judge(policy, scores, {name: model for name, model in models.items() if model})

    @property
    def remembers(self) -> bool:
        """Whether a verdict depends on what was kept before."""
        return any(score.remembers for score in self.scores.values())

    @property
    def request(self) -> str:
        """Everything that verdicts depend on beside the triplets."""
        return json.dumps([self.policy.digest, dict(self.models)], sort_keys=True)

    def judged(self, triplets: Sequence[Triplet]) -> Iterator[Verdict]:
        """A verdict on each, in order."""
        faults = [fault(triplet) for triplet in triplets]
        sound = [triplet for triplet, wrong in zip(triplets, faults, strict=True) if not wrong]
        rows = iter(self._rows(sound))
        for triplet, wrong in zip(triplets, faults, strict=True):
            if wrong:
                yield Verdict(**_named(triplet), rule=WHOLE, told=wrong)
                continue
            verdict = self._verdict(triplet, next(rows))
            if not verdict.rule:
                self.remember(triplet)
            yield verdict

    def remember(self, triplet: Triplet) -> None:
        """Take note of a triplet that is kept."""
        for score in {id(score): score for score in self.scores.values() if score.remembers}.values():
            score.kept(triplet)

    def _rows(self, triplets: Sequence[Triplet]) -> list[dict[str, float | None]]:
        """The values of each triplet that depend on it alone; those of one rule are computed together."""
        rows: list[dict[str, float | None]] = [{} for _ in triplets]
        for rule in self.policy.rules:
            at = [i for i, triplet in enumerate(triplets) if rule.applies(triplet.ask.task, _made(triplet))]
            if at and not self.scores[rule.name].remembers:
                found = _finite(self.scores[rule.name].values([triplets[i] for i in at]))
                for i, value in zip(at, found, strict=True):
                    rows[i][rule.name] = value
        return rows

    def _verdict(self, triplet: Triplet, known: Mapping[str, float | None]) -> Verdict:
        values: dict[str, float | None] = {}
        broken: list[Rule] = []
        for rule in self.policy.rules:
            if not rule.applies(triplet.ask.task, _made(triplet)):
                continue
            if rule.name not in known:
                (value,) = _finite(self.scores[rule.name].values([triplet]))
            else:
                value = known[rule.name]
            values[rule.name] = value
            if self.policy.drops(rule) if value is None else not rule.passes(value):
                broken.append(rule)
        facts = {**_named(triplet), "values": values}
        if not broken:
            return Verdict(**facts)
        first = broken[0]
        value = values[first.name]
        told = f"no {first.score}" if value is None else f"{first.score} is {value:.4g}, not {first.limits()}"
        return Verdict(**facts, rule=first.name, value=value, told=told)


def _named(triplet: Triplet) -> dict[str, Any]:
    return {"key": triplet.key, "task": triplet.ask.task, "source": str(triplet.provenance.get("source", ""))}


def _made(triplet: Triplet) -> str:
    """How a source made a triplet; empty: it is as others published it, or composed."""
    return str(triplet.provenance.get("operation", ""))


def fault(triplet: Triplet) -> str:
    """What makes a triplet unfit for any score: pictures or masks of different sizes, an incomplete label; or ''."""
    height, width = triplet.source.shape[:2]
    if triplet.target.shape != triplet.source.shape:
        return f"the target is {triplet.target.shape[1]} x {triplet.target.shape[0]}, the source {width} x {height}"
    for name, value in triplet.label.items():
        if isinstance(value, np.ndarray) and value.shape[:2] != (height, width):
            return f"the label's {name} is {value.shape[1]} x {value.shape[0]}, the picture {width} x {height}"
    try:
        if triplet.ask.task in EVERY:
            EVERY[triplet.ask.task].check(triplet.label)
    except DataError as error:
        return str(error)
    return ""


def _finite(values: Values) -> Values:
    return [value if value is not None and math.isfinite(value) else None for value in values]
