"""The one typed tree of settings of a training run.

Frozen, with units, refusing unknown names: every error is listed at once, each with where it is and what would do.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from instructdiffusion.model.errors import ConfigError


class Section(BaseModel):
    """A part of the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Network(Section):
    """Sizes of the networks when they are made from nothing; a run that starts from a model takes them from there."""

    size: int = Field(64, description="side of the pictures, pixels", ge=32)
    patch: int = Field(4, description="pixels per latent cell, along one side", ge=2)
    channels: int = Field(32, description="latent channels", ge=3)
    widths: tuple[int, ...] = Field(
        (96, 128, 192), description="channels of the U-Net at each resolution, finest first"
    )
    layers: int = Field(1, description="residual blocks per resolution", ge=1)
    heads: int = Field(4, description="attention heads", ge=1)
    text_width: int = Field(192, description="width of the text encoder")
    text_layers: int = Field(2, description="layers of the text encoder", ge=1)
    tokens: int = Field(60, description="longest instruction, in tokens", ge=8)


class Diffusion(Section):
    """What the U-Net predicts, under which noise, and which conditions are dropped for guidance."""

    prediction: Literal["epsilon", "v_prediction", "sample"] = Field(
        "epsilon", description="meaning of the network's output"
    )
    from_source: bool = Field(
        False, description="predict the target as source + output, so that 'change nothing' is the start"
    )
    gate: bool = Field(
        False, description="the network also says how much each cell changes: target = source + gate * output"
    )
    gate_weight: float = Field(0.3, description="of the gate's own loss beside the picture's", ge=0)
    relative: bool = Field(
        False, description="loss in pixels, as a share of what changing nothing loses, so that all tasks weigh alike"
    )
    schedule: Literal["scaled_linear", "squaredcos_cap_v2"] = Field(
        "scaled_linear", description="noise schedule, as diffusers names it"
    )
    time_power: float = Field(1.0, description="time is u ** this for uniform u; below 1 leans towards noise", gt=0)
    last_share: float = Field(
        0.0, description="share of samples at the last step of the noise, where nothing of the target shows", ge=0, le=1
    )
    drop_text: float = Field(0.075, description="share of samples that lose their instruction", ge=0, le=1)
    drop_image: float = Field(
        0.075, description="share of samples that lose their source; never the same ones", ge=0, le=1
    )
    drop_pooled: float = Field(
        0.0, description="share of samples that lose the instruction's summary and keep its words", ge=0, le=1
    )
    focus: float = Field(
        0.0, description="extra loss weight shared out over the changed cells; 0: all cells alike", ge=0
    )
    min_snr: float = Field(0.0, description="gamma of min-SNR weighting of the times, usually 5; 0: off", ge=0)
    zero_terminal_snr: bool = Field(
        False, description="stretch the schedule so that nothing of the target shows at its last step"
    )
    offset_noise: float = Field(
        0.0, description="strength of noise that is one number a channel, usually 0.1; 0: off", ge=0
    )

    def read_as(self, other: Diffusion) -> Diffusion:
        """These settings for a network whose output and noise mean what `other` says."""
        meaning = ("prediction", "from_source", "gate", "schedule", "zero_terminal_snr")
        return self.model_copy(update={name: getattr(other, name) for name in meaning})

    @model_validator(mode="after")
    def _gates_a_change(self) -> Self:
        if self.gate and not self.from_source:
            raise ValueError("gate=true needs from_source=true, for it weighs the change of the source; set that too")
        return self

    @model_validator(mode="after")
    def _drops_one_at_most(self) -> Self:
        if self.drop_text + self.drop_image > 1:
            raise ValueError("drop_text and drop_image add up to more than 1, but no sample loses both; lower either")
        return self

    @model_validator(mode="after")
    def _shows_the_target(self) -> Self:
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError(
                "zero_terminal_snr=true needs prediction=v_prediction or sample, for noise says nothing of the target "
                "where there is nothing else; set that too"
            )
        return self


