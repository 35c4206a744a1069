"""The filter's policy: which scores decide, with which limits and for which tasks, in one YAML file.

    name: paper
    missing: keep          # what has no such value passes
    rules:
      - {name: shows, score: psnr, below: 45, tasks: [editing, keypoint]}
      - {name: natural, score: brisque}
      - name: aesthetic
        score: aesthetic
        at_least: 5.5
        make: [remove, add, replace]    # of what a source made in these ways, not of what others published
        options: {clip: openai/clip-vit-large-patch14, head: a.pth}    # beside this file; or an address

A triplet is rejected by the first rule whose limits it breaks. A rule without limits rejects nothing: its values are
in the report all the same, to find a limit by.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from instructdiffusion.model.addresses import Move, below
from instructdiffusion.model.data.sources import Made
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.quality import Score, score_named, scores
from instructdiffusion.model.task import Family
from instructdiffusion.model.tasks import EVERY

Missing = Literal["keep", "drop"]
FAMILIES: tuple[str, ...] = get_args(Family)
PACKAGED = ("embedded", "paper")
WHOLE = "whole"  # the rule that stands before all others: pictures and masks of one size, a complete label
_FAMILY: dict[str, str] = {name: task.family for name, task in EVERY.items()}


class Rule(BaseModel):
    """One score, its limits, and the tasks it is held against."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="for reports and rejected triplets")
    score: str = Field(description="`instructdiffusion data scores` lists them")
    at_least: float | None = Field(None, description="values from here on pass")
    above: float | None = Field(None, description="values beyond this one pass")
    at_most: float | None = Field(None, description="values up to here pass")
    below: float | None = Field(None, description="values short of this one pass")
    tasks: tuple[str, ...] = Field((), description="tasks or families; empty: all that the score means something for")
    make: tuple[Literal[Made, "edit"], ...] = Field(
        (), description="ways in which a source may have made a triplet, as its `make` says; empty: any, or none"
    )
    missing: Missing | None = Field(None, description="what happens without a value; left out, as the policy says")
    options: dict[str, Any] = Field(default={}, description="of the score: networks, files")

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        try:
            score = score_named(self.score)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        try:
            score.Options.model_validate(self.options)
        except ValidationError as error:
            wrong = [f"{detail['loc'][0]}: {detail['msg'].lower()}" for detail in error.errors(include_url=False)]
            raise ValueError(f"options of {self.score}: {', '.join(wrong)}") from None
        for name in self.tasks:
            if not _tasks((name,)):
                raise ValueError(f"tasks: no task or family {name!r}; choose from {', '.join((*FAMILIES, *_FAMILY))}")
            if score.kinds and not _tasks((name,)) & _tasks(score.kinds):
                raise ValueError(f"tasks: {self.score} means nothing for {name}, only for {', '.join(score.kinds)}")
        low, high = self._ends()
        if low > high:
            raise ValueError(f"nothing is both from {low:g} on and up to {high:g}; swap the limits")
        return self

    def applies(self, task: str, made: str = "") -> bool:
        """Whether triplets of a task are held against this rule; `made`: how a source made them, if it did."""
        asked = all(task in _tasks(names) for names in (self.tasks, score_named(self.score).kinds) if names)
        return asked and (not self.make or made in self.make)

    def passes(self, value: float) -> bool:
        """Whether a value is within the limits."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def limits(self) -> str:
        """The limits in words, as in `at least 5.5`."""
        told = {name: getattr(self, name) for name in ("at_least", "above", "at_most", "below")}
        return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in told.items() if value is not None)

    def made(self, move: Move) -> Score:
        """The score with this rule's options, its files and networks where `move` says they are."""
        score = score_named(self.score)
        moved = {
            name: move(value, name in score.Options.files) if isinstance(value, str) else value
            for name, value in self.options.items()
        }
        return score(score.Options.model_validate(moved))

    def _ends(self) -> tuple[float, float]:
        lows = [end for end in (self.at_least, self.above) if end is not None]
        highs = [end for end in (self.at_most, self.below) if end is not None]
        return max(lows, default=-math.inf), min(highs, default=math.inf)


