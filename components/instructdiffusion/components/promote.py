"""Step: put a judged model into the registry, and make it the champion if the gate let it pass."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TypedDict

from instructdiffusion.components.gate import PAGE, VERDICT, Verdict, read
from instructdiffusion.components.registry import CHALLENGER, CHAMPION, DIGEST, PREVIOUS, Registry, Version
from instructdiffusion.components.tracking import TrackedRun, explained
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of

log = logging.getLogger(__name__)

# Values of the tag `gate`: a challenger's two and a champion's two.
PASSED, REFUSED, DEFENDED, SURPASSED, FIRST = "passed", "refused", "defended", "surpassed", "first"
TAG_LIMIT = 4000  # characters; the registry takes 5000


class Promoted(TypedDict):
    """What the registry holds after the step. Versions are the registry's numbers; empty: none."""

    version: str
    promoted: bool
    reason: str
    champion: str
    previous: str


def run(
    model: Path,
    source: str,
    evaluation: Path,
    verdict: Path,
    *,
    registry: Registry,
    tracked: TrackedRun,
) -> Promoted:
    """Register a model with its evaluation and verdict; a challenger that passed becomes the champion.

    So does the champion that the verdict defended, where the registry has none yet. The same content is registered
    once, and a repeat changes nothing. The champion before is kept as `previous`, for `registry.rollback()`. A
    version that was rolled back is not promoted again by a repeat.

    Args:
        model: folder of the verdict's challenger, or of its champion.
        source: where the registry finds it: `s3://bucket/name`, or `runs:/RUN/folder`.
        evaluation: folder or file of its evaluation.
        verdict: folder that the gate step wrote.
        registry: of which model.
        tracked: the run that gets the artifacts, if the version is new.

    Raises:
        DataError: evaluation, verdict and model don't belong together, or the champion is another by now.
        ServiceError: the registry does not answer; a repeat finishes the work.
    """
    digest, judged, found = digest_of(model), _verdict(verdict), read(evaluation)
    _belong(model, digest, judged, str(found["model"]))
    reason = refusal(judged, digest, registry.at(CHAMPION))
    tags = {"gate": _gate(judged, digest), "gate_reasons": judged.reason[:TAG_LIMIT]}
    version = registry.register(source, digest=digest, run_id=tracked.run_id, tags=tags)
    registry.put_evaluation(version.number, found)
    _keep(registry, version, tags, verdict)
    if digest == judged.challenger:
        registry.set_alias(CHALLENGER, version.number)
    if not reason and CHAMPION not in version.aliases and "rolled_back_at" in version.tags:
        reason = f"version {version.number} was rolled back; promote it by hand if that was a mistake"
    if not reason:
        registry.promote(version.number)
    return _state(registry, version.number, reason)


def seat(model: Path, source: str, evaluation: Path, *, registry: Registry, tracked: TrackedRun) -> str:
    """Make a model the first champion; where there is one already nothing changes. Returns the champion's version.

    The first needs no verdict: there is nothing yet that it could make worse, and something has to serve.

    Args:
        model, source, evaluation, registry, tracked: as for `run`.

    Raises:
        DataError: the evaluation is of another model.
    """
    champion = registry.at(CHAMPION)
    if champion is not None:
        return champion.number
    digest, found = digest_of(model), read(evaluation)
    if str(found["model"]) != digest:
        raise DataError(f"the evaluation is of {found['model']}, not of {model} ({digest}); evaluate this model")
    tags = {"gate": FIRST, "gate_reasons": "the first champion: there was none to compare with"}
    version = registry.register(source, digest=digest, run_id=tracked.run_id, tags=tags)
    registry.put_evaluation(version.number, found)
    registry.promote(version.number)
    return version.number


def refusal(judged: Verdict, digest: str, champion: Version | None) -> str:
    """Why a model may not become the champion; empty: it may. A pure function.

    Args:
        judged: the gate's verdict.
        digest: of the model, which is the verdict's challenger or its champion.
        champion: whom the registry has now; None: nobody.

    Raises:
        DataError: it would take the place of a champion that the verdict did not compare with.
    """
    now = champion.tags.get(DIGEST, "") if champion else ""
    if digest != judged.champion and not judged.passed:
        return judged.reason
    if champion is not None and now not in {digest, judged.champion}:
        raise DataError(
            f"the champion is version {champion.number} ({now}), but the verdict compares with "
            f"{judged.champion or 'none'}; run the gate with that version's evaluation"
        )
    if digest != judged.challenger and judged.passed:
        return "the challenger passed"
    return ""


def _verdict(folder: Path) -> Verdict:
    path = folder / VERDICT
    try:
        return Verdict.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} can't be read ({reason}); run the gate step again") from None


def _belong(model: Path, digest: str, judged: Verdict, evaluated: str) -> None:
    if evaluated != digest:
        raise DataError(f"the evaluation is of {evaluated}, not of {model} ({digest}); evaluate this model")
    if digest not in {judged.challenger, judged.champion}:
        raise DataError(f"the verdict is on {judged.challenger}, not on {model} ({digest}); run the gate again")


def _gate(judged: Verdict, digest: str) -> str:
    if digest == judged.challenger:
        return PASSED if judged.passed else REFUSED
    return SURPASSED if judged.passed else DEFENDED


def _keep(registry: Registry, version: Version, tags: dict[str, str], verdict: Path) -> None:
    """Keep the verdict with the version: a version that was registered before may have been judged again."""
    folder = f"verdicts/version-{version.number}"
    with explained(registry.uri):
        for key, value in tags.items():
            if version.tags.get(key, "") != value:
                registry.client.set_model_version_tag(registry.model, version.number, key, value)
        for name in (VERDICT, PAGE):
            if (verdict / name).is_file():
                registry.client.log_artifact(version.run_id, str(verdict / name), folder)


def _state(registry: Registry, number: str, reason: str) -> Promoted:
    champion, previous = registry.at(CHAMPION), registry.at(PREVIOUS)
    if reason:
        log.info("version %s is not promoted: %s", number, reason)
    return Promoted(
        version=number,
        promoted=not reason,
        reason=reason,
        champion=champion.number if champion else "",
        previous=previous.number if previous else "",
    )
