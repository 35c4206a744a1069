"""Step: have candidates ranked, by a program or by people in Label Studio; all leave the same records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from instructdiffusion.components.settings import Settings
from instructdiffusion.components.step import Made, data_digest, made, once
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from instructdiffusion.labeling.rankings import Ranking

ANNOTATORS = ("reference", "random", "label-studio", "people")


def run(
    candidates: Path,
    shards: Path,
    out: Path,
    *,
    annotator: str = "reference",
    seed: int = 0,
    picks: int = 2,
    threshold: float = 0.0,
    round_id: str = "",
    store: Store | None = None,
    settings: Settings | None = None,
) -> Made:
    """Write `rankings.jsonl`; facts: how many prompts were ranked, edits picked and prompts rejected, and by whom.

    Args:
        candidates: what the propose step made.
        shards: the data set it was made from; holds the truths.
        out: folder for the rankings.
        annotator: `reference` picks the edits nearest to the truth that beat the source left alone; `random`, the
            control, picks as many of the same prompts by lot; `label-studio` is the reference once more, but answers
            through Label Studio as two accounts, one edit a prompt; `people` opens the round there and takes what
            they answered. Every record names who it is of, and no program counts as a person.
        seed: of the random one.
        picks: edits a prompt at most.
        threshold: truth score that a pick must beat besides, 0..1.
        round_id: kept in every record; in Label Studio the round has an id of its own.
        store: where to upload; None: nowhere.
        settings: name Label Studio and the store it reads pictures from; for the annotators there.

    Raises:
        ConfigError: there is no such annotator, or Label Studio is not set.
        DataError: there are no candidates, or they are not of these shards.
        ServiceError: people have not ranked all yet, which the same call later finds; or a server does not answer.
    """
    if annotator not in ANNOTATORS:
        raise ConfigError(f"no annotator {annotator!r} ranks by itself; choose {' or '.join(ANNOTATORS)}")
    from instructdiffusion.components.label_round import answered_by_people, answered_by_reference
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

    def by_truth() -> list[Ranking]:
        scores = truth_scores(candidates, shards)
        if not scores or len(scores) < len(prompts):
            raise DataError(
                f"{len(prompts) - len(scores)} of {len(prompts)} prompts of {candidates} are not in {shards}; "
                "rank with the data set they were proposed from"
            )
        floors = source_scores(candidates, shards)
        return rank(scores, floors=floors, threshold=threshold, picks=picks, round_id=round_id)

    def work() -> None:
        there = settings or Settings()
        by: dict[str, Callable[[], Iterable[Ranking]]] = {
            "reference": by_truth,
            "random": lambda: random_picks(by_truth(), seed),
            "label-studio": lambda: answered_by_reference(candidates, by_truth(), there),
            "people": lambda: answered_by_people(candidates, there),
        }
        write(out / FILE, by[annotator]())

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
