"""Step: let a program rank candidates. People rank in Label Studio instead, and leave the same records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instructdiffusion.labeling.rankings import Ranking

ANNOTATORS = ("reference", "random")


def run(
    candidates: Path,
    shards: Path,
    out: Path,
    *,
    annotator: Literal["reference", "random"] | str = "reference",
    seed: int = 0,
    picks: int = 2,
    threshold: float = 0.0,
    round_id: str = "",
    store: Store | None = None,
) -> Made:
    """Write `rankings.jsonl`; facts: how many prompts were ranked, edits picked and prompts rejected, and by whom.

    Args:
        candidates: what the propose step made.
        shards: the data set it was made from; holds the truths.
        out: folder for the rankings.
        annotator: `reference` picks the edits nearest to the truth that beat the source left alone; `random`, the
            control, picks as many of the same prompts by lot. Every record names it, as no person.
        seed: of the random one.
        picks: edits a prompt at most.
        threshold: truth score that a pick must beat besides, 0..1.
        round_id: kept in every record.
        store: where to upload; None: nowhere.

    Raises:
        ConfigError: there is no such annotator.
        DataError: there are no candidates, or they are not of these shards.
    """
    if annotator not in ANNOTATORS:
        raise ConfigError(f"no annotator {annotator!r} ranks by itself; choose {' or '.join(ANNOTATORS)}")
    from instructdiffusion.labeling.rankings import FILE, read, write
    from instructdiffusion.labeling.reference import random_picks, rank
    from instructdiffusion.model.candidates import CANDIDATES, load, source_scores, truth_scores

    prompts = load(candidates)["prompts"]
    inputs: dict[str, Any] = {
        "candidates": digest_of(candidates / CANDIDATES),
        "shards": data_digest(shards),
        "annotator": annotator,
        "seed": seed if annotator == "random" else 0,
        "picks": picks,
        "threshold": threshold,
        "round": round_id,
    }

    def work() -> None:
        scores = truth_scores(candidates, shards)
        if not scores or len(scores) < len(prompts):
            raise DataError(
                f"{len(prompts) - len(scores)} of {len(prompts)} prompts of {candidates} are not in {shards}; "
                "rank with the data set they were proposed from"
            )
        floors = source_scores(candidates, shards)
        ranked = rank(scores, floors=floors, threshold=threshold, picks=picks, round_id=round_id)
        write(out / FILE, ranked if annotator == "reference" else random_picks(ranked, seed))

    digest = once(out, inputs, work)
    return made(out, "rankings", digest, store, counts(read(out / FILE)))


def counts(rankings: Sequence[Ranking]) -> dict[str, Any]:
    """How many prompts were ranked and rejected and edits picked, and how many rankings each annotator made."""
    from collections import Counter

    return {
        "prompts": len({ranking.key for ranking in rankings}),
        "picked": sum(len(ranking.edits) for ranking in rankings),
        "rejected": sum(ranking.rejected for ranking in rankings),
        "people": len({ranking.annotator for ranking in rankings if ranking.kind == "person"}),
        "annotators": dict(sorted(Counter(ranking.annotator for ranking in rankings).items())),
    }
