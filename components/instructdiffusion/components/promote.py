"""Step: put a judged model into the registry, and make it the champion if the gate let it pass."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from instructdiffusion.components import version_page
from instructdiffusion.components.evaluate import HELD_OUT
from instructdiffusion.components.gate import PAGE, VERDICT, Verdict, read
from instructdiffusion.components.registry import (
    CHALLENGER,
    CHAMPION,
    DIGEST,
    EVALUATION,
    PREVIOUS,
    Registry,
    Version,
)
from instructdiffusion.components.step import data_digest
from instructdiffusion.components.tracking import TrackedRun, explained
from instructdiffusion.components.train import TRAINED_ON
from instructdiffusion.components.version_page import Data, Facts
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.weights import model_digest

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
    """Register a model with all that a lead decides by; a challenger that passed becomes the champion.

    So does the champion that the verdict defended, where the registry has none yet. The same content is registered
    once, and a repeat changes nothing. The champion before is kept as `previous`, for `registry.rollback()`. A
    version that was rolled back is not promoted again by a repeat.

    Args:
        model: folder of the verdict's challenger, or of its champion.
        source: where the registry finds it: `s3://bucket/name`, or `runs:/RUN/folder`.
        evaluation: folder of its evaluation, contact sheets and held-out manifest, or the file alone.
        verdict: folder that the gate step wrote.
        registry: of which model.
        tracked: the run that gets the artifacts, if the version is new.

    Raises:
        DataError: evaluation, verdict and model don't belong together, or the champion is another by now.
        ServiceError: the registry does not answer; a repeat finishes the work.
    """
    digest, judged, found = model_digest(model), _verdict(verdict), read(evaluation)
    _belong(model, digest, judged, str(found["model"]))
    reason = refusal(judged, digest, registry.at(CHAMPION))
    tags = {"gate": _gate(judged, digest), "gate_reasons": judged.reason[:TAG_LIMIT]}
    version = registry.register(source, digest=digest, run_id=tracked.run_id, tags=tags)
    registry.tag(version.number, tags)  # it may have been registered before, and judged again
    _document(registry, version, tags, evaluation, judged, verdict)
    if digest == judged.challenger:
        registry.set_alias(CHALLENGER, version.number)
    if not reason and CHAMPION not in version.aliases and "rolled_back_at" in version.tags:
        reason = f"version {version.number} was rolled back; promote it by hand if that was a mistake"
    if not reason:
        registry.promote(version.number)
    return _state(registry, version.number, reason)


def seat(
    model: Path,
    source: str,
    evaluation: Path,
    *,
    registry: Registry,
    tracked: TrackedRun,
) -> str:
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
    digest, found = model_digest(model), read(evaluation)
    if str(found["model"]) != digest:
        raise DataError(f"the evaluation is of {found['model']}, not of {model} ({digest}); evaluate this model")
    tags = {"gate": FIRST, "gate_reasons": "the first champion: there was none to compare with"}
    version = registry.register(source, digest=digest, run_id=tracked.run_id, tags=tags)
    _document(registry, version, tags, evaluation)
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


def _document(
    registry: Registry,
    version: Version,
    tags: Mapping[str, str],
    evaluation: Path,
    judged: Verdict | None = None,
    verdict: Path | None = None,
) -> None:
    """Keep scores, pictures, manifests and verdict beside the version, and write the page that shows them."""
    found = read(evaluation)
    registry.put_evaluation(version.number, found)
    sheets = sorted(evaluation.glob("*.png"))  # none where it is the file alone
    with tempfile.TemporaryDirectory() as own:
        data = _trained_on(registry, version, Path(own)) | _scored_on(evaluation)
        files = [("", path) for path in sheets]
        files += [("", verdict / name) for name in (VERDICT, PAGE) if verdict and (verdict / name).is_file()]
        files += [(f"data/{name}", folder / "manifest.json") for name, folder in sorted(data.items())]
        files += [("", _small(path, Path(own))) for path in sheets if path.name == version_page.SHEET]
        for folder, path in files:
            registry.keep(version.number, path, folder)
        with explained(registry.uri):
            run = registry.client.get_run(version.run_id)
        used = _data(run, data, str(found["data"]))
    facts = Facts(
        number=version.number,
        run_id=version.run_id,
        experiment=str(run.info.experiment_id),
        gate=tags["gate"],
        reason=tags["gate_reasons"],
        evaluation=found,
        verdict=judged,
        champion=_number(registry, judged.champion) if judged else "",
        data=used,
        files=[EVALUATION, *(f"{folder}/{path.name}".lstrip("/") for folder, path in files)],
    )
    registry.describe(version.number, version_page.page(facts, version.description))


def _trained_on(registry: Registry, version: Version, own: Path) -> dict[str, Path]:
    """The data set that it was trained on, its manifest brought below `own`; none where its run was no training."""
    with explained(registry.uri):
        if not registry.client.list_artifacts(version.run_id, TRAINED_ON):
            return {}
        return {"training": Path(registry.client.download_artifacts(version.run_id, TRAINED_ON, str(own)))}


def _scored_on(evaluation: Path) -> dict[str, Path]:
    """The held-out data set, if the evaluation is a folder that keeps its manifest."""
    folder = evaluation / HELD_OUT
    return {HELD_OUT: folder} if folder.is_dir() else {}


def _small(sheet: Path, folder: Path) -> Path:
    """A copy of a contact sheet that is no wider than the page has room for."""
    from PIL import Image

    with Image.open(sheet) as picture:
        picture.thumbnail((version_page.WIDTH, picture.height))
        picture.save(folder / version_page.SHOWN)
    return folder / version_page.SHOWN


def _number(registry: Registry, digest: str) -> str:
    """The version that holds a digest; empty where none does."""
    return next((v.number for v in registry.versions() if digest and v.tags.get(DIGEST) == digest), "")


def _data(run: Any, folders: Mapping[str, Path], scored_on: str) -> list[Data]:
    """The data sets that a run says it used, and those whose manifests are kept with the version."""
    found = {}
    for used in run.inputs.dataset_inputs:
        profile = json.loads(used.dataset.profile or "{}")
        use = next((tag.value for tag in used.tags if tag.key == "mlflow.data.context"), "")
        if digest := profile.get("digest", ""):
            found[digest] = Data(used.dataset.name, use, digest, sum(profile.get("counts", {}).values()))
    for name, folder in folders.items():
        digest, manifest = data_digest(folder), json.loads((folder / "manifest.json").read_text())
        use = "evaluation" if digest == scored_on else "training"
        known = found.get(digest, Data(name, use, digest, sum(manifest["counts"].values())))
        found[digest] = replace(known, licences=tuple(manifest["licences"]))
    return list(found.values())


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
