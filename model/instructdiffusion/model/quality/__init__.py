"""The quality filter: scores of triplets as plug-ins, and a policy that says which of them decide.

A file in this package that defines `SCORES` adds its scores everywhere: to policies, to the command and to the report.

    policy.py      which scores, with which limits, for which tasks: one YAML file
    filtering.py   shards in, shards out: what passed, what was rejected, and every value
    audit.py       a sample for people to judge, and what their verdicts say of the filter
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.errors import ConfigError

Values = list[float | None]  # one a triplet; None: it has no such value


class Options(BaseModel):
    """What a policy may set of a score; most have nothing to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    files: ClassVar[tuple[str, ...]] = ()  # fields that are files for sure; networks may also be hub ids


class Score:
    """A number of a triplet. Subclasses set the class attributes and `values`."""

    name: ClassVar[str]
    about: ClassVar[str]  # one line, with its unit and range
    kinds: ClassVar[tuple[str, ...]] = ()  # tasks or families that it means something for; empty: all
    remembers: ClassVar[bool] = False  # whether a value depends on the triplets that were kept before
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any) -> None:
        self.options = options

    def load(self) -> str:
        """Make ready what `values` needs, networks for instance; returns their names and digests, empty for none.

        Called once, before anything is scored.

        Raises:
            InstructDiffusionError: something is not there; one line that names it and the fix.
        """
        return ""

    def values(self, triplets: Sequence[Triplet]) -> Values:
        """The value of each triplet, None where it has none. The pictures of each are whole and of one size."""
        raise NotImplementedError

    def kept(self, triplet: Triplet) -> None:
        """Told of each triplet that passed every rule, in order, where the score `remembers`."""


@cache
def scores() -> dict[str, type[Score]]:
    """Every score by name."""
    found: dict[str, type[Score]] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        for score in getattr(importlib.import_module(f"{__name__}.{module}"), "SCORES", ()):
            found[score.name] = score
    return found


def score_named(name: str) -> type[Score]:
    """Look a score up.

    Raises:
        ConfigError: there is no such score; lists those there are.
    """
    if name not in scores():
        raise ConfigError(f"no score {name!r}; choose one of {', '.join(sorted(scores()))}")
    return scores()[name]