class Policy(BaseModel):
    """What triplets are held to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field("own", min_length=1)
    missing: Missing = Field("keep", description="what happens to a triplet that a score has no value for")
    rules: tuple[Rule, ...] = Field(min_length=1)
    _folder: str = PrivateAttr("")  # that relative paths are below; no part of what is decided, hence of no digest

    @model_validator(mode="after")
    def _distinct(self) -> Policy:
        names = [WHOLE, *(rule.name for rule in self.rules)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"rules of one name: {', '.join(sorted(twice))}; rename them ({WHOLE} is taken)")
        return self

    @property
    def digest(self) -> str:
        """`sha256:...` of all fields: equal digests, the same decisions by the same networks."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def told(self) -> dict[str, Any]:
        """All fields that say something, as a manifest's settings hold them."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def drops(self, rule: Rule) -> bool:
        """Whether a triplet without a value is rejected."""
        return (rule.missing or self.missing) == "drop"

    def below(self, folder: str) -> Policy:
        """The same with relative paths below `folder`, which may be in the store."""
        found = self.model_copy()
        found._folder = folder
        return found

    def place(self, address: str, sure: bool) -> str:
        """An address of a rule's options as one that is relative to nothing, or to the working directory."""
        return below(address, self._folder, sure) if self._folder else address

    @staticmethod
    def read(given: str, settings: Iterable[str] = ()) -> Policy:
        """A packaged policy by its name, one from a file, or one that is written out.

        Paths in a file are relative to its folder, those in the others and in `settings` to the working directory.

        Args:
            given: `embedded`, `paper`, the path of a YAML file, or the YAML itself.
            settings: changes of single rules, as in `aesthetic.at_least=5` or `aesthetic.head=/models/head.pth`.

        Raises:
            ConfigError: it can't be read; one line with all that is wrong in it.
        """
        text, source, folder = _text(given)
        try:
            document = yaml.safe_load(text)
            if not isinstance(document, dict):
                raise ConfigError(f"{source} is no mapping with `rules`; docs/filtering.md shows one")
            return Policy.model_validate(_changed(document, settings)).below(folder)
        except ValidationError as error:
            wrong = "; ".join(_told(detail, document) for detail in error.errors(include_url=False))
            raise ConfigError(f"{source}: {wrong}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{source} is no YAML ({' '.join(str(error).split())})") from None


def _tasks(names: Iterable[str]) -> set[str]:
    """The tasks that are named, or whose family is."""
    wanted = set(names)
    return {task for task, family in _FAMILY.items() if wanted & {task, family}}


def _text(given: str) -> tuple[str, str, str]:
    """The YAML, what to call it in errors, and the folder it is in where it is a file of the user's."""
    if given in PACKAGED:
        packaged = resources.files("instructdiffusion.model.quality") / "policies" / f"{given}.yaml"
        return packaged.read_text(), f"policy {given}", ""
    if "\n" in given or given.lstrip().startswith("{"):
        return given, "the policy", ""
    try:
        return Path(given).read_text(), f"policy {given}", str(Path(given).absolute().parent)
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else "no text"
        raise ConfigError(
            f"policy {given} can't be read ({told}); choose {' or '.join(PACKAGED)}, or name a YAML file"
        ) from None


def _changed(document: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    rules = document.get("rules")
    named = {rule.get("name"): rule for rule in rules if isinstance(rule, dict)} if isinstance(rules, list) else {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        name, _, key = path.partition(".")
        if not equals or not key or name not in named:
            raise ConfigError(f"--set {setting}: write RULE.FIELD=VALUE, RULE one of {', '.join(map(str, named))}")
        value = yaml.safe_load(text)
        if key in Rule.model_fields:
            named[name][key] = value
            continue
        if isinstance(value, str):  # who types a path means the folder that they are in
            value = below(value, str(Path.cwd()), any(key in score.Options.files for score in scores().values()))
        named[name].setdefault("options", {})[key] = value
    return document


def _told(detail: Mapping[str, Any], document: dict[str, Any]) -> str:
    """A fault of pydantic's, with the rule's name in place of its number."""
    place = [str(part) for part in detail["loc"]]
    if place[:1] == ["rules"] and len(place) > 1:
        rule = document["rules"][int(place[1])]
        name = rule.get("name", place[1]) if isinstance(rule, dict) else place[1]
        place = [f"rule {name}", *place[2:]]
    said = detail["msg"].removeprefix("Value error, ")
    return f"{': '.join(place)}: {said[:1].lower()}{said[1:]}" if place else said
