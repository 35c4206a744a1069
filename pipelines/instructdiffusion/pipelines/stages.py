"""The stages that make a model, each a graph of its own: data, training, alignment on picked edits."""

from typing import List, NamedTuple  # noqa: UP035  kfp knows this spelling only

from kfp import dsl

from instructdiffusion.pipelines.data_steps import collect, encode, fetch, filter, propose, rank, synthesize
from instructdiffusion.pipelines.model_steps import compare, evaluate, train
from instructdiffusion.pipelines.source_steps import build, join, plan, screen


def fresh(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """A task that is never taken from a cache: it reads or changes the state of a service."""
    return task.set_caching_options(False)


class Built(NamedTuple):
    """Triplets to train on."""

    shards: dsl.Dataset


@dsl.pipeline(name="parts")
def built(orders: List[str], size: int, seed: int, work: str) -> Built:  # noqa: UP006
    """Make triplets part by part, side by side, and put the parts together.

    A graph of its own, for to what is in a loop kfp's local runner hands the loop's item in place of any step's output.

    Args:
        orders: what each part is told.
        size: side of the pictures in pixels.
        seed: of everything random.
        work: folder that outlives the run.
    """
    with dsl.ParallelFor(orders, name="each part") as order:
        part = build(order=order, name="train", size=size, seed=seed, work=work)
    return Built(join(parts=dsl.Collected(part.outputs["shards"]), name="train").outputs["shards"])


class Prepared(NamedTuple):
    """What a training needs, and what its model is judged by."""

    base: dsl.Model
    latents: dsl.Dataset
    held_out: dsl.Dataset
    prompts: dsl.Dataset
    leak: str


@dsl.pipeline(name="data", description="From sources to latents to train on, held-out triplets and prompts.")
def data(
    start: str = "",
    sources: str = "",
    root: str = "",
    without: str = "",
    parts: int = 1,
    triplets: int = 2000,
    held_out: int = 20,
    prompts: int = 20,
    filtering: str = "embedded",
    scored_on: str = "",
    leaking: str = "refuse",
    seed: int = 0,
    work: str = "/work",
) -> Prepared:
    """Make triplets of public data sets or of composed scenes, drop the bad ones, and run the encoders over the rest.

    Args:
        start: the model to start from, a folder or its s3:// address; empty: the base inside the package. Pictures are
            of its size.
        sources: sources file of what to train on, a path or its s3:// address, or paper; empty: composed scenes alone.
        root: folder or s3:// address that the file's relative paths are below; empty: its own.
        without: names of sources to leave out, with commas between.
        parts: that the work on it is divided into, done side by side.
        triplets: to train on, of all tasks together, where there is no sources file.
        held_out: triplets of each task that models are scored on.
        prompts: triplets of each task whose edits are ranked.
        filtering: what triplets are held to: embedded, paper, a YAML file, or its s3:// address.
        scored_on: folders of data sets that models are scored on as well, or s3:// addresses, with commas between.
        leaking: what happens to triplets to train on that models are scored on: refuse, drop.
        seed: of everything random.
        work: folder that outlives the run: shards that are finished are not made again.
    """
    started = fetch(source=start, name="base").outputs
    base, size = started["model"], started["Output"]
    planned = fresh(plan(sources=sources, root=root, without=without, triplets=triplets, parts=parts))
    whole = built(orders=planned.outputs["Output"], size=size, seed=seed, work=work)
    good = filter(source=whole.outputs["shards"], policy=filtering).outputs["shards"]
    hidden = synthesize(name="held-out", split="test", triplets=held_out, even=True, size=size, seed=seed)
    prompted = synthesize(name="prompts", split="train", triplets=prompts, even=True, size=size, seed=seed)
    tested, asked = hidden.outputs["shards"], prompted.outputs["shards"]
    screened = screen(source=good, prompts=asked, held_out=tested, scored_on=scored_on, leaking=leaking)
    latents = encode(shards=screened.outputs["shards"], model=base, work=work).outputs["latents"]
    return Prepared(base, latents, tested, asked, screened.outputs["Output"])


class Trained(NamedTuple):
    """A model after a training, and its scores."""

    model: dsl.Model
    training: dsl.Artifact
    evaluation: dsl.Artifact


@dsl.pipeline(name="train")
def training(
    base: dsl.Input[dsl.Model],
    latents: dsl.Input[dsl.Dataset],
    held_out: dsl.Input[dsl.Dataset],
    recipe: str,
    steps: int,
    seed: int,
    work: str,
) -> Trained:
    """Train a model and score it.

    Args:
        base: where to start.
        latents: what to train on.
        held_out: triplets to score on.
        recipe: name of the training's recipe.
        steps: optimizer steps; 0: as many as the recipe says.
        seed: of order and noise.
        work: folder that outlives the run.
    """
    trained = train(latents=latents, model=base, recipe=recipe, name="train", steps=steps, seed=seed, work=work)
    scored = evaluate(model=trained.outputs["trained"], shards=held_out)
    return Trained(trained.outputs["trained"], trained.outputs["training"], scored.outputs["evaluation"])


class Tuned(NamedTuple):
    """A model after tuning, and its edits of the held-out triplets."""

    model: dsl.Model
    training: dsl.Artifact
    candidates: dsl.Dataset


@dsl.pipeline(name="tune")
def tune(
    model: dsl.Input[dsl.Model],
    candidates: dsl.Input[dsl.Dataset],
    prompts: dsl.Input[dsl.Dataset],
    held_out: dsl.Input[dsl.Dataset],
    annotator: str,
    name: str,
    recipe: str,
    steps: int,
    seed: int,
    work: str,
) -> Tuned:
    """Tune a model on the edits that an annotator picked.

    Args:
        model: to tune.
        candidates: its edits of the prompts.
        prompts: the triplets that were asked for.
        held_out: triplets that nobody ranked.
        annotator: who picks.
        name: of the tuned model.
        recipe: name of the training's recipe.
        steps: optimizer steps; 0: as many as the recipe says.
        seed: of picks, order and noise.
        work: folder that outlives the run.
    """
    ranked = rank(candidates=candidates, shards=prompts, annotator=annotator, seed=seed)
    picked = collect(candidates=candidates, rankings=ranked.outputs["rankings"], shards=prompts)
    tuned = train(
        latents=picked.outputs["picked"],  # so few are encoded as they are drawn
        model=model,
        recipe=recipe,
        name=name,
        steps=steps,
        seed=seed,
        work=work,
    )
    shown = propose(model=tuned.outputs["trained"], shards=held_out, edits=1, seed=seed)
    return Tuned(tuned.outputs["trained"], tuned.outputs["training"], shown.outputs["candidates"])


class Aligned(NamedTuple):
    """A model tuned on picked edits, its scores, and what the picks did beyond chance."""

    model: dsl.Model
    training: dsl.Artifact
    control_training: dsl.Artifact
    alignment: dsl.Artifact
    evaluation: dsl.Artifact


@dsl.pipeline(name="align")
def alignment(
    model: dsl.Input[dsl.Model],
    prompts: dsl.Input[dsl.Dataset],
    held_out: dsl.Input[dsl.Dataset],
    annotator: str,
    edits: int,
    recipe: str,
    steps: int,
    seed: int,
    work: str,
) -> Aligned:
    """Tune a model on picked edits and, as a control, on random ones; compare the two and score the first.

    Args:
        model: to align.
        prompts: triplets whose edits are ranked.
        held_out: triplets that nobody ranks.
        annotator: who picks.
        edits: of each prompt.
        recipe: name of a recipe; the alignment and its control take the align of that size.
        steps: their optimizer steps; 0: as many as the recipe says.
        seed: of edits, picks, order and noise.
        work: folder that outlives the run.
    """
    candidates = propose(model=model, shards=prompts, edits=edits, seed=seed).outputs["candidates"]
    before = propose(model=model, shards=held_out, edits=1, seed=seed).outputs["candidates"]
    same = {
        "model": model,
        "candidates": candidates,
        "prompts": prompts,
        "held_out": held_out,
        "recipe": recipe,
        "steps": steps,
        "seed": seed,
        "work": work,
    }
    picked = tune(annotator=annotator, name="align", **same)
    control = tune(annotator="random", name="control", **same)
    comparison = compare(
        shards=held_out,
        before=before,
        aligned=picked.outputs["candidates"],
        control=control.outputs["candidates"],
    )
    scored = evaluate(model=picked.outputs["model"], shards=held_out)
    return Aligned(
        picked.outputs["model"],
        picked.outputs["training"],
        control.outputs["training"],
        comparison.outputs["alignment"],
        scored.outputs["evaluation"],
    )
