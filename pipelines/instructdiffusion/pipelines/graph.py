"""The pipeline: one graph, run on one machine by kfp's local runner and on a cluster by Kubeflow Pipelines."""

from typing import NamedTuple

from kfp import dsl

from instructdiffusion.pipelines.data_steps import collect, encode, fetch, filter, propose, rank, synthesize
from instructdiffusion.pipelines.model_steps import compare, evaluate, gate, train
from instructdiffusion.pipelines.release_steps import deploy, package, promote, seat


def fresh(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """A task that is never taken from a cache: it reads or changes the state of a service."""
    return task.set_caching_options(False)


class Aligned(NamedTuple):
    """A model after the alignment, and its edits of the held-out prompts."""

    model: dsl.Model
    training: dsl.Artifact
    candidates: dsl.Dataset


@dsl.pipeline(name="align")
def align(
    model: dsl.Input[dsl.Model],
    candidates: dsl.Input[dsl.Dataset],
    prompts: dsl.Input[dsl.Dataset],
    held_out: dsl.Input[dsl.Dataset],
    annotator: str,
    name: str,
    steps: int,
    edits: int,
    seed: int,
    work: str,
) -> Aligned:
    """Tune a model on the edits that an annotator picked.

    Args:
        model: to tune.
        candidates: its edits of the prompts.
        prompts: the triplets that were asked for.
        held_out: triplets that nobody ranked.
        annotator: who picks.
        name: of the tuned model.
        steps: optimizer steps.
        edits: of each held-out triplet.
        seed: of picks, order and noise.
        work: folder that outlives the run.
    """
    ranked = rank(candidates=candidates, shards=prompts, annotator=annotator, seed=seed)
    picked = collect(candidates=candidates, rankings=ranked.outputs["rankings"], shards=prompts)
    latents = encode(shards=picked.outputs["picked"], model=model)
    tuned = train(
        latents=latents.outputs["latents"],
        model=model,
        recipe="align",
        name=name,
        steps=steps,
        seed=seed,
        work=work,
    )
    shown = propose(model=tuned.outputs["trained"], shards=held_out, edits=edits, seed=seed)
    return Aligned(tuned.outputs["trained"], tuned.outputs["training"], shown.outputs["candidates"])


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
    size: int = 64,
    triplets: int = 2000,
    held_out: int = 20,
    prompts: int = 20,
    edits: int = 4,
    held_out_edits: int = 2,
    train_steps: int = 40,
    align_steps: int = 40,
    seed: int = 0,
    prompt_seed: int = 1,
    work: str = "/tmp/instructdiffusion",
    port: int = 0,
) -> Whole:
    """Synthesize, train, align with picked edits and with random ones, and put the better model into service.

    Args:
        start: folder of the model to start from; empty: the base inside the package.
        size: side of the pictures in pixels; the model's own.
        triplets: to train on, of all tasks together.
        held_out: triplets of each task that models are scored on.
        prompts: triplets of each task whose edits are ranked.
        edits: of each prompt.
        held_out_edits: of each held-out triplet, before and after the alignment.
        train_steps: optimizer steps of the training.
        align_steps: optimizer steps of the alignment, and of its control.
        seed: of everything random but the prompts.
        prompt_seed: of the prompts; with the same one they would be triplets that were trained on.
        work: folder that outlives the run: checkpoints and the stores of Bentos.
        port: where the service listens; 0: any free port.
    """
    base = fetch(source=start).outputs["model"]
    scenes = synthesize(name="train", split="train", triplets=triplets, even=False, size=size, seed=seed)
    good = filter(source=scenes.outputs["shards"]).outputs["shards"]
    latents = encode(shards=good, model=base).outputs["latents"]
    hidden = synthesize(name="held-out", split="test", triplets=held_out, even=True, size=size, seed=seed)
    tested = hidden.outputs["shards"]
    prompted = synthesize(name="prompts", split="train", triplets=prompts, even=True, size=size, seed=prompt_seed)
    asked = prompted.outputs["shards"]

    first = train(latents=latents, model=base, recipe="train", name="train", steps=train_steps, seed=seed, work=work)
    trained = first.outputs["trained"]
    scored = evaluate(model=trained, shards=tested).outputs["evaluation"]
    candidates = propose(model=trained, shards=asked, edits=edits, seed=seed).outputs["candidates"]
    before = propose(model=trained, shards=tested, edits=held_out_edits, seed=seed).outputs["candidates"]

    same = {
        "model": trained,
        "candidates": candidates,
        "prompts": asked,
        "held_out": tested,
        "steps": align_steps,
        "edits": held_out_edits,
        "seed": seed,
        "work": work,
    }
    picked = align(annotator="reference", name="align", **same)
    control = align(annotator="random", name="control", **same)
    aligned = picked.outputs["model"]
    comparison = compare(
        shards=tested,
        before=before,
        aligned=picked.outputs["candidates"],
        control=control.outputs["candidates"],
    )
    challenger = evaluate(model=aligned, shards=tested).outputs["evaluation"]

    # The model to start from serves where nothing did. The trained one is held against whatever serves, the aligned
    # one against the better of both.
    standing = evaluate(model=base, shards=tested).outputs["evaluation"]
    seated = fresh(seat(model=base, evaluation=standing))
    entry = fresh(gate(challenger=scored, known=standing, also_known=scored, shards=tested).after(seated))
    entered = fresh(promote(model=trained, evaluation=scored, verdict=entry.outputs["verdict"]))
    judged = fresh(gate(challenger=challenger, known=standing, also_known=scored, shards=tested).after(entered))
    verdict = judged.outputs["verdict"]
    serving = fresh(promote(model=aligned, evaluation=challenger, verdict=verdict))
    with dsl.If(serving.output != "", name="a champion is there"):
        tag = fresh(package(version=serving.output, work=work))
        fresh(deploy(tag=tag.output, work=work, port=port))
    return Whole(
        tested,
        trained,
        aligned,
        first.outputs["training"],
        picked.outputs["training"],
        control.outputs["training"],
        scored,
        judged.outputs["champion"],
        challenger,
        comparison.outputs["alignment"],
        verdict,
        judged.outputs["Output"],
    )
