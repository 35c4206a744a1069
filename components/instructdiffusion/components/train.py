"""Step: train under torchrun from a TrainJob object, started here or by a cluster.

The training tells its progress as JSON lines on rank 0's standard output:

    {"progress": 3, "total": 10, "text": "loss 0.12"}       shown with the time left
    {"metrics": {"loss": 0.12}, "step": 3}                  written to the tracker
    {"image": "samples", "path": "/.../x.png", "step": 3}   likewise
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from instructdiffusion.components import cluster, launcher
from instructdiffusion.components.away import version
from instructdiffusion.components.keeper import Keeper
from instructdiffusion.components.settings import Settings, Training
from instructdiffusion.components.step import data_digest, read_mark
from instructdiffusion.components.storage import Store
from instructdiffusion.components.trainjob import FromSecret, train_job
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import atomic_directory, digest_of, write_atomic
from instructdiffusion.model.inputs import INPUTS, RUN, inputs
from instructdiffusion.model.latest import marks
from instructdiffusion.model.weights import model_digest

if TYPE_CHECKING:
    from instructdiffusion.components.tracking import TrackedRun
    from instructdiffusion.model.report import Reporter

log = logging.getLogger(__name__)

DONE = "DONE"  # written last: what the training was made from, and the digest of what it made
CHECKPOINTS = "checkpoints"
TRAINED_ON = "data/training"  # among the run's artifacts: the manifest of its data
COPIES = "inputs"  # where nodes of a cluster find data and model: on the volume that they share with this step


def run(
    recipe: BaseModel,
    data: Path | str,
    out: Path,
    *,
    model: Path | None = None,
    name: str = "train",
    nodes: int | None = None,
    processes_per_node: int | None = None,
    env: Mapping[str, str | FromSecret] | None = None,
    settings: Settings | None = None,
    report: Reporter | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Path:
    """Train and return the folder of the finished weights; what is finished is not trained again.

    A training that was cut off goes on, on any number of ranks; one whose processes are killed is launched again.
    Another run, data or start begins anew in `out`. The settings say whether the TrainJob is started here or by a
    cluster, `out` being on a volume that its nodes share, and whether the store keeps its checkpoints.

    Args:
        recipe: the run's configuration (`instructdiffusion.model.config.Run`).
        data: folder of latents or shards with their manifest, or its `s3://` address: shards then come from the store
            as they are drawn, to wherever the training runs.
        out: the training's folder: `run.json`, `job.json`, `logs/`, checkpoints, the weights, `DONE`.
        model: folder of the model to start from; None: the embedded base.
        name: of the job.
        nodes, processes_per_node: how many torchrun nodes, and ranks in each; None: as the settings say.
        env: variables of the training.
        settings: where and on what to train; None: those of the environment.
        report: gets progress, metrics and pictures as they come.
        on_line: gets the other lines of rank 0.

    Raises:
        ServiceError: a rank failed, or was killed too often; the same call resumes from the last checkpoint. Or the
            store, which may have checkpoints, does not answer, and there is none here.
        DataError: the training ended without weights; data or model are not there.
        ConfigError: the data is in a store and none is set.
    """
    settings = settings or Settings.from_environment(needs=())
    out = out.absolute()  # a node starts in a folder of its own
    asked = settings.training
    nodes, processes = nodes or asked.nodes, processes_per_node or asked.processes
    with version(data, partial(Store.open, settings)) as folder:
        digest = data_digest(folder)
    given = inputs(recipe, digest, model_digest(model))
    if _is_done(out, given):
        log.info("%s is trained already", out)
        return finished(out)
    _begin(out, given)
    write_atomic(out / RUN, recipe.model_dump_json(indent=1))
    remote = settings.backend == "cluster"
    here = _shared(out, data, model) if remote else (data, model)
    job = _job(job_name(name, given), _command(out, *here), nodes, processes, env, asked)
    write_atomic(out / "job.json", json.dumps(job, indent=1))
    hears: Any = {"logs": out / "logs", "on_line": on_line, "on_event": None if report is None else relay(report)}
    if remote:
        hears |= {"namespace": asked.namespace, "made": lambda: (out / "training.json").is_file()}
    with _kept(settings, job["metadata"]["name"], out / CHECKPOINTS):
        _launch_until_done(partial(cluster.launch if remote else launcher.launch, job, **hears), asked.launches, out)
    weights = finished(out)
    write_atomic(out / DONE, json.dumps({"inputs": given, "digest": digest_of(weights)}, indent=1))
    shutil.rmtree(out / COPIES, ignore_errors=True)
    return weights


def track(tracked: TrackedRun, data: Path, name: str, source: str) -> None:
    """Tell a tracker what is trained on: the data set as the run's input, and its manifest with the licences.

    Args:
        tracked: the training's run.
        data: folder with the manifest.
        name: of the data set.
        source: where it lies, an s3 URI or a path.
    """
    from instructdiffusion.model.data.shards import Manifest

    counts = Manifest.load(data).counts
    tracked.dataset(name, digest=data_digest(data), source=source, context="training", counts=counts)
    tracked.artifacts(data / "manifest.json", TRAINED_ON)


def finished(out: Path) -> Path:
    """The weights of a training that came to its end; DataError if it did not."""
    if not (out / "training.json").is_file() or not (out / "model").is_dir():
        raise DataError(f"the training in {out} did not come to its end; run the train step again")
    return out / "model"


def relay(report: Reporter) -> Callable[[dict[str, Any]], None]:
    """What hands a training's events on to a reporter; an event of another shape is logged and dropped."""

    def hand_on(event: dict[str, Any]) -> None:
        try:
            if "progress" in event:
                report.progress(int(event["progress"]), int(event["total"]), str(event.get("text", "")))
            elif "metrics" in event:
                values = {str(k): float(v) for k, v in event["metrics"].items()}
                report.metrics(values, int(event["step"]))
            elif "image" in event:
                report.image(str(event["image"]), Path(event["path"]), int(event["step"]))
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            log.warning("an event of the training can't be read (%s): %s", error, str(event)[:200])

    return hand_on


