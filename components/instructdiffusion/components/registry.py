"""The model registry: versions of one model, and the aliases that say which of them serves.

`champion` serves, `challenger` is the newest that passed training, `previous` is what a rollback returns to.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from instructdiffusion.components.settings import Settings
from instructdiffusion.components.tracking import connect, explained
from instructdiffusion.model.errors import ConfigError, DataError

log = logging.getLogger(__name__)

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
EVALUATION = "evaluation.json"
DIGEST = "digest"  # version tag: `sha256:...` of the weights, by which a retry finds what the first try made


GATE, OVERRIDE = "gate", "override"  # version tags: the gate's word, and why somebody went past it
VOUCHED = {"passed", "defended", "first", "surpassed"}  # words after which a version may be champion


@dataclass(frozen=True)
class Override:
    """Somebody who answers for a version that the gate did not let pass, and why."""

    reason: str
    by: str

    def __post_init__(self) -> None:
        if not self.reason.strip() or not self.by.strip():
            raise ConfigError("an override needs a reason and a name; give --override REASON --by NAME")


def refusal(tags: Mapping[str, str]) -> str:
    """Why a version with these tags may not be champion; empty: it may."""
    if OVERRIDE in tags or tags.get(GATE) in VOUCHED:
        return ""
    word = tags.get(GATE)
    return f"was refused by the gate ({tags.get('gate_reasons', word)})" if word else "has not been through the gate"


def signed(number: str) -> str:
    """How a person gets a version past that."""
    return f"to promote it even so: instructdiffusion promote {number} --override REASON --by NAME"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version as the registry has it now."""

    number: str
    source: str  # s3 URI, or runs:/ID/folder
    run_id: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    description: str = ""  # Markdown


