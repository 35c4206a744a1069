"""The files that a model's card is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from instructdiffusion.model.card import About, Facts
from instructdiffusion.model.data.shards import MANIFEST, Manifest
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.evaluate import REPORT, Evaluation
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.scoring import Report
from instructdiffusion.model.weights import BASE, model_digest

Document = TypeVar("Document", bound=BaseModel)


def facts_of(
    model: Path | None, about: About, data: Sequence[Path], evaluation: Path | None, benchmarks: Sequence[Path]
) -> Facts:
    """Read the facts of a card of a model's folder (None: the embedded base).

    Without `data` or `evaluation` they are those that lie in the folder.

    Raises:
        DataError: a file is missing or is none of ours; names it.
    """
    folder = model or BASE
    manifests = [path / MANIFEST if path.is_dir() else path for path in data or [folder]]
    return Facts(
        model=model_digest(model),
        about=about,
        data={digest_of(path): _read(path, Manifest) for path in manifests},
        evaluation=_read(evaluation or folder / REPORT, Evaluation),
        benchmarks=[_read(path, Report) for path in benchmarks],
    )


def _read(path: Path, kind: type[Document]) -> Document:
    try:
        return kind.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} is no {kind.__name__.lower()} ({str(error).splitlines()[0]}); make it again") from None
