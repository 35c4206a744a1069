"""Steps that put a model into service. Each reads the state of a service, or changes it.

A step's body is all that is shipped with it: it imports what it needs and calls one function of its component.
"""

from kfp import dsl

from instructdiffusion.pipelines.data_steps import step


@step
def seat(model: dsl.Input[dsl.Model], evaluation: dsl.Input[dsl.Artifact], page: dsl.Output[dsl.HTML]) -> str:
    """Make a model the first champion; where there is one already nothing changes.

    Args:
        model: that the run starts from.
        evaluation: its scores.
        page: who the champion is.

    Returns:
        The champion's version.
    """
    from pathlib import Path

    from instructdiffusion.components.promote import seat
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    name, key, source = model.metadata["name"], model.metadata["key"], model.metadata["uri"]
    with inside("seat the first champion") as here, here.needed_run(name, key=key) as tracked:
        version = seat(Path(model.path), source, Path(evaluation.path), registry=here.registry, tracked=tracked)
        here.show(page, pages.page("the champion", {"registry": here.registry.model, "version": version}))
        return version


@step
def promote(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Register a model with its verdict; one that passed becomes the champion.

    Args:
        model: to register.
        evaluation: its scores.
        verdict: of the gate.
        page: what was registered, and who the champion is.

    Returns:
        The champion's version from now on; empty where no model was good enough yet.
    """
    from pathlib import Path

    from instructdiffusion.components.promote import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside(f"promote ({model.metadata['name']})") as here:
        with here.needed_run(model.metadata["name"], key=model.metadata["key"]) as tracked:
            promoted = run(
                Path(model.path),
                model.metadata["uri"],
                Path(evaluation.path),
                Path(verdict.path),
                registry=here.registry,
                tracked=tracked,
            )
        about = {"model": model.metadata["name"], "weights": model.metadata["uri"], **promoted}
        here.show(page, pages.page(f"promote ({model.metadata['name']})", about))
        return promoted["champion"]


@step
def package(version: str, work: str, page: dsl.Output[dsl.HTML]) -> str:
    """Make a Bento of a registered version.

    On a cluster none is made: KServe mounts the weights into the runtime's own image, and a release that is promoted
    already must not fail for an archive that nothing serves.

    Args:
        version: its number in the registry, as callers will see it.
        work: folder below which the weights and Bento's stores lie.
        page: which Bento.

    Returns:
        The Bento's tag; empty where KServe serves the weights themselves.
    """
    from pathlib import Path

    from instructdiffusion.components.champion import fetched
    from instructdiffusion.components.package import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside("package") as here:
        if here.settings.backend == "cluster":
            told = "No Bento is made: KServe mounts the version's weights into the image of the serving runtime."
            here.show(page, pages.page("package", {"version": version}, notes=[told]))
            return ""
        found = here.registry.version(version)
        model = fetched(found, Path(work) / "releases" / version, here.needed_store)
        facts = {"model": here.registry.model, "run_id": found.run_id}
        made = run(model, version, Path(work) / "bento", facts)
        here.show(page, pages.page("package", {**made, **facts}))
        return made["tag"]


@step
def deploy(tag: str, work: str, port: int, page: dsl.Output[dsl.HTML]) -> str:
    """Serve a Bento, in place of the one that was served before.

    On a cluster the alias `champion` is what decides: the reconciler makes the service equal to it, and this step
    only says so.

    Args:
        tag: of the Bento; empty on a cluster.
        work: folder below which Bento's stores lie.
        port: where it listens; 0: any free port.
        page: where it answers.

    Returns:
        The address of the service; empty where the reconciler deploys.
    """
    from pathlib import Path

    from instructdiffusion.components.deploy import run
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import inside

    with inside("deploy") as here:
        if here.settings.backend == "cluster":
            told = "The alias champion is moved; the reconciler makes the InferenceService equal to it."
            here.show(page, pages.page("deploy", notes=[told]))
            return ""
        deployment = run(tag, Path(work) / "bento", port)
        here.show(page, pages.page("deploy", {"bento": tag, "address": deployment.address}))
        return deployment.address


@step
def summarize(pipeline: str, status: dsl.PipelineTaskFinalStatus, page: dsl.Output[dsl.HTML]) -> None:
    """Say how a run went, whether or not it came to its end: every step, its time, what failed and what to do.

    Args:
        pipeline: its name.
        status: how it ended.
        page: the summary.
    """
    from instructdiffusion.pipelines import pages
    from instructdiffusion.pipelines.inside import Surroundings
    from instructdiffusion.pipelines.summary import summary

    here = Surroundings()
    here.show(page, pages.page(**summary(pipeline, status.state, status.error_message or "", here)))
