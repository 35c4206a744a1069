"""The pipelines that users submit: each stage by itself, on data and models by their address, and all of them.

The stages are those of `stages.py` and `releases.py`. What one run made is an input of the next by the address that its
artifact shows.
"""

from collections.abc import Mapping

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from instructdiffusion.pipelines import graph, releases, stages
from instructdiffusion.pipelines.data_steps import fetch, load
from instructdiffusion.pipelines.evidence_steps import assign
from instructdiffusion.pipelines.model_steps import evaluate
from instructdiffusion.pipelines.release_steps import seat


@dsl.pipeline(name="train", description="Train a model on latents and score it.")
def train(
    latents: str,
    held_out: str,
    start: str = "",
    recipe: str = "train",
    train_steps: int = 30,
    seed: int = 0,
    work: str = "/work",
) -> stages.Trained:
    """Train a model on latents and score it.

    Args:
        latents: address of what to train on, as the data pipeline's artifact shows it (s3://...).
        held_out: address of the triplets to score on.
        start: the model to start from, a folder or its s3:// address; empty: the base inside the package.
        recipe: of the training: adapt, train, align at nano size; small_adapt, small, small_align on one GPU;
            paper_adapt, paper, paper_align.
        train_steps: optimizer steps; 0: as many as the recipe says.
        seed: of order and noise.
        work: folder that outlives the run.
    """
    made = stages.training(
        base=fetch(source=start, name="base").outputs["model"],
        latents=load(source=latents, name="train").outputs["shards"],
        held_out=load(source=held_out, name="held-out").outputs["shards"],
        recipe=recipe,
        steps=train_steps,
        seed=seed,
        work=work,
    ).outputs
    return stages.Trained(made["model"], made["training"], made["evaluation"])


@dsl.pipeline(name="align", description="Tune a model on picked edits, beside a control, and score it.")
def align(
    model: str,
    prompts: str,
    held_out: str,
    annotator: str = "reference",
    edits: int = 4,
    recipe: str = "align",
    align_steps: int = 40,
    seed: int = 0,
    work: str = "/work",
) -> stages.Aligned:
    """Tune a model on picked edits and, as a control, on random ones; compare the two and score the first.

    Args:
        model: address of the model to align, as the train pipeline's artifact shows it (s3://...).
        prompts: address of the triplets whose edits are ranked.
        held_out: address of the triplets that nobody ranks.
        annotator: who picks: reference, by the known truth; random; label-studio, the reference through that server;
            people, there.
        edits: of each prompt.
        recipe: adapt, train, align at nano size; small_adapt, small, small_align on one GPU; paper_adapt, paper,
            paper_align: the alignment and its control take the align of that size.
        align_steps: optimizer steps of both; 0: as many as their recipe says.
        seed: of edits, picks, order and noise.
        work: folder that outlives the run.
    """
    made = stages.alignment(
        model=fetch(source=model, name="train").outputs["model"],
        prompts=load(source=prompts, name="prompts").outputs["shards"],
        held_out=load(source=held_out, name="held-out").outputs["shards"],
        annotator=annotator,
        edits=edits,
        recipe=recipe,
        steps=align_steps,
        seed=seed,
        work=work,
    ).outputs
    return stages.Aligned(
        made["model"], made["training"], made["control_training"], made["alignment"], made["evaluation"]
    )


@dsl.pipeline(name="release", description="Hold a model against whatever serves, and put the better into service.")
def release(
    model: str,
    held_out: str,
    start: str = "",
    policy: str = "",
    leak: str = "",
    seed: int = 0,
    work: str = "/work",
    port: int = 0,
) -> releases.Released:
    """Score a model, hold it against whatever serves, and put the better one into service.

    Args:
        model: address of the challenger, as the artifact of train or align shows it (s3://...).
        held_out: address of the triplets to score on.
        start: the model that serves where nothing does yet; empty: the base inside the package.
        policy: what the gate holds it to, a YAML file or its s3:// address; empty: the default.
        leak: the report on leaks between training and held-out data, or its s3:// address; empty: there is none.
        seed: of the safety probes.
        work: folder that outlives the run.
        port: where the service listens; 0: any free port.
    """
    tested = load(source=held_out, name="held-out").outputs["shards"]
    base = fetch(source=start, name="base").outputs["model"]
    challenger = fetch(source=model, name="challenger").outputs["model"]
    standing = evaluate(model=base, shards=tested).outputs["evaluation"]
    seated = stages.fresh(seat(model=base, evaluation=standing))
    made = releases.release(
        name="challenger",
        model=challenger,
        evaluation=evaluate(model=challenger, shards=tested).outputs["evaluation"],
        known=standing,
        also_known=standing,
        held_out=tested,
        policy=policy,
        leak=leak,
        orders=stages.fresh(assign(policy=policy, benchmarks="", samples=0, parts=1)).outputs["Output"],
        seed=seed,
        work=work,
        port=port,
    ).after(seated)
    return releases.Released(made.outputs["champion"], made.outputs["verdict"], made.outputs["passed"])


@dsl.pipeline(name="benchmark", description="Measure a model by benchmarks, their parts side by side.")
def benchmark(
    benchmarks: str, model: str = "", samples: int = 100, parts: int = 1, policy: str = "", work: str = "/work"
) -> releases.Measured:
    """Measure a model by benchmarks, each divided into parts that are done side by side.

    Args:
        benchmarks: names with commas between them; empty: those of the policy, measured as it says.
        model: address of the model (s3://...); empty: the base inside the package.
        samples: of each benchmark.
        parts: that each benchmark is divided into.
        policy: the gate's, a YAML file or its s3:// address; empty: the default, which names no benchmark.
        work: folder that outlives the run: a part that was stopped goes on where it was.
    """
    made = releases.measured(
        orders=stages.fresh(assign(policy=policy, benchmarks=benchmarks, samples=samples, parts=parts)).outputs[
            "Output"
        ],
        model=fetch(source=model, name="measured").outputs["model"],
        work=work,
    )
    return releases.Measured(made.outputs["benchmarks"])


PIPELINES: Mapping[str, GraphComponent] = {
    "data": stages.data,
    "train": train,
    "align": align,
    "release": release,
    "benchmark": benchmark,
    "end-to-end": graph.end_to_end,
}
