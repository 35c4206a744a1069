"""Steps that make and judge models.

A step's body is all that is shipped with it: it imports what it needs and calls one function of its component.
"""

from kfp import dsl

from instructdiffusion.pipelines.data_steps import step


@step
def train(
    latents: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    recipe: str,
    name: str,
    steps: int,
    seed: int,
    work: str,
    trained: dsl.Output[dsl.Model],
    training: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train with DeepSpeed under torchrun, from a TrainJob object.

    Args:
        latents: what to train on.
        model: where to start.
        recipe: name of the run's recipe; an alignment takes the one of its stage, at the same size.
        name: of the trained model, in the tracker.
        steps: optimizer steps; 0: as many as the recipe says.
        seed: of order and noise.
        work: folder that outlives the step, so that a training which was stopped resumes.
        trained: the model with averaged weights.
        training: its settings, speed and curve.
        page: the same to look at.
        metrics: last loss, speed and time.
    """
    import json
    from pathlib import Path

    from instructdiffusion.components.evidence import lineage
    from instructdiffusion.components.reporter import TrackingReporter
    from instructdiffusion.components.step import made
    from instructdiffusion.components.train import run, track
    from instructdiffusion.model.config import override
    from instructdiffusion.model.files import digest_of
    from instructdiffusion.model.inputs import run_digest
    from instructdiffusion.model.recipes import aligning
    from instructdiffusion.model.recipes import recipe as recipe_named
    from instructdiffusion.model.report import Lines
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import copy, folder_for, inside
    from instructdiffusion.pipelines.parameters import require

    with inside(f"train ({name})") as here:
        require(recipe=recipe, **{"train_steps" if name == "train" else "align_steps": steps}, seed=seed)
        known = recipe_named(recipe) if name == "train" else aligning(recipe)
        changes = [f"name={name}", f"seed={seed}", *([f"optim.steps={steps}"] if steps else [])]
        settings = override(known, [*here.settings.training.settings, *changes])
        inputs = [run_digest(settings), latents.metadata["digest"], model.metadata["digest"]]
        out = folder_for(Path(work), name, inputs)
        with here.tracked(name, key=out.name) as tracked:
            report = Lines() if tracked is None else TrackingReporter(tracked, on_progress=here.progress)
            if tracked is not None:
                tracked.params(settings.model_dump())
                source = latents.metadata.get("uri") or latents.path
                track(tracked, Path(latents.path), latents.metadata["name"], source)
            env = tracked.environment() if tracked else None
            there = latents.metadata.get("uri") if here.settings.training.stream else ""
            data, start = there or Path(latents.path), Path(model.path)
            made_here = run(settings, data, out, model=start, name=name, env=env, report=report)
            if isinstance(report, TrackingReporter):
                report.close()
        weights = copy(made_here, trained)
        copy(out / "training.json", training)
        summary = json.loads(Path(training.path).read_text())
        from_what = {"parent": model.metadata["digest"], "data": latents.metadata["digest"]}
        from_what["trained_on"] = list(lineage(Path(latents.path)))
        whole = made(weights, "models", digest_of(weights), here.store, {})
        here.keep(trained, whole, name=name, key=out.name, recipe=recipe, steps=settings.optim.steps, **from_what)
        training.metadata["digest"] = digest_of(Path(training.path))
        figures = {"seconds": summary["seconds"], "triplets per second": summary["triplets_per_second"]}
        if losses := [row["loss"] for row in summary["curve"] if "loss" in row]:  # steps that were left out have none
            figures["loss"] = losses[-1]
        here.measure(metrics, figures)
        here.show(page, pages.training(summary, name, sorted((out / "samples").glob("*.png"))))


@step
def evaluate(
    model: dsl.Input[dsl.Model],
    shards: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Score a model on held-out triplets of every task.

    Args:
        model: to score.
        shards: held-out data.
        evaluation: scores with intervals, floors and bounds, and a contact sheet per task.
        page: the same to look at.
        metrics: the scores, for the pipeline's own pages.
    """
    from pathlib import Path

    from instructdiffusion.components.evaluate import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside(f"evaluate ({model.metadata['name']})") as here:
        key = model.metadata.get("key", model.metadata["digest"])
        with here.tracked(model.metadata["name"], key=key) as tracked:
            made = run(
                Path(model.path),
                Path(shards.path),
                Path(evaluation.path),
                store=here.store,
                tracked=tracked,
                progress=here.progress,
            )
        here.keep(evaluation, made, name=model.metadata["name"])
        here.measure(
            metrics, {f"{task} {score['metric']}": score["value"] for task, score in made.facts["tasks"].items()}
        )
        here.show(page, pages.evaluation(Path(evaluation.path), f"scores of {model.metadata['name']}"))


@step
def compare(
    shards: dsl.Input[dsl.Dataset],
    before: dsl.Input[dsl.Dataset],
    aligned: dsl.Input[dsl.Dataset],
    control: dsl.Input[dsl.Dataset],
    alignment: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Measure on held-out prompts what the alignment did, against a control tuned on random picks.

    Args:
        shards: the held-out triplets, with the truth.
        before: edits of the model before the alignment.
        aligned: edits of the aligned model.
        control: edits of the control.
        alignment: mean truth of each, and the gain with its interval.
        page: the same to look at.
        metrics: the gain and the ends of its interval.
    """
    from pathlib import Path

    from instructdiffusion.components.compare import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside("compare with the control") as here:
        folders = (Path(part.path) for part in (shards, before, aligned, control, alignment))
        made = run(*folders, store=here.store)
        here.keep(alignment, made)
        here.measure(metrics, {f"gain {end}": value for end, value in made.facts["gain"].items()})
        here.show(page, pages.comparison(made.facts))


@step
def gate(
    name: str,
    model: dsl.Input[dsl.Model],
    challenger: dsl.Input[dsl.Artifact],
    known: dsl.Input[dsl.Artifact],
    also_known: dsl.Input[dsl.Artifact],
    safety: dsl.Input[dsl.Artifact],
    benchmarks: dsl.Input[dsl.Artifact],
    shards: dsl.Input[dsl.Dataset],
    policy: str,
    leak: str,
    champion: dsl.Output[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Decide whether the challenger may take the place of the registry's champion.

    Args:
        name: of the model that might, in the log.
        model: that might; what it says it was trained on is what the report on leaks must be of.
        challenger: its evaluation.
        known, also_known: evaluations that need not be made again, if one is the champion's.
        safety: the report of its safety probes.
        benchmarks: reports of its benchmarks, in a folder of its name each.
        shards: the held-out data.
        policy: what it is held to, a YAML file or its s3:// address; empty: the default.
        leak: the report on leaks between training and held-out data, a file or its s3:// address; empty: there is none.
        champion: evaluation of the model that serves; empty where none does yet.
        verdict: the decision, with its reasons.
        page: the same to look at.
        metrics: the rise of the alignment score and the ends of its interval.

    Returns:
        Whether it may.
    """
    from dataclasses import replace
    from pathlib import Path

    from instructdiffusion.components.champion import benchmarks as benchmarks_of
    from instructdiffusion.components.champion import run as champion_of
    from instructdiffusion.components.evidence import Evidence
    from instructdiffusion.components.gate import PAGE, run
    from instructdiffusion.components.measure import reports
    from instructdiffusion.components.probe import REPORT
    from instructdiffusion.pipelines.inside import inside

    with inside(f"gate ({name})") as here:
        ours, theirs, beside = Path(challenger.path), Path(champion.path), Path(page.path)
        held_to = here.policy(policy, beside)  # before anything slow: it may be wrong
        evidence = Evidence(
            here.file(leak, beside.with_name("leak.json")) if leak else None,
            Path(safety.path) / REPORT,
            reports(Path(benchmarks.path)),
            model.metadata.get("trained_on", ()),
        )
        version = champion_of(
            ours,
            Path(shards.path),
            theirs,
            registry=here.registry,
            store=here.needed_store,
            known=[Path(known.path), Path(also_known.path)],
            progress=here.progress,
        )
        before = benchmarks_of(version, beside.with_name("measured"), registry=here.registry) if version else []
        evidence = replace(evidence, benchmarks=[*evidence.benchmarks, *before])
        against = theirs if version else None
        made = run(ours, against, Path(verdict.path), policy=held_to, evidence=evidence, store=here.store)
        champion.metadata["version"] = version
        here.keep(verdict, made)
        here.measure(metrics, {f"rise {end}": value for end, value in made.facts["rise"].items()})
        here.show(page, (Path(verdict.path) / PAGE).read_text())
        return bool(made.facts["passed"])
