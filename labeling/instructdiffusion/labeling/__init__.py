"""Labeling: the record of who preferred which edit, and the rules that turn such records into edits to train on.

`rankings` is the record and its file, `reference` the program that ranks by the truth, `choose` the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instructdiffusion.labeling.choose import agreement, best_edits
    from instructdiffusion.labeling.rankings import Ranking
    from instructdiffusion.labeling.reference import random_picks, rank

__all__ = ["Ranking", "agreement", "best_edits", "random_picks", "rank"]

HOMES = {
    "Ranking": "rankings",
    "agreement": "choose",
    "best_edits": "choose",
    "random_picks": "reference",
    "rank": "reference",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"instructdiffusion.labeling.{HOMES[name]}"), name)
