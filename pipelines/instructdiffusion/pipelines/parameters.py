"""Parameters of the pipelines: what each may be, and presets. Nothing here needs kfp, which is slow to load."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError, create_model

from instructdiffusion.model.errors import ConfigError
from instructdiffusion.model.recipes import RECIPES

NAMES = ("data", "train", "align", "release", "benchmark", "end-to-end")
FULL: dict[str, int] = {
    "triplets": 2000,
    "held_out": 20,
    "prompts": 20,
    "edits": 4,
    "train_steps": 20,
    "align_steps": 24,
}
#: Where a step takes three times as long.
SLOWER: Mapping[str, int] = FULL | {"edits": 3, "train_steps": 10, "align_steps": 14}
QUICK: Mapping[str, int] = {
    "triplets": 64,
    "held_out": 2,
    "prompts": 2,
    "edits": 2,
    "train_steps": 2,
    "align_steps": 2,
}
LARGE: Mapping[str, int] = {
    "triplets": 200_000,
    "held_out": 200,
    "prompts": 100,
    "edits": 4,
    "train_steps": 20_000,
    "align_steps": 1_000,
}
PRESETS: Mapping[str, Mapping[str, int]] = {"quick": QUICK, "full": FULL, "large": LARGE}

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Steps = Annotated[int, Field(ge=0, le=10_000_000)]  # 0: as many as the recipe says
Seed = Annotated[int, Field(ge=0, lt=2**31 - 1)]
Address = Annotated[str, StringConstraints(pattern="^(s3://|/).+")]
# Those that start from a model whose text encoder is frozen: the pipelines encode its states, not tokens.
TRAINED = tuple(name for name, made in RECIPES.items() if name != "base" and not made().train_text)

# The same name may be a count in one pipeline and the address of what was made in another.
COUNTS: Mapping[str, Any] = {
    "parts": Annotated[int, Field(ge=1, le=1000)],
    "triplets": Count,
    "held_out": Annotated[int, Field(ge=1, le=10_000)],
    "prompts": Annotated[int, Field(ge=1, le=10_000)],
    "edits": Annotated[int, Field(ge=1, le=16)],
    "samples": Annotated[int, Field(ge=0, le=10_000_000)],
    "train_steps": Steps,
    "align_steps": Steps,
    "seed": Seed,
}
TEXTS: Mapping[str, Any] = {
    "start": Address | Literal[""],
    "sources": Annotated[str, StringConstraints(pattern="^(paper|(s3://|/).+)?$")],
    "root": Address | Literal[""],
    "without": Annotated[str, StringConstraints(pattern=r"^[a-z0-9, -]*$")],
    "policy": Address | Literal[""],
    "leak": Address | Literal[""],
    "benchmarks": Annotated[str, StringConstraints(pattern=r"^[a-z, -]*$")],
    "model": Address | Literal[""],
    "latents": Address,
    "held_out": Address,
    "prompts": Address,
    "scored_on": Annotated[str, StringConstraints(pattern=r"^((s3://|/)[^,]+(, *|$))*$")],
    "filtering": Literal["embedded", "paper"] | Address,
    "leaking": Literal["refuse", "drop"],
    "recipe": Literal[TRAINED],
    "annotator": Literal["reference", "random", "label-studio", "people"],
}
#: Steps that a recipe brings along, where it is told and they are not.
STEPS = ("train_steps", "align_steps")
Model = TypeVar("Model", bound=BaseModel)


def choices(name: str) -> tuple[str, ...]:
    """All that a parameter may be, where that is a list of words; else nothing."""
    kind = TEXTS.get(name)
    return get_args(kind) if get_origin(kind) is Literal else ()


def checked(given: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Arguments of a pipeline, each of its type and within its range.

    A recipe that is told without steps takes its own: the pipeline's default suits the pipeline's own recipe.

    Args:
        given: text or value by parameter.
        definitions: the parameters as a compiled pipeline defines them.

    Raises:
        ConfigError: one line with every parameter that is misspelt, missing or out of its range, and the fix.
    """
    problems = [_unknown(name, definitions) for name in given if name not in definitions]
    missing = [name for name, told in definitions.items() if not told.get("isOptional") and name not in given]
    problems += [f"{name} is missing: add --set {name}=..., {definitions[name]['description']}" for name in missing]
    kinds = {"NUMBER_INTEGER": COUNTS, "STRING": TEXTS}
    fields = {name: kinds[definitions[name]["parameterType"]][name] for name in given if name in definitions}
    try:
        values = in_range(fields, given)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    own = {steps: 0 for steps in STEPS if steps in definitions and "recipe" in given}
    return {**own, **values}


def in_range(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `fields`, which are types by name; ConfigError tells all that don't fit in one line."""
    shape: Any = {name: (kind, ...) for name, kind in fields.items()}
    try:
        made: dict[str, Any] = create_model("Given", **shape)(**{name: given[name] for name in fields}).model_dump()
        return made
    except ValidationError as error:
        raise ConfigError("; ".join(map(_problem, error.errors(include_url=False)))) from None


def require(**values: int | str) -> None:
    """What a step does first with its parameters, by the pipeline's names: its pages let anything through."""
    in_range({name: (TEXTS if isinstance(value, str) else COUNTS)[name] for name, value in values.items()}, values)


def pairs(settings: Iterable[str]) -> dict[str, str]:
    """`name=value` texts as a mapping; ConfigError where there is no `=`."""
    made = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting!r} has no value; write it as name=value, as in --set seed=1")
        made[name.strip()] = value.strip()
    return made


def changed(model: Model, settings: Iterable[str]) -> Model:
    """A tree of settings with single ones changed, as in `training.nodes=2`; values are YAML.

    Raises:
        ConfigError: one line with every setting that is misspelt or doesn't fit.
    """
    values = model.model_dump()
    for path, text in pairs(settings).items():
        *sections, name = path.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(_no_setting(path))
        place[name] = _parsed(path, text)
    try:
        return type(model).model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_problem, error.errors(include_url=False)))) from None


def _parsed(path: str, text: str) -> Any:
    """A setting's value, which is YAML."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that no calendar has
        raise ConfigError(
            f'{path}={text} is no YAML; write it as in training={{"nodes": 2}}, or put quotes around it'
        ) from None


def _no_setting(path: str) -> str:
    return f"{path} is no setting of the cluster; docs/kubeflow.md lists them"


def _unknown(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    fix = f"did you mean {close[0]}?" if close else f"choose from {', '.join(sorted(known))}"
    return f"{name} is no parameter of this pipeline: {fix}"


def _problem(detail: Any) -> str:
    name, value = ".".join(map(str, detail["loc"])), detail["input"]
    if detail["type"] == "extra_forbidden":
        return _no_setting(name)
    if detail["type"] == "string_pattern_mismatch" and "s3" in detail["ctx"]["pattern"]:
        return f"{name}={value}: write the address that an artifact of an earlier run shows, as in s3://BUCKET/NAME"
    return f"{name}={value}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
