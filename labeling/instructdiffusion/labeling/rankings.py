"""Rankings: who preferred which edits of a prompt, one record an annotator and prompt, kept as JSON lines.

People and programs leave the same record, but never under the same kind: a program's name is refused for a person.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import write_atomic

Kind = Literal["person", "reference"]
REFERENCE = "reference annotator"  # ranks by the measured truth
RANDOM = "random annotator"  # the control: ranks by lot
PROGRAMS = (REFERENCE, RANDOM)  # a program of several accounts has a number after its name
FILE = "rankings.jsonl"


class Ranking(BaseModel):
    """What one annotator thinks of the edits of one prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    key: str = Field(min_length=1, description="The prompt: key of the triplet whose edits were shown.")
    edits: tuple[str, ...] = Field(default=(), description="Ids of the good edits, the best first; none if rejected.")
    rejected: bool = Field(default=False, description="Whether the annotator found no edit good enough.")
    defects: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="What is wrong with an edit, by its id."
    )
    shown: tuple[str, ...] = Field(default=(), description="Ids of all edits to choose from; empty: not recorded.")
    annotator: str = Field(min_length=1, description="Who ranked.")
    kind: Kind = Field(description="`person`, or `reference` for a program.")
    when: AwareDatetime = Field(description="When, as ISO 8601 with a time zone; kept in UTC.")
    round: str = Field(default="", description="Id of the ranking round; empty: none.")

    @field_validator("when")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        return value.astimezone(UTC)  # so that equal times are written equally

    @model_validator(mode="after")
    def _consistent(self) -> Ranking:
        if self.rejected == bool(self.edits):
            raise ValueError("name the good edits or set rejected: one of the two")
        if len(set(self.edits)) < len(self.edits):
            raise ValueError("an edit is ranked twice")
        if self.shown and (unknown := {*self.edits, *self.defects}.difference(self.shown)):
            raise ValueError(f"edit {min(unknown)} was not shown")
        if self.annotator.casefold().startswith(PROGRAMS) != (self.kind == "reference"):
            raise ValueError(f"{self.annotator!r} can't be of kind {self.kind}: programs never count as people")
        return self


def newest(rankings: Iterable[Ranking]) -> list[Ranking]:
    """One ranking for each prompt and annotator, the newest, in the order of prompts and names.

    Of two of the same time the one that is greater as text stays: the order they come in decides nothing.
    """
    kept: dict[tuple[str, str], Ranking] = {}
    for ranking in rankings:
        place = ranking.key, ranking.annotator
        if place not in kept or _age(kept[place]) < _age(ranking):
            kept[place] = ranking
    return [kept[place] for place in sorted(kept)]


def _age(ranking: Ranking) -> tuple[datetime, str]:
    return ranking.when, ranking.model_dump_json()


def read(path: Path) -> list[Ranking]:
    """The newest rankings of a file.

    Raises:
        DataError: there is no such file, or a line is no ranking; names the line.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read ({error}); run the rank step, or pull the rankings again") from None
    return newest(_parsed(line, path, number) for number, line in enumerate(lines, 1) if line.strip())


def write(path: Path, rankings: Iterable[Ranking]) -> list[Ranking]:
    """Write the newest of some rankings, whole or not at all, over what `path` held; returns them."""
    kept = newest(rankings)
    write_atomic(path, "".join(ranking.model_dump_json() + "\n" for ranking in kept))
    return kept


def add(path: Path, rankings: Iterable[Ranking]) -> list[Ranking]:
    """Put more rankings into a file, which need not exist; the same ones again change nothing.

    One writer at a time: of two at once the later would drop what the earlier added.
    """
    before = read(path) if path.exists() else []
    return write(path, [*before, *rankings])


def _parsed(line: str, path: Path, number: int) -> Ranking:
    try:
        return Ranking.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "ranking"
        reason = first["msg"].removeprefix("Value error, ").splitlines()[0]
        raise DataError(f"{path} line {number} is no ranking ({field}: {reason}); mend or delete the line") from None
