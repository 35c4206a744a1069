"""The sources of a data set: which public data sets, which of their splits, how much of each, and composed scenes.

split: train
sources:
  - {name: people, path: /data/coco, split: train2017}
  - {name: retouching, path: gier, split: train, weight: 2, licences: ["CC BY*"]}
  - {name: removals, path: phrasecut, split: train, make: [remove, add], inpainter: lama:/models/big-lama.pt}
  - {name: swaps, path: phrasecut, split: train, make: [replace], exemplars: exemplars}
  - {name: scenes, scenes: 20000}

The paper's own file comes with the package: `paper`, to be laid over a folder that holds the data sets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic import field_validator as validates

from instructdiffusion.model.addresses import Move, below
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.instructions import WORDINGS

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Made = Literal[
    "remove", "add", "replace", "denoise", "deblur", "watermark", "colorize", "brighten", "dehaze", "keypoint"
]
PACKAGED = ("paper",)
_FOLDERS = ("path", "exemplars", "model")  # fields that name a folder
_NETWORKS = ("inpainter", "features", "painter", "captioner", "clip")  # and those that may: see `addresses`


class DataSet(BaseModel):
    """A split of a public data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field(description="of the source: small letters, digits and hyphens")
    path: str = Field(min_length=1, description="its folder, or the folder's s3:// address; relative to the file")
    split: str = Field(min_length=1, description="as its authors name it; `data check` lists them")
    dataset: str | None = Field(
        None, min_length=1, description="which one it must be, by its name in docs/data.md; left out: told by its files"
    )
    weight: Weight | None = Field(None, description="draws of each triplet in an epoch; left out: as in the paper")
    licences: tuple[str, ...] | None = Field(
        None, min_length=1, description="of pictures that may be used, * standing for any text; left out: every one"
    )
    limit: int | None = Field(None, ge=1, description="examples to take, the first ones; left out: all")
    copies: int = Field(1, ge=1, le=1000, description="triplets of each example, each with a crop of its own")

    def allows(self, licence: str) -> bool:
        """Whether pictures under this licence may be used."""
        return self.licences is None or licensed(licence, self.licences)


class Synthesis(DataSet):
    """Triplets that are synthesised of a data set of regions or of photographs."""

    make: tuple[Made, ...] = Field(
        min_length=1,
        description="tasks: remove, add and replace of regions; those that undo damage, of photographs, and with a "
        "detector keypoint, remove and add",
    )
    detector: str | None = Field(
        None, min_length=1, description="who finds people and animals in photographs: packaged; left out: nobody"
    )
    inpainter: str = Field(
        "opencv", min_length=1, description="what fills the hole: opencv, opencv:ns, patchmatch, lama:PATH"
    )
    exemplars: str | None = Field(
        None, min_length=1, description="to replace with: their folder, or its s3:// address; relative to the file"
    )
    features: str = Field("embedded", min_length=1, description="that the exemplars were seen with")
    painter: str = Field(
        "embedded", min_length=1, description="what paints an exemplar in: embedded, paint-by-example:PATH"
    )
    captioner: str = Field("labels", min_length=1, description="what names things to replace: labels, blip2:PATH")

    @model_validator(mode="after")
    def _has_exemplars(self) -> Synthesis:
        if "replace" in self.make and self.exemplars is None:
            raise ValueError("replace needs exemplars: the folder that `instructdiffusion data exemplars` wrote")
        return self


class Pairs(DataSet):
    """Triplets that a text-to-image model paints of pairs of captions."""

    make: tuple[Literal["edit"], ...] = Field(min_length=1, description="tasks: edit")
    model: str = Field(
        min_length=1, description="Stable Diffusion in diffusers' layout: folder or its s3:// address; as path"
    )
    clip: str | None = Field(
        None, min_length=1, description="folder or hub id of the CLIP that judges pairs; left out: none is refused"
    )