class Optim(Section):
    """Optimizer and its schedule; all counts are of optimizer steps."""

    steps: int = Field(62_200, description="optimizer steps", ge=1)
    batch_size: int = Field(3072, description="triplets per optimizer step, over all processes", ge=1)
    micro_batch: int = Field(64, description="triplets per process per forward pass", ge=1)
    learning_rate: float = Field(1e-4, description="at its highest", gt=0)
    attention_rate: float = Field(
        1.0, description="learning rate of attention's queries and keys, as a share of the others'", gt=0, le=1
    )
    warmup: int = Field(0, description="steps until the learning rate is reached", ge=0)
    decay: Literal["constant", "cosine", "wsd"] = Field(
        "constant", description="the learning rate after warm-up; wsd: constant, the last fifth linearly to nothing"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's")
    clip: float = Field(1.0, description="largest norm of the gradient", gt=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: what is fastest on this machine, measured before the first step"
    )
    attention: Literal["auto", "plain", "fused"] = Field("auto", description="as precision")
    layout: Literal["auto", "channels_first", "channels_last"] = Field("auto", description="of pictures; as precision")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage")
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="what waits in the CPU's memory: nothing, the optimizer's state, or that and the weights"
    )
    spike: float = Field(
        0.0,
        description="a step with a loss so many times the usual one is left out, as one without a number is; 0: none",
        ge=0,
    )
    bad_steps: int = Field(3, description="steps in a row that are left out before the training stops", ge=1)
    gradient_checkpointing: bool = Field(
        False, description="compute activations again instead of keeping them: a third slower, far less memory"
    )


class Lora(Section):
    """Low-rank adapters (LoRA): only they learn, and at the end they are folded into the weights."""

    rank: int = Field(0, description="of each adapter; 0: none, all weights learn", ge=0)
    alpha: int = Field(16, description="adapters count alpha / rank", gt=0)
    targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "conv_in"),
        description="endings of the layers' names; conv_in is where the source comes in",
        min_length=1,
    )


class Run(Section):
    """One training run."""

    name: str = Field(description="of the recipe")
    network: Network = Network()
    diffusion: Diffusion = Diffusion()
    optim: Optim = Optim()
    lora: Lora = Lora()
    ema_decay: float = Field(0.9999, description="of the weights' moving average", ge=0, lt=1)
    train_text: bool = Field(False, description="whether the text encoder learns too")
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        {}, description="draws of each triplet in an epoch, by the name of its source; left out: as the data set says"
    )
    seed: int = Field(0, description="of initialisation, order and noise")
    checkpoint_every: int = Field(500, description="steps between checkpoints", ge=1)
    log_every: int = Field(25, description="steps between metrics", ge=1)
    account: bool = Field(False, description="whether each process writes down which triplets each step took")
    samples_every: int = Field(
        0, description="steps between sheets of samples, which the averaged weights make; 0: none", ge=0
    )

    @model_validator(mode="after")
    def _offloads_what_is_split(self) -> Self:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.optim.offload]
        if self.optim.zero_stage < least:
            raise ValueError(f"optim.offload={self.optim.offload} needs optim.zero_stage={least} or more; set that too")
        return self

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.optim.batch_size % self.optim.micro_batch:
            raise ValueError(
                f"optim.batch_size={self.optim.batch_size} is not a multiple of "
                f"optim.micro_batch={self.optim.micro_batch}; set either so that it divides"
            )
        return self

    @model_validator(mode="after")
    def _adapts_the_unet_alone(self) -> Self:
        if self.lora.rank and self.train_text:
            raise ValueError("lora.rank and train_text=true don't go together; set lora.rank=0 or train_text=false")
        return self


def parse(values: Mapping[str, Any]) -> Run:
    """Make a run from nested values.

    Raises:
        ConfigError: one line that lists everything wrong.
    """
    try:
        return Run.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(_told(e["loc"], e["type"], e["msg"]) for e in error.errors())
        raise ConfigError(f"settings of the run: {wrong}") from error


def _told(place: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(map(str, place)) or "run"
    if kind != "extra_forbidden":
        return f"{name}: {message.removeprefix('Value error, ')}"
    names = _names(Run)
    known = {full.rpartition(".")[2]: full for full in names} | {full: full for full in names}
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name} is not a setting{f': did you mean {known[close[0]]}?' if close else '; leave it out'}"


def _names(section: type[Section], before: str = "") -> list[str]:
    """The names of all settings, with their sections."""
    names = list[str]()
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            names += _names(inner, f"{before}{name}.")
        else:
            names.append(f"{before}{name}")
    return names


def override(run: Run, settings: list[str]) -> Run:
    """Change single settings: `override(run, ["optim.steps=100"])`.

    Raises:
        ConfigError: a setting has no `=`, names nothing, or has a value that doesn't fit.
    """
    values = run.model_dump()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not (path and equals):
            lacking = "value" if path else "name"
            raise ConfigError(
                f"setting {setting!r} has no {lacking}; write it as name=value, for instance optim.steps=100"
            )
        *sections, name = path.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"setting {setting!r}: {section} is no section, it has a value; leave out .{name}")
        place[name] = _value(setting, text)
    return parse(values)


def _value(setting: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"setting {setting!r} has a value that is no YAML; write it in quotes") from error
