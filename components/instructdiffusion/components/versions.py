"""Two versions of the registry side by side: every task sample by sample, and every slice of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from instructdiffusion.components.registry import Registry
from instructdiffusion.model.errors import DataError

Span = tuple[float, float, float]  # mean, lower and upper end of its 95 % interval


class Difference(BaseModel):
    """A measure of two versions; null: a version does not have it.

    `change` is of pairs of samples, null for a slice too, whose samples are not kept.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    unit: str
    one: Span | None
    other: Span | None
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
    for task in sorted(one["tasks"].keys() | other["tasks"].keys()):
        rows = [version["tasks"].get(task, {}) for version in (one, other)]
        known, *more = [row for row in rows if row]
        if any((row["metric"], row.get("spec")) != (known["metric"], known.get("spec")) for row in more):
            raise DataError(f"{task} was measured by two specs; evaluate both versions again, with the same version")
        found += _of(f"{task}/{known['metric']}", *rows)
        for name in {**rows[0].get("also", {}), **rows[1].get("also", {})}:
            found += _of(f"{task}/{name}", *(row.get("also", {}).get(name, {}) for row in rows))
    return found


def _of(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """A measure and its slices; empty: a version does not have it."""
    from instructdiffusion.model.interval import interval, paired

    known, rows = one or other, (one, other)
    changes = paired(name, *(row.get("scores", ()) for row in rows))
    spans = [(row["value"], row["low"], row["high"]) if row else None for row in rows]
    measures = {name: (spans, interval(changes) if changes else None, known["n"])}
    parts = [row.get("slices", {}) for row in rows]
    for part in {**parts[0], **parts[1]}:
        measures[f"{name}, {part}"] = ([slices.get(part) for slices in parts], None, 0)
    return [
        Difference(name=title, unit=known["unit"], one=before, other=after, change=change, n=n)
        for title, ((before, after), change, n) in measures.items()
    ]