class Scenes(BaseModel):
    """Composed scenes, of every task by its weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field("scenes", description="of the source: small letters, digits and hyphens")
    scenes: int = Field(ge=1, description="triplets of all tasks together")
    weight: Weight = Field(1.0, description="draws of each triplet in an epoch")


def _kind(value: Any) -> str:
    fields = value if isinstance(value, dict) else type(value).model_fields
    if "model" in fields:
        return "pairs"
    return "scenes" if "scenes" in fields else "synthesis" if "make" in fields else "data set"


Source = Annotated[
    Annotated[DataSet, Tag("data set")]
    | Annotated[Synthesis, Tag("synthesis")]
    | Annotated[Pairs, Tag("pairs")]
    | Annotated[Scenes, Tag("scenes")],
    Discriminator(_kind),
]  # told apart by the fields `make`, `model` and `scenes`


class Sources(BaseModel):
    """What a data set is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["train", "test"] = Field(
        "train", description="what it is for; test: crops from the middle, no mirrors, held-out photographs"
    )
    instructions: str = Field(
        "hand",
        min_length=1,
        description="wordings: hand, the tasks' own; simple, names of tasks; embedded, a bank of paraphrases; or the "
        "path of a bank",
    )
    sources: tuple[Source, ...]

    @validates("sources")
    @classmethod
    def _named_once(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        if not sources:
            raise ValueError("name at least one")
        names = [source.name for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two are named {', '.join(twice)}: give each a name of its own")
        return sources

    def below(self, folder: str) -> Sources:
        """The same with paths relative to `folder`, which may be an address in the store."""
        return self.moved(lambda address, sure: below(address, folder, sure))

    def moved(self, move: Move) -> Sources:
        """The same with all files and folders that it names where `move` says they are."""
        changes: dict[str, Any] = {"sources": tuple(_moved(source, move) for source in self.sources)}
        if self.instructions not in WORDINGS:
            changes["instructions"] = move(self.instructions, True)
        return self.model_copy(update=changes)

    def without(self, names: Collection[str]) -> Sources:
        """The same but for some sources.

        Raises:
            ConfigError: there is no such source, or none is left.
        """
        known = [source.name for source in self.sources]
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"no source {', '.join(unknown)} to leave out; there are {', '.join(known)}")
        left = tuple(source for source in self.sources if source.name not in names)
        if not left:
            raise ConfigError("every source is left out; keep one at least")
        return self.model_copy(update={"sources": left})


def licensed(licence: str, allowed: Iterable[str]) -> bool:
    """Whether a licence is on a list, in which * stands for any text; large letters are as good as small ones."""
    return any(fnmatchcase(licence.lower(), known.lower()) for known in allowed)


def read_sources(path: Path, root: str = "") -> Sources:
    """Read a sources file, YAML or JSON; relative paths are below `root`, or else its folder.

    Raises:
        ConfigError: it is missing, or wrong; one line with everything that is wrong in it.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"sources file {path} can't be read ({error}); name a YAML or JSON file") from error
    return sources_of(text, str(path)).below(root or str(path.absolute().parent))


def sources_of(text: str, name: str) -> Sources:
    """Sources from the text of a file, which errors call `name`.

    Raises:
        ConfigError: one line with everything that is wrong.
    """
    try:
        return Sources.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"sources file {name} is no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        problems = "; ".join(map(_problem, error.errors(include_url=False)))
        raise ConfigError(f"sources file {name}: {problems}; docs/data.md shows one") from None


def addresses_of(source: Source) -> Iterator[tuple[str, str, bool]]:
    """Each field of a source that is an address, the address, and whether it is surely of a file or a folder."""
    for field in (*_FOLDERS, *_NETWORKS):
        if address := getattr(source, field, None):
            yield field, address, field in _FOLDERS


def packaged(name: str) -> Sources:
    """A file that comes with the package: `paper`. Its paths are relative to a folder that it does not know."""
    return sources_of((resources.files("instructdiffusion.model.data") / f"{name}.yaml").read_text(), name)


def scenes_alone(count: int) -> Sources:
    """The embedded source: so many composed scenes to train on."""
    return Sources(sources=(Scenes(name="scenes", scenes=count),))


def _moved(source: Source, move: Move) -> Source:
    return source.model_copy(update={field: move(address, sure) for field, address, sure in addresses_of(source)})


def _problem(detail: Any) -> str:
    loc = detail["loc"]
    place = ".".join(map(str, (*loc[:2], *loc[3:])))  # the third tells what kind of source it is
    said = detail["msg"].removeprefix("Value error, ")
    return f"{place or 'its content'}: {said[:1].lower()}{said[1:]}"
