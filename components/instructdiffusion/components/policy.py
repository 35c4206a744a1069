"""The gate's policy: what a challenger is held to, written in YAML, and what is read of it from reports.

    name: release
    floors: {remove: 6.0, remove/background: 30.0}   # the lower end of the interval must reach it
    benchmarks:                                      # the same, of reports that `benchmark merge` wrote
      keypoints/oks_ap: 0.5
      restoration/psnr: {min: 30.0, data: gopro, n: 500}
    leak: required
    safety: required
    latency: 2.5
    watch: {drop: 1.0, refuse: true}

Left out, a field asks for nothing; an empty policy is the default. A report that is given counts whatever the policy
asks for: a leak that was found refuses, and so does a report of another model or of other data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from instructdiffusion.components.evidence import BenchmarkReport, Known, SafetyReport, Value, stranger
from instructdiffusion.components.measure import Measure
from instructdiffusion.model.errors import ConfigError

Need = Literal["optional", "required"]
EMBEDDED = "embedded"  # what a benchmark's report calls the samples that it composed
LEAKS = "data leaks DIR... --held-out DIR --benchmark DIR --out FILE"


class Margins(BaseModel):
    """How sure the gate wants to be, and how much it lets pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    level: float = Field(default=0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    loss: float = Field(
        default=0.0, ge=0, description="What a task may lose against the champion, as a share of its room."
    )
    rise: float = Field(default=0.0, ge=0, description="What the alignment score must rise by at least.")
    aligned: tuple[str, ...] = Field(default=(), description="Tasks the alignment score is made of; empty: all.")
    resamples: int = Field(default=2000, ge=100, description="Resamples of a bootstrap.")
    seed: int = Field(default=0, ge=0, description="Seed of the bootstrap: the same scores give the same verdict.")


class Watch(BaseModel):
    """When likeness that rises is mistrusted: a model may learn to please its measure and wreck the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    drop: float = Field(
        default=1.0, ge=0, description="dB that the background's PSNR may fall while a score or a likeness rises."
    )
    refuse: bool = Field(default=False, description="Refuse what is flagged; else a person is told to look.")


class Limit(BaseModel):
    """What a benchmark's metric must reach; written as a number, on whatever data and however many samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    min: float = Field(
        description="What the lower end of its interval must reach; where less is better, the most of the upper end."
    )
    data: str = Field(
        "", description="What it must be measured on: a folder's name, with digest or without, or embedded; empty: all."
    )
    n: int = Field(0, ge=0, description="Independent samples that it must be measured on at least.")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return {"min": given} if isinstance(given, int | float) else given


class Probes(BaseModel):
    """What the safety probes ask for beside what they always do."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    forbidden: tuple[Literal["watermark"], ...] = Field((), description="Tasks that a model must not do.")
    nsfw: str = Field("", description="Folder or s3:// address of a picture classifier with a harmful class.")


class Policy(BaseModel):
    """What a challenger is held to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = "default"
    margins: Margins = Margins()
    floors: dict[str, float] = Field(
        default={}, description="By task, or task/measure: what the lower end of its interval must reach."
    )
    benchmarks: dict[str, Limit] = Field(default={}, description="By benchmark/metric: the same of a report's value.")
    leak: Need = Field(default="optional", description="Whether the report on leaks must be there.")
    safety: Need = Field(default="optional", description="Whether the report of the safety probes must be there.")
    measure: Measure = Field(default=Measure(), description="How a pipeline measures these benchmarks.")
    probes: Probes = Probes()
    latency: float | None = Field(
        default=None, gt=0, description="Seconds a sample, of 95 in 100, in every benchmark's report."
    )
    watch: Watch = Watch()

    @staticmethod
    def load(path: Path) -> Policy:
        """Read a policy.

        Raises:
            ConfigError: the file can't be read, or a field is wrong; names all that are.
        """
        import yaml

        try:
            return Policy.model_validate(yaml.safe_load(path.read_text()) or {})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"policy {path}: {wrong}") from None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"policy {path} can't be read ({str(error).splitlines()[0]}); give a YAML file") from None


class Check(BaseModel):
    """One thing that the policy asks for."""

    model_config = ConfigDict(frozen=True)
    name: str
    passed: bool
    told: str


def checked(policy: Policy, evaluation: Mapping[str, Any], known: Known, champion: str = "") -> tuple[Check, ...]:
    """Hold a challenger to what the policy asks for beside the comparison with the champion. A pure function.

    Args:
        champion: digest; reports of its benchmarks count neither for the challenger nor against it. Empty: none.

    Raises:
        ConfigError: a floor names what was not evaluated.
    """
    model, data = str(evaluation["model"]), str(evaluation["data"])
    checks = [_floor(name, least, evaluation["tasks"]) for name, least in policy.floors.items()]
    ours = []
    for report in known.benchmarks:
        if champion and report.model == champion:
            continue
        name, command = f"benchmark {report.benchmark}", f"benchmark run {report.benchmark} --model DIR"
        if why := stranger(f"the report of {name}", report.model, model, command):
            checks.append(Check(name=name, passed=False, told=why))
        else:
            ours.append(report)
    checks += [check for name, limit in policy.benchmarks.items() for check in _benchmark(name, limit, ours)]
    if known.leak is not None or policy.leak == "required":
        checks.append(_leak(known, data, ours))
    if known.safety is not None or policy.safety == "required":
        checks.append(_safety(known.safety, model))
    if policy.latency is not None:
        checks.append(_latency(policy.latency, ours))
    return tuple(checks)


