"""What a filter did, in numbers: how many by which rule, and how each rule's values are spread."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instructdiffusion.model.quality import score_named
from instructdiffusion.model.quality.judging import Verdict
from instructdiffusion.model.quality.policy import Policy, Rule

EXAMPLES = 5  # keys of rejected triplets that the report names, for each rule
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 20


class Summary:
    """Counts verdicts one by one; of each it keeps eight bytes a value."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.kept = 0
        self.dropped: Counter[str] = Counter()  # by rule
        self.missing: Counter[str] = Counter()
        self.examples: defaultdict[str, list[str]] = defaultdict(list)
        self.values: dict[str, tuple[array[float], array[float]]] = {  # of what was kept, and of what was rejected
            rule.name: (array("d"), array("d")) for rule in policy.rules
        }

    def add(self, verdict: Verdict) -> None:
        """Count a verdict."""
        if not verdict.rule:
            self.kept += 1
        else:
            self.dropped[verdict.rule] += 1
            if len(self.examples[verdict.rule]) < EXAMPLES:
                self.examples[verdict.rule].append(verdict.key)
        for name, value in verdict.values.items():
            if value is None:
                self.missing[name] += 1
            else:
                self.values[name][bool(verdict.rule)].append(value)

    def report(self) -> dict[str, Any]:
        """All of it as plain JSON.

        Returns:
            `read` and `kept`: numbers of triplets. `dropped`, `examples`: by rule, how many and the first keys.
            `scores`: by rule, its `score` with what it is `about`, `limits` in words, `count` of values and how many
            are `missing`; where there are values also `mean`, `quantiles`, and a histogram: `edges` of the bins, and
            how many were `kept` and `rejected` in each.
        """
        return {
            "read": self.kept + self.dropped.total(),
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "examples": dict(self.examples),
            "scores": {rule.name: self._spread(rule) for rule in self.policy.rules},
        }

    def _spread(self, rule: Rule) -> dict[str, Any]:
        kept, rejected = (np.frombuffer(values, np.float64) for values in self.values[rule.name])
        both = np.concatenate([kept, rejected])
        told = {
            "score": rule.score,
            "about": score_named(rule.score).about,
            "limits": rule.limits(),
            "count": len(both),
            "missing": self.missing[rule.name],
        }
        return told | spread(both, kept, rejected) if len(both) else told


def spread(both: NDArray[np.float64], kept: NDArray[np.float64], rejected: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, quantiles, and a histogram of values: bins of one width, counts of what was kept and what was rejected."""
    edges = np.histogram_bin_edges(both, BINS)
    return {
        "mean": _short(both.mean()),
        "quantiles": {f"{q:g}": _short(v) for q, v in zip(QUANTILES, np.quantile(both, QUANTILES), strict=True)},
        "edges": [_short(edge) for edge in edges],
        "kept": np.histogram(kept, edges)[0].tolist(),
        "rejected": np.histogram(rejected, edges)[0].tolist(),
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