class Registry:
    """Versions of one registered model."""

    def __init__(self, uri: str, model: str) -> None:
        """`uri` is the MLflow server's address, `model` the registered model's name, made on first use."""
        self.uri, self.model = uri, model
        self.client = connect(uri)

    @classmethod
    def open(cls, settings: Settings) -> Registry:
        """The registry that the settings name; ConfigError if they name none."""
        if not settings.tracking_uri:
            raise ConfigError("no model registry is set; set MLFLOW_TRACKING_URI, as in http://127.0.0.1:5000")
        return cls(settings.tracking_uri, settings.registered_model)

    def register(
        self,
        source: str,
        *,
        digest: str,
        run_id: str,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> Version:
        """Register weights, or find the version that has the same digest.

        Args:
            source: `s3://bucket/name`, or `runs:/RUN/folder` for an artifact of a run.
            digest: `sha256:...` of the weights.
            run_id: the run that made them; its artifacts hold the version's evaluation.
            tags, description: shown in the registry.
        """
        for version in self.versions():
            if version.tags.get(DIGEST) == digest:
                return version
        with explained(self.uri):
            self._ensure_model()
            made = self.client.create_model_version(
                self.model,
                source,
                run_id=run_id,
                tags={**(tags or {}), DIGEST: digest},
                description=description or None,
            )
        return self.version(str(made.version))

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        with explained(self.uri):
            found = self.client.search_model_versions(f"name = '{self.model}'", max_results=1000)
        newest_first = sorted(found, key=lambda v: int(v.version), reverse=True)
        return [_version(v) for v in newest_first]

    def version(self, number: str) -> Version:
        """One version by its number; ServiceError if there is none."""
        with explained(self.uri):
            return _version(self.client.get_model_version(self.model, number))

    def at(self, alias: str) -> Version | None:
        """The version an alias points to, or None."""
        from mlflow.exceptions import MlflowException

        with explained(self.uri):
            try:
                return _version(self.client.get_model_version_by_alias(self.model, alias))
            except MlflowException as error:  # no such alias is "invalid", no such model "does not exist"
                if error.error_code in {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}:
                    return None
                raise

    def set_alias(self, alias: str, number: str) -> None:
        """Point an alias at a version."""
        with explained(self.uri):
            self.client.set_registered_model_alias(self.model, alias, number)

    def promote(self, number: str, override: Override | None = None) -> Version:
        """Make a version the champion; the one before becomes `previous`. A repeat changes nothing.

        Only what the gate let pass, or what was champion before, is promoted; anything else needs somebody who
        answers for it, and the version keeps who and why. The order of the steps matters: interrupted in between,
        the old champion serves on and a repeat finishes the work.

        Raises:
            ConfigError: there is no such version, or the gate did not let it pass.
        """
        known = [version.number for version in self.versions()]
        if number not in known:
            there = ", ".join(known) or "none"
            raise ConfigError(f"{self.model} has no version {number}; name one that is registered ({there})")
        old = self.at(CHAMPION)
        if old is not None and old.number == number:
            return old
        self._answered_for(self.version(number), override)
        if old is not None:
            self.set_alias(PREVIOUS, old.number)
        self.tag(number, {"promoted_at": now(), "replaces": old.number if old else ""})
        self.set_alias(CHAMPION, number)
        return self.version(number)

    def _answered_for(self, version: Version, override: Override | None) -> None:
        """Refuse a version that neither the gate nor a person vouches for; write down who does."""
        if override is not None:
            self.tag(version.number, {OVERRIDE: override.reason, "override_by": override.by, "override_at": now()})
        elif refused := refusal(version.tags):
            raise ConfigError(f"version {version.number} {refused}; {signed(version.number)}")

    def rollback(self) -> Version:
        """Make `previous` the champion again; a second rollback in a row is refused.

        Like `promote` it takes only what the gate or a person vouches for, and a repeat finishes what was interrupted.

        Raises:
            ConfigError: there is no previous version, or the gate did not let it pass.
        """
        previous, current = self.at(PREVIOUS), self.at(CHAMPION)
        if previous is None:
            raise ConfigError(f"{self.model} has no previous version to return to; promote a version instead")
        if current is None or current.number != previous.number:  # else one that was interrupted came this far
            self._answered_for(previous, None)
            if current is not None:
                self.tag(current.number, {"rolled_back_at": now()})
            self.set_alias(CHAMPION, previous.number)
        with explained(self.uri):
            self.client.delete_registered_model_alias(self.model, PREVIOUS)
        return self.version(previous.number)

    def tag(self, number: str, tags: Mapping[str, str | None]) -> None:
        """Set a version's tags, one after the other in this order; None removes one."""
        with explained(self.uri):
            for key, value in tags.items():
                if value is None:
                    self._untag(number, key)
                else:
                    self.client.set_model_version_tag(self.model, number, key, value)

    def describe(self, number: str, text: str) -> None:
        """Set what the registry's page of a version shows, Markdown of at most 5000 characters."""
        with explained(self.uri):
            self.client.update_model_version(self.model, number, text)

    def keep(self, number: str, path: Path, folder: str = "") -> None:
        """Keep a file beside a version: an artifact of the run that made it, in `version-NUMBER/` or a folder there."""
        version = self.version(number)
        with explained(self.uri):
            self.client.log_artifact(version.run_id, str(path), f"{kept(number)}/{folder}".rstrip("/"))

    def put_evaluation(self, number: str, evaluation: Mapping[str, Any]) -> None:
        """Keep a version's evaluation (JSON) beside it."""
        version = self.version(number)
        with explained(self.uri):
            self.client.log_dict(version.run_id, dict(evaluation), f"{kept(number)}/{EVALUATION}")

    def evaluation(self, number: str) -> dict[str, Any]:
        """The evaluation of a version; DataError if it has none or it can't be read."""
        version = self.version(number)
        path_in_run = f"{kept(number)}/{EVALUATION}"
        if path_in_run not in self._kept(version):
            raise DataError(f"version {number} of {self.model} has no evaluation; evaluate it first")
        with tempfile.TemporaryDirectory() as folder, explained(self.uri):
            path = self.client.download_artifacts(version.run_id, path_in_run, folder)
            text = Path(path).read_text()
        try:
            content = json.loads(text)
        except ValueError as error:
            raise DataError(f"the evaluation of version {number} is not JSON; evaluate it again") from error
        return dict(content)

    def _kept(self, version: Version) -> set[str]:
        if not version.run_id:  # registered by hand
            return set()
        with explained(self.uri):
            return {item.path for item in self.client.list_artifacts(version.run_id, kept(version.number))}

    def _ensure_model(self) -> None:
        from mlflow.exceptions import RestException

        try:
            self.client.create_registered_model(self.model)
        except RestException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _untag(self, number: str, key: str) -> None:
        from mlflow.exceptions import RestException

        try:
            self.client.delete_model_version_tag(self.model, number, key)
        except RestException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def _version(found: Any) -> Version:
    return Version(
        number=str(found.version),
        source=str(found.source),
        run_id=str(found.run_id or ""),
        tags=dict(found.tags),
        aliases=tuple(sorted(found.aliases)),
        description=str(found.description or ""),
    )


def kept(number: str) -> str:
    """The folder of what is kept beside a version, among the artifacts of its run."""
    return f"version-{number}"


def now() -> str:
    """The time in UTC, to the second, as tags hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