def measured(policy: Policy) -> list[str]:
    """The benchmarks that a policy names, each with its own limit."""
    return sorted({name.partition("/")[0] for name in policy.benchmarks})


def _floor(name: str, least: float, tasks: Mapping[str, Any]) -> Check:
    task, _, measure = name.partition("/")
    row = tasks.get(task, {})
    found = row.get("also", {}).get(measure) if measure and measure != row.get("metric") else row
    if not found or "low" not in found:
        raise ConfigError(f"policy.floors names {name}, which was not evaluated; name other tasks")
    told = f"{name} is {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}], its floor {least:g}"
    return Check(name=f"floor of {name}", passed=found["low"] >= least, told=told)


def _benchmark(name: str, limit: Limit, reports: Sequence[BenchmarkReport]) -> list[Check]:
    """A metric in every report of its benchmark, or in those of the data that the limit names."""
    bench, _, metric = name.partition("/")
    of_bench = [report for report in reports if report.benchmark == bench]
    found = [report for report in of_bench if limit.data in ("", report.data, report.data.partition("@")[0])]
    if found:
        return [_limit(name, limit, report.data, report.values.get(metric)) for report in found]
    there = f" on {limit.data}, only on {', '.join(report.data for report in of_bench)}" if of_bench else ""
    told = f"{name} was not measured{there}; run: instructdiffusion benchmark run {bench}, and give its report"
    return [Check(name=f"benchmark {name}", passed=False, told=told)]


def _limit(name: str, limit: Limit, data: str, value: Value | None) -> Check:
    title = f"benchmark {name} on {data}" if data else f"benchmark {name}"
    if value is None:
        return Check(name=title, passed=False, told=f"the report of {title} does not have it; run the benchmark again")
    if value.value is None or value.low is None or value.high is None:
        return Check(
            name=title, passed=False, told=f"{name} has no value: {value.missing or 'its interval is missing'}"
        )
    if value.n < limit.n:
        told = f"{name} was measured on {value.n} samples, {limit.n} are asked for; give the benchmark more --samples"
        return Check(name=title, passed=False, told=told)
    passed = value.high <= limit.min if value.spec.better == "lower" else value.low >= limit.min
    told = f"{name} is {value.value:.3f} [{value.low:.3f}, {value.high:.3f}], its limit {limit.min:g}"
    return Check(name=title, passed=passed, told=told)


def _leak(known: Known, data: str, benchmarks: Sequence[BenchmarkReport]) -> Check:
    """Clean; of all that the model is scored on, and of what it was trained on as far as that is known here."""
    from instructdiffusion.model.leaks import place_of

    report = known.leak
    if report is None:
        return Check(name="leak", passed=False, told="there is no report on leaks between training and held-out data")
    through = report.trained.values()
    scored = [bench.data for bench in benchmarks if bench.data not in ("", EMBEDDED)]
    looked_for = {Path(place_of(place)[0]).name for place in report.against}
    if why := stranger("the report on leaks", report.held_out, data, LEAKS):
        told = why
    elif not report.trained:
        told = f"the report on leaks does not say what was trained on; run: instructdiffusion {LEAKS}"
    elif not report.clean:
        found = report.found
        seen = f"{len(found)}, as {json.dumps(found[0])[:200]}" if isinstance(found, list) and found else found or ""
        told = f"training saw held-out samples: {seen}".rstrip(": ")
    elif known.trained_on and not set(known.trained_on) & set(through):
        told = (
            f"the report on leaks is of {', '.join(through)}, but the model was trained on {known.trained_on[0]}, "
            f"which is not made of it; run: instructdiffusion {LEAKS}"
        )
    elif missed := [name for name in scored if name.partition("@")[0] not in looked_for]:
        told = f"the report on leaks did not look for {missed[0]}, which the model is scored on; name it by --benchmark"
    else:
        return Check(
            name="leak", passed=True, told=f"no leak was found in {', '.join(digest[:19] for digest in through)}"
        )
    return Check(name="leak", passed=False, told=told)


def _safety(report: SafetyReport | None, model: str) -> Check:
    if report is None or not report.probes:
        return Check(name="safety", passed=False, told="there is no report of safety probes")
    if why := stranger("the report of safety probes", report.model, model, "probe --model DIR"):
        return Check(name="safety", passed=False, told=why)
    failed = [probe.name for probe in report.probes if not probe.passed]
    told = f"safety probes failed: {', '.join(failed)}" if failed else f"{len(report.probes)} safety probes passed"
    return Check(name="safety", passed=not failed, told=told)


def _latency(budget: float, reports: Sequence[BenchmarkReport]) -> Check:
    if not reports:
        told = "there is no benchmark's report of this model to take the latency from"
        return Check(name="latency", passed=False, told=told)
    slowest = max(reports, key=lambda report: report.latency.p95)
    seconds = slowest.latency.p95
    told = f"{slowest.benchmark} takes up to {seconds:.3f} s a sample in 95 of 100 batches, the budget is {budget:g} s"
    return Check(name="latency", passed=seconds <= budget, told=told)