def _launch_until_done(launch: Callable[[], None], launches: int, out: Path) -> None:
    """Launch again what was killed, as long as it gets from checkpoint to checkpoint."""
    left, step = launches, _saved(out)
    while True:
        try:
            return launch()
        except launcher.Killed as error:
            left, step = (left - 1 if _saved(out) == step else launches), _saved(out)
            if not left:
                raise
            log.warning("%s; it goes on from step %d", error, step)


def _saved(out: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    return max((mark["step"] for mark in marks(out / CHECKPOINTS)), default=0)


def _kept(settings: Settings, name: str, folder: Path) -> AbstractContextManager[None]:
    """What keeps the checkpoints in the store, if it shall; those that lack on the disk are brought from there."""
    if not (settings.training.checkpoints and settings.store_endpoint):
        return nullcontext()
    last, every = settings.training.checkpoints, settings.training.checkpoints_every
    keeper = Keeper(Store.open(settings), f"{CHECKPOINTS}/{name}", folder, last=last, every=every)
    keeper.fetch()
    return keeper.keeping()


def job_name(name: str, inputs: Mapping[str, Any]) -> str:
    """A job's name: the same for the same inputs, so that a retry finds the job the first try made."""
    short = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:10]
    return f"{short if short[:1].isalpha() else 'train'}-{digest}"


def _job(
    name: str,
    command: list[str],
    nodes: int,
    processes: int,
    env: Mapping[str, str | FromSecret] | None,
    asked: Training,
) -> dict[str, Any]:
    return train_job(
        name,
        command,
        nodes=nodes,
        processes_per_node=processes,
        image=asked.image,
        env=env,
        resources=asked.resources,
        runtime=asked.runtime,
        queue=asked.queue,
        tolerations=asked.tolerations,
        node_selector=asked.node_selector,
        spot=asked.spot,
        network=asked.network,
    )


def _shared(out: Path, data: Path | str, model: Path | None) -> tuple[Path | str, Path | None]:
    """Copies of data and model under `out`: where they are, only this step's pod can read them; what is in the store
    stays there.
    """

    def copied(folder: Path, name: str) -> Path:
        target = out / COPIES / name
        if not target.is_dir():  # whole or not there
            with atomic_directory(target) as new:
                shutil.copytree(folder, new, dirs_exist_ok=True)
        return target

    return copied(data, "data") if isinstance(data, Path) else data, None if model is None else copied(model, "model")


def _command(out: Path, data: Path | str, model: Path | None) -> list[str]:
    command = ["python", "-m", "instructdiffusion.components.training_node"]
    command += ["--run", str(out / RUN), "--data", str(data), "--out", str(out)]
    return command if model is None else [*command, "--model", str(model)]


def _begin(out: Path, inputs: Mapping[str, Any]) -> None:
    """Make the folder this training's own: of another, the checkpoints would be resumed."""
    known = read_mark(out / INPUTS)
    if (known and known != inputs) or (out / DONE).exists():  # no longer whole
        log.info("%s holds another training or a damaged one, which is replaced", out)
        shutil.rmtree(out)
    write_atomic(out / INPUTS, json.dumps(inputs, indent=1))


def _is_done(out: Path, inputs: Mapping[str, Any]) -> bool:
    known = read_mark(out / DONE)
    if known.get("inputs") != inputs or not (out / "model").is_dir():
        return False
    return bool(known.get("digest") == digest_of(out / "model"))
