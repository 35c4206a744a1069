"""The networks and the judge that some metrics need, opened from their addresses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from instructdiffusion.model.errors import ConfigError

if TYPE_CHECKING:
    from instructdiffusion.model.benchmark import Tools

KEY = "OPENAI_API_KEY"  # environment variable that holds the judge's key


class Addresses(BaseModel):
    """Where they are; metrics of one that is left out are missing.

    Raises:
        ConfigError: a judge has no model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    clip: str = Field("", description="Folder or hub id of a CLIP, for likeness to captions and pictures.")
    dino: str = Field("", description="Folder or hub id of a DINO, for likeness to pictures.")
    aesthetic: str = Field("", description="File of LAION's aesthetic predictor.")
    judge: str = Field("", description="A vision model's endpoint, up to and with /v1.")
    judge_model: str = Field("", description="Which model judges there.")

    @model_validator(mode="after")
    def _judged_by_a_model(self) -> Self:
        if self.judge and not self.judge_model:
            raise ConfigError(f"the judge at {self.judge} needs judge_model: which model judges there")
        return self


def opened(
    addresses: Addresses,
    out: Path,
    *,
    folder: Callable[[str], Path] = Path,
    file: Callable[[str], Path] = Path,
) -> Tools:
    """Load the networks, and keep what the judge says in `out`; its key is in `OPENAI_API_KEY`.

    Args:
        folder, file: bring what lies at an address to this machine.

    Raises:
        DataError: an address holds no such network; names it.
    """
    from instructdiffusion.components.judge import Judge
    from instructdiffusion.model.benchmark import Tools
    from instructdiffusion.model.files import digest_of
    from instructdiffusion.model.metrics import networks

    made: dict[str, Any] = {}
    if addresses.clip:
        made["clip"] = networks.clip(str(folder(addresses.clip)))
    if addresses.dino:
        made["dino"] = networks.dino(str(folder(addresses.dino)))
    if addresses.aesthetic:
        path = file(addresses.aesthetic)
        made["aesthetic"] = networks.aesthetic_layers(path)
        made["aesthetic_name"] = f"{path.name}@{digest_of(path)}"
    if addresses.judge:
        made["judge"] = Judge(addresses.judge, addresses.judge_model, out / "judged", key=os.environ.get(KEY, ""))
    return Tools(**made)
