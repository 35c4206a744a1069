"""Two versions of the registry side by side: every task sample by sample, and every slice of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from instructdiffusion.components.registry import Registry
from instructdiffusion.model.errors import DataError

Span = tuple[float, float, float]  # mean, lower and upper end of its 95 % interval


class Difference(BaseModel):
    """A measure of two versions; `change` is of pairs of samples, null for a slice, whose samples are not kept."""

    model_config = ConfigDict(frozen=True)
    name: str
    unit: str
    one: Span
    other: Span
    change: Span | None
    n: int


def compare(registry: Registry, one: str, other: str) -> list[Difference]:
    """What changed from version `one` to version `other`.

    Raises:
        DataError: a version has no evaluation, or the two were not evaluated on the same samples in the same way.
    """
    return differences(registry.evaluation(one), registry.evaluation(other))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """The same of two evaluations. A pure function."""
    if one["data"] != other["data"]:
        raise DataError("the versions were evaluated on different data; evaluate both on the same")
    found = []
    for task in sorted(one["tasks"].keys() & other["tasks"].keys()):
        rows = [version["tasks"][task] for version in (one, other)]
        if rows[0]["metric"] != rows[1]["metric"] or rows[0].get("spec") != rows[1].get("spec"):
            raise DataError(f"{task} was measured by two specs; evaluate both versions again, with the same version")
        measures = {
            rows[0]["metric"]: rows,
            **{name: [row["also"].get(name) for row in rows] for name in rows[0]["also"]},
        }
        for name, (ours, theirs) in measures.items():
            if theirs is not None:
                found += _of(f"{task}/{name}", ours, theirs)
    return found


def _of(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    from instructdiffusion.model.interval import interval

    pairs = zip(one.get("scores", ()), other.get("scores", ()), strict=False)
    changes = [b - a for a, b in pairs if a is not None and b is not None]
    spans = [(row["value"], row["low"], row["high"]) for row in (one, other)]
    unit = one["unit"]
    change = interval(changes) if changes else None
    found = [Difference(name=name, unit=unit, one=spans[0], other=spans[1], change=change, n=one["n"])]
    for part, span in one["slices"].items():
        if part in other["slices"]:
            there = other["slices"][part]
            found.append(Difference(name=f"{name}, {part}", unit=unit, one=span, other=there, change=None, n=0))
    return found
