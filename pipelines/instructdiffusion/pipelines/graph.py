"""The pipelines: each stage a graph of its own, and the end-to-end run that is made of them.

The same objects run on one machine by kfp's local runner and on a cluster by Kubeflow Pipelines.
"""

from typing import List, NamedTuple  # noqa: UP035  kfp knows this spelling only

from kfp import dsl

from instructdiffusion.pipelines.data_steps import collect, encode, fetch, filter, propose, rank, synthesize
from instructdiffusion.pipelines.evidence_steps import assign, measure, merge, probe
from instructdiffusion.pipelines.model_steps import compare, evaluate, gate, train
from instructdiffusion.pipelines.release_steps import deploy, package, promote, seat
from instructdiffusion.pipelines.source_steps import build, join, plan, screen


def fresh(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """A task that is never taken from a cache: it reads or changes the state of a service."""
    return task.set_caching_options(False)


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
    size: int = 64,
    triplets: int = 2000,
    held_out: int = 20,
    prompts: int = 20,
    filtering: str = "embedded",
    scored_on: str = "",
    leaking: str = "refuse",
    seed: int = 0,
    prompt_seed: int = 1,
    work: str = "/work",
) -> Prepared:
    """Make triplets of public data sets or of composed scenes, drop the bad ones, and run the encoders over the rest.

    Args:
        start: the model to start from, a folder or its s3:// address; empty: the base inside the package.
        sources: sources file of what to train on, a path or its s3:// address, or paper; empty: composed scenes alone.
        root: folder or s3:// address that the file's relative paths are below; empty: its own.
        without: names of sources to leave out, with commas between.
        parts: that the work on it is divided into, done side by side.
        size: side of the pictures in pixels; the model's own.
        triplets: to train on, of all tasks together, where there is no sources file.
        held_out: triplets of each task that models are scored on.
        prompts: triplets of each task whose edits are ranked.
        filtering: what triplets are held to: embedded, paper, a YAML file, or its s3:// address.
        scored_on: folders of data sets that models are scored on as well, or s3:// addresses, with commas between.
        leaking: what happens to triplets to train on that models are scored on: refuse, drop.
        seed: of everything random but the prompts.
        prompt_seed: of the prompts; with the same one they would be triplets that were trained on.
        work: folder that outlives the run: shards that are finished are not made again.
    """
    base = fetch(source=start, name="base").outputs["model"]
    planned = fresh(plan(sources=sources, root=root, without=without, triplets=triplets, parts=parts))
    with dsl.ParallelFor(planned.outputs["Output"], name="each part") as order:
        built = build(order=order, name="train", size=size, seed=seed, work=work)
    joined = join(parts=dsl.Collected(built.outputs["shards"]), name="train")
    good = filter(source=joined.outputs["shards"], policy=filtering).outputs["shards"]
    hidden = synthesize(name="held-out", split="test", triplets=held_out, even=True, size=size, seed=seed)
    prompted = synthesize(name="prompts", split="train", triplets=prompts, even=True, size=size, seed=prompt_seed)
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
    edits: int,
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
        edits: of each held-out triplet.
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
    shown = propose(model=tuned.outputs["trained"], shards=held_out, edits=edits, seed=seed)
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
    held_out_edits: int,
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
        held_out_edits: of each held-out triplet, before and after.
        recipe: name of the recipe of the alignment, and of its control.
        steps: their optimizer steps; 0: as many as the recipe says.
        seed: of edits, picks, order and noise.
        work: folder that outlives the run.
    """
    candidates = propose(model=model, shards=prompts, edits=edits, seed=seed).outputs["candidates"]
    before = propose(model=model, shards=held_out, edits=held_out_edits, seed=seed).outputs["candidates"]
    same = {
        "model": model,
        "candidates": candidates,
        "prompts": prompts,
        "held_out": held_out,
        "recipe": recipe,
        "steps": steps,
        "edits": held_out_edits,
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
    annotator: str = "reference",
    edits: int = 4,
    held_out_edits: int = 1,
    recipe: str = "train",
    train_steps: int = 30,
    align_recipe: str = "align",
    align_steps: int = 40,
    seed: int = 0,
    prompt_seed: int = 1,
    policy: str = "",
    work: str = "/tmp/instructdiffusion",
    port: int = 0,
) -> Whole:
    """Synthesize, train, align with picked edits and with random ones, and put the better model into service.

    Args:
        start: the model to start from, a folder or its s3:// address; empty: the base inside the package.
        size: side of the pictures in pixels; the model's own.
        triplets: to train on, of all tasks together.
        held_out: triplets of each task that models are scored on.
        prompts: triplets of each task whose edits are ranked.
        annotator: who picks: reference, by the known truth; random; label-studio, the reference through that server;
            people, there.
        edits: of each prompt.
        held_out_edits: of each held-out triplet, before and after the alignment.
        recipe: of the training: adapt, train, align at nano size; small_adapt, small, small_align on one GPU;
            paper_adapt, paper, paper_align.
        train_steps: optimizer steps of the training; 0: as many as its recipe says.
        align_recipe: of the alignment, and of its control: align, small_align, paper_align.
        align_steps: optimizer steps of both; 0: as many as their recipe says.
        seed: of everything random but the prompts.
        prompt_seed: of the prompts; with the same one they would be triplets that were trained on.
        policy: what the gate holds models to, a YAML file or its s3:// address; empty: the default.
        work: folder that outlives the run: checkpoints and the stores of Bentos.
        port: where the service listens; 0: any free port.
    """
    made = data(
        start=start,
        size=size,
        triplets=triplets,
        held_out=held_out,
        prompts=prompts,
        seed=seed,
        prompt_seed=prompt_seed,
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
        held_out_edits=held_out_edits,
        recipe=align_recipe,
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
