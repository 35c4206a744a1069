"""What a service reads from its environment: its name, and the limits on what it takes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instructdiffusion.model.errors import ConfigError

PREFIX = "INSTRUCTDIFFUSION_SERVING_"
SERVICE = "INFERENCE_SERVICE_NAME"  # KServe tells every pod whose it is


class Settings(BaseModel):
    """Field `x` is the variable `INSTRUCTDIFFUSION_SERVING_X`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        "instructdiffusion",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the model in KServe's protocols: that of the InferenceService.",
    )
    version: str = Field("", description="Version of the model, where the Bento does not hold it.")
    models: str = Field(
        "/mnt/models", description="Folder that KServe puts a model into; without one the Bento's serves."
    )
    max_bytes: int = Field(16 * 2**20, ge=2**10, le=2**30, description="Bytes of a request's pictures, as files.")
    max_pixels: int = Field(16 * 2**20, ge=2**8, le=2**27, description="Pixels of a request's pictures.")
    max_steps: int = Field(100, ge=1, le=1000, description="Denoising steps that a request may ask for.")
    max_pictures: int = Field(8, ge=1, le=1000, description="Pictures in one V1 or V2 request.")
    max_arrival: int = Field(60, ge=1, le=300, description="Seconds that a request may take to arrive.")
    max_waiting: int = Field(16, ge=1, le=10_000, description="Requests for edits, waiting or at work; more get a 429.")

    @property
    def max_body(self) -> int:
        """Bytes of a request: its pictures in base64, and the other fields."""
        return self.max_bytes * 4 // 3 + 2**16

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings; an empty variable counts as not set. Without a name the one that KServe tells is taken.

        Raises:
            ConfigError: one line with every wrong or misspelt variable.
        """
        environment = os.environ if environment is None else environment
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value}
        values = {field: given[name] for field, name in NAMES.items() if name in given}
        if service := environment.get(SERVICE):
            values.setdefault("name", service)
        problems = [
            f"{name} is not a setting: did you mean {close[0]}?"
            for name in sorted(given.keys() - NAMES.values())
            if (close := difflib.get_close_matches(name, NAMES.values(), n=1, cutoff=0.94))
        ]
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            problems += [f"{NAMES[str(item['loc'][0])]}={item['input']}: {item['msg']}" for item in error.errors()]
        if problems:
            raise ConfigError("; ".join(problems))
        return settings


NAMES: dict[str, str] = {field: PREFIX + field.upper() for field in Settings.model_fields}  # variable by field
