"""The stages after a model is made: it is measured, held against whatever serves, and put into service."""

from typing import List, NamedTuple  # noqa: UP035  kfp knows this spelling only

from kfp import dsl

from instructdiffusion.pipelines.evidence_steps import measure, merge, probe
from instructdiffusion.pipelines.model_steps import gate
from instructdiffusion.pipelines.release_steps import deploy, package, promote
from instructdiffusion.pipelines.stages import fresh


class Measured(NamedTuple):
    """What benchmarks say of a model."""

    benchmarks: dsl.Artifact


@dsl.pipeline(name="measure")
def measured(orders: List[str], model: dsl.Input[dsl.Model], work: str) -> Measured:  # noqa: UP006
    """Measure a model by the parts of benchmarks, side by side, and put the parts together.

    Args:
        orders: what each part is told.
        model: to measure.
        work: folder that outlives the run: a part that was stopped goes on where it was.
    """
    with dsl.ParallelFor(orders, name="each part") as order:
        part = measure(order=order, model=model, work=work)
    return Measured(merge(parts=dsl.Collected(part.outputs["rows"]), model=model).outputs["benchmarks"])


class Entered(NamedTuple):
    """What the gate decided on a model, and who the champion is from now on."""

    champion: dsl.Artifact
    verdict: dsl.Artifact
    passed: bool
    Output: str  # the champion's version; kfp's local runner finds what a condition asks for by this name alone


@dsl.pipeline(name="enter")
def enter(
    name: str,  # kfp's local runner hands no artifact to a pipeline that takes nothing else
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    known: dsl.Input[dsl.Artifact],
    also_known: dsl.Input[dsl.Artifact],
    held_out: dsl.Input[dsl.Dataset],
    policy: str,
    leak: str,
    orders: List[str],  # noqa: UP006
    seed: int,
    work: str,
) -> Entered:
    """Register a model with the gate's verdict; one that passed becomes the champion.

    Args:
        name: of the model, in the log.
        model: to register.
        evaluation: its scores.
        known, also_known: evaluations that need not be made again, if one is the champion's.
        held_out: what they were scored on.
        policy: what it is held to; empty: the default.
        leak: address of the report on leaks; empty: there is none.
        orders: the benchmarks to measure it by, part by part.
        seed: of the safety probes.
        work: folder that outlives the run.
    """
    safe = probe(model=model, policy=policy, seed=seed, work=work)
    judged = fresh(
        gate(
            name=name,
            model=model,
            challenger=evaluation,
            known=known,
            also_known=also_known,
            safety=safe.outputs["safety"],
            benchmarks=measured(orders=orders, model=model, work=work).outputs["benchmarks"],
            shards=held_out,
            policy=policy,
            leak=leak,
        )
    )
    verdict = judged.outputs["verdict"]
    serving = fresh(promote(model=model, evaluation=evaluation, verdict=verdict))
    return Entered(judged.outputs["champion"], verdict, judged.outputs["Output"], serving.outputs["Output"])


class Released(NamedTuple):
    """What the gate decided on a model."""

    champion: dsl.Artifact
    verdict: dsl.Artifact
    passed: bool


@dsl.pipeline(name="release")
def release(
    name: str,
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    known: dsl.Input[dsl.Artifact],
    also_known: dsl.Input[dsl.Artifact],
    held_out: dsl.Input[dsl.Dataset],
    policy: str,
    leak: str,
    orders: List[str],  # noqa: UP006
    seed: int,
    work: str,
    port: int,
) -> Released:
    """Hold a model against whatever serves, and put the better one into service.

    Args:
        name: of the challenger, in the log.
        model: the challenger.
        evaluation: its scores.
        known, also_known: evaluations that need not be made again, if one is the champion's.
        held_out: what they were scored on.
        policy: what it is held to; empty: the default.
        leak: address of the report on leaks; empty: there is none.
        orders: the benchmarks to measure it by, part by part.
        seed: of the safety probes.
        work: folder below which the weights and Bento's stores lie.
        port: where the service listens; 0: any free port.
    """
    entered = enter(
        name=name,
        model=model,
        evaluation=evaluation,
        known=known,
        also_known=also_known,
        held_out=held_out,
        policy=policy,
        leak=leak,
        orders=orders,
        seed=seed,
        work=work,
    )
    version = entered.outputs["Output"]
    with dsl.If(version != "", name="a champion is there"):
        packaged = fresh(package(version=version, work=work))
        fresh(deploy(tag=packaged.outputs["Output"], work=work, port=port))
    return Released(entered.outputs["champion"], entered.outputs["verdict"], entered.outputs["passed"])
