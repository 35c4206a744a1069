"""The end-to-end run, made of the stages.

The same objects run on one machine by kfp's local runner and on a cluster by Kubeflow Pipelines.
"""

from typing import NamedTuple

from kfp import dsl

from instructdiffusion.pipelines.evidence_steps import assign
from instructdiffusion.pipelines.model_steps import evaluate
from instructdiffusion.pipelines.release_steps import seat
from instructdiffusion.pipelines.releases import release
from instructdiffusion.pipelines.stages import alignment, data, fresh, training


class Whole(NamedTuple):
    """What a run leaves for its report."""

    held_out: dsl.Dataset
    trained: dsl.Model
    aligned: dsl.Model
    training: dsl.Artifact
    alignment_training: dsl.Artifact
    control_training: dsl.Artifact
    before: dsl.Artifact
    champion: dsl.Artifact
    challenger: dsl.Artifact
    alignment: dsl.Artifact
    verdict: dsl.Artifact
    passed: bool


@dsl.pipeline(name="end-to-end", description="From photographs to a promoted, packaged and deployed model.")
def end_to_end(
    start: str = "",
    triplets: int = 2000,
    held_out: int = 20,
    prompts: int = 20,
    annotator: str = "reference",
    edits: int = 4,
    recipe: str = "train",
    train_steps: int = 30,
    align_steps: int = 40,
    seed: int = 0,
    policy: str = "",
    work: str = "/tmp/instructdiffusion",
    port: int = 0,
) -> Whole:
    """Synthesize, train, align with picked edits and with random ones, and put the better model into service.

    Args:
        start: the model to start from, a folder or its s3:// address; empty: the base inside the package. Pictures are
            of its size.
        triplets: to train on, of all tasks together.
        held_out: triplets of each task that models are scored on.
        prompts: triplets of each task whose edits are ranked.
        annotator: who picks: reference, by the known truth; random; label-studio, the reference through that server;
            people, there.
        edits: of each prompt.
        recipe: of the training: adapt, train, align at nano size; small_adapt, small, small_align on one GPU;
            paper_adapt, paper, paper_align. The alignment and its control take the align of that size.
        train_steps: optimizer steps of the training; 0: as many as its recipe says.
        align_steps: optimizer steps of the alignment, and of its control; 0: as many as their recipe says.
        seed: of everything random.
        policy: what the gate holds models to, a YAML file or its s3:// address; empty: the default.
        work: folder that outlives the run: checkpoints and the stores of Bentos.
        port: where the service listens; 0: any free port.
    """
    made = data(
        start=start,
        triplets=triplets,
        held_out=held_out,
        prompts=prompts,
        seed=seed,
        work=work,
    ).outputs
    base, tested = made["base"], made["held_out"]
    first = training(
        base=base,
        latents=made["latents"],
        held_out=tested,
        recipe=recipe,
        steps=train_steps,
        seed=seed,
        work=work,
    ).outputs
    trained, scored = first["model"], first["evaluation"]
    last = alignment(
        model=trained,
        prompts=made["prompts"],
        held_out=tested,
        annotator=annotator,
        edits=edits,
        recipe=recipe,
        steps=align_steps,
        seed=seed,
        work=work,
    ).outputs
    aligned, challenger = last["model"], last["evaluation"]

    # The model to start from serves where nothing did.
    standing = evaluate(model=base, shards=tested).outputs["evaluation"]
    seated = fresh(seat(model=base, evaluation=standing))
    released = (
        release(
            name="align",
            model=aligned,
            evaluation=challenger,
            known=standing,
            also_known=scored,
            held_out=tested,
            policy=policy,
            leak=made["leak"],
            orders=fresh(assign(policy=policy, benchmarks="", samples=0, parts=1)).outputs["Output"],
            seed=seed,
            work=work,
            port=port,
        )
        .after(seated)
        .outputs
    )
    return Whole(
        tested,
        trained,
        aligned,
        first["training"],
        last["training"],
        last["control_training"],
        scored,
        released["champion"],
        challenger,
        last["alignment"],
        released["verdict"],
        released["passed"],
    )
