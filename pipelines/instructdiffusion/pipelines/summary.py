"""The summary of a run on a cluster, from the records that its steps left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from instructdiffusion.model.errors import ConfigError, InstructDiffusionError
from instructdiffusion.pipelines.inside import Surroundings
from instructdiffusion.pipelines.report import duration


def summary(pipeline: str, state: str, error: str, here: Surroundings) -> dict[str, Any]:
    """What `pages.page` shows: every step with its time, what failed and why, and who serves now.

    Args:
        pipeline: its name.
        state: SUCCEEDED or how else Kubeflow Pipelines says that it ended.
        error: what Kubeflow Pipelines says went wrong; empty: nothing.
        here: the surroundings of the step that summarizes.
    """
    facts: dict[str, object] = {"state": state}
    try:
        records, tracker = read(here.records), here.settings.tracking_uri
    except ConfigError as wrong:  # which failed every step: the summary is left even so
        records, tracker = [], ""
        facts["settings"] = wrong
    failed = [record for record in records if record["error"]]
    facts["steps"] = len(records)
    if records:
        ended = max(record["began"] + record["seconds"] for record in records)
        facts["time"] = duration(ended - records[0]["began"])
    if error and not failed:
        facts["error"] = error
    facts |= {f"failed: {record['step']}": record["error"] for record in failed}
    if tracker:
        facts |= {"tracker": tracker, "champion": _champion(here)}
    rows = [(r["step"], duration(r["seconds"]), "failed" if r["error"] else "done") for r in records]
    notes = [] if state == "SUCCEEDED" else ["Clone the run to try again: finished steps come from the cache."]
    table = [("step", "time", ""), *rows]
    return {"title": f"{pipeline}: {state.lower()}", "facts": facts, "notes": notes, "tables": [table] if rows else []}


def read(folder: Path | None) -> list[dict[str, Any]]:
    """The records of a run in the order its steps began; one that is damaged is left out."""
    found = []
    for path in sorted(folder.glob("*.json")) if folder is not None else ():
        try:
            record = json.loads(path.read_text())
            found.append({key: record[key] for key in ("step", "began", "seconds", "error")})
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda record: float(record["began"]))


def _champion(here: Surroundings) -> str:
    """The version that serves; a registry that does not answer must not cost the summary."""
    from instructdiffusion.components.registry import CHAMPION

    try:
        version = here.registry.at(CHAMPION)
    except InstructDiffusionError as error:
        return str(error)
    return version.number if version else "none yet"
