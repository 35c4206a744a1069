"""Runs in MLflow: parameters, metrics, pictures, artifacts, data sets.

Only calls of `MlflowClient` are made, so the small `mlflow-skinny` is enough here.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from instructdiffusion.components.settings import Settings
from instructdiffusion.model.errors import ConfigError, DataError, InstructDiffusionError, ServiceError

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

KEY = "instructdiffusion.key"  # tag by which a retry finds the run that the first try opened
BATCH = 1000  # metrics in one request: the server's limit
PARAMS = 100  # parameters in one request: the server's limit
QUICK = {  # a tracker that is down costs seconds, not MLflow's default of minutes; a user's own values win
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Tracker:
    """One experiment of one MLflow server."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Connect lazily.

        Args:
            uri: http(s) address of the server.
            experiment: its runs live here; made on first use.
        """
        self.uri, self.experiment = uri, experiment
        self.client = connect(uri)

    @classmethod
    def open(cls, settings: Settings) -> Tracker:
        """The tracker that the settings name; ConfigError if they name none."""
        if not settings.tracking_uri:
            raise ConfigError("no tracker is set; set MLFLOW_TRACKING_URI, as in http://127.0.0.1:5000")
        return cls(settings.tracking_uri, settings.experiment)

    def open_run(self, name: str, *, key: str = "", tags: Mapping[str, str] | None = None) -> TrackedRun:
        """Open a run, or resume the one with the same `key`.

        Where the pipeline engine has opened a run for this task (`MLFLOW_RUN_ID`), that one is joined.

        Raises:
            ServiceError: the server does not answer.
        """
        with explained(self.uri):
            run_id = os.environ.get("MLFLOW_RUN_ID") or self._find(key)
            if run_id:
                self.client.update_run(run_id, status="RUNNING")
            else:
                marked = {**(tags or {}), **({KEY: key} if key else {})}
                run_id = str(self.client.create_run(self._experiment(), run_name=name, tags=marked).info.run_id)
        return TrackedRun(self.client, self.uri, run_id)

    def _experiment(self) -> str:
        from mlflow.exceptions import RestException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(self.experiment))
        except RestException:  # another step made it just now
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    def _find(self, key: str) -> str:
        if not key:
            return ""
        found = self.client.search_runs([self._experiment()], f"tags.`{KEY}` = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else ""


class TrackedRun:
    """One open run. As a context it ends as FINISHED, FAILED or, on Ctrl-C, KILLED."""

    def __init__(self, client: MlflowClient, uri: str, run_id: str) -> None:
        """`client` speaks to the server at `uri`, where the run `run_id` exists."""
        self.client, self.uri, self.run_id = client, uri, run_id

    def environment(self) -> dict[str, str]:
        """The variables by which another process writes into this run; credentials are not among them."""
        address = {} if shown(self.uri) != self.uri else {"MLFLOW_TRACKING_URI": self.uri}
        handed_on = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_WORKSPACE")  # of the run that the pipeline engine opened
        return {**address, "MLFLOW_RUN_ID": self.run_id, **{n: os.environ[n] for n in handed_on if n in os.environ}}

    def params(self, values: Mapping[str, Any]) -> None:
        """Write parameters; nested ones get dotted names. A written value can't change: MLflow's rule."""
        from mlflow.entities import Param

        flat = [Param(k, str(v)[:6000]) for k, v in _flat(values)]
        with explained(self.uri):
            for start in range(0, len(flat), PARAMS):
                self.client.log_batch(self.run_id, params=flat[start : start + PARAMS])

    def tags(self, values: Mapping[str, str]) -> None:
        """Write tags, over the old ones."""
        with explained(self.uri):
            for key, value in values.items():
                self.client.set_tag(self.run_id, key, value)

    def metrics(self, values: Mapping[str, float], step: int, *, model: str = "") -> None:
        """Write several metrics of one step; `model` is the id of the logged model that they are of."""
        self.send(points(values, step, model))

    def model(self, name: str, *, digest: str, params: Mapping[str, str]) -> str:
        """The logged model of these weights, made once and with its signature; returns its id.

        Args:
            name: what people call it.
            digest: `sha256:...` of the weights.
            params: shown with it.
        """
        with explained(self.uri):
            experiment = self.client.get_run(self.run_id).info.experiment_id
            known = self.client.search_logged_models([experiment], f"tags.`{KEY}` = '{digest}'", max_results=1)
            if known:
                return str(known[0].model_id)
            made = self.client.create_logged_model(experiment, name, self.run_id, {KEY: digest}, dict(params))
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "MLmodel").write_text(_signed(str(made.model_id), self.run_id))
                self.client.log_model_artifacts(made.model_id, folder)
            self.client.finalize_logged_model(made.model_id, "READY")
        return str(made.model_id)

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write a table as the artifact `name.json`; pictures (uint8 HxWx3) stand in it side by side."""
        import mlflow
        import numpy as np

        shown = {
            column: [mlflow.Image(cell) if isinstance(cell, np.ndarray) else cell for cell in cells]
            for column, cells in columns.items()
        }
        with explained(self.uri):
            self.client.log_table(self.run_id, shown, f"{name}.json")

    def send(self, metrics: list[Metric]) -> None:
        """Write metrics of any steps, as many requests as the server's limit needs."""
        with explained(self.uri):
            for start in range(0, len(metrics), BATCH):
                self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])

    def image(self, name: str, picture: NDArray[np.uint8], step: int | None = None) -> None:
        """Write a picture, uint8 HxWx3: the artifact `name.png`, or with a step a frame of a series."""
        with explained(self.uri):
            if step is None:
                self.client.log_image(self.run_id, picture, artifact_file=f"{name}.png")
            else:
                self.client.log_image(self.run_id, picture, key=name, step=step, synchronous=True)

    def artifacts(self, path: Path, folder: str = "") -> None:
        """Upload a file or a folder's content below `folder`."""
        if not path.exists():
            raise DataError(f"{path} does not exist; nothing to upload to the tracker")
        with explained(self.uri):
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), folder or None)
            else:
                self.client.log_artifact(self.run_id, str(path), folder or None)

    def page(self, name: str, html: str) -> None:
        """Write a page as the artifact `name`, which MLflow shows as a page where it ends in .html."""
        with explained(self.uri):
            self.client.log_text(self.run_id, html, name)

    def document(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON document as the artifact `name`."""
        with explained(self.uri):
            self.client.log_dict(self.run_id, dict(content), name)

    def dataset(self, name: str, *, digest: str, source: str, context: str, counts: Mapping[str, int]) -> None:
        """Record a data set as this run's input.

        Args:
            name: what people call it.
            digest: `sha256:...` of its content; MLflow shows 32 of its characters, the profile keeps all.
            source: where it lies, an s3 URI or a path.
            context: `training` or `evaluation`.
            counts: triplets by task.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=name,
            digest=digest.removeprefix("sha256:")[:32],
            source_type="s3" if source.startswith("s3://") else "local",
            source=json.dumps({"uri": source}),
            profile=json.dumps({"digest": digest, "counts": dict(counts)}),
        )
        with explained(self.uri):
            tags = [InputTag("mlflow.data.context", context)]
            self.client.log_inputs(self.run_id, [DatasetInput(entity, tags)])

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        with explained(self.uri):
            self.client.set_terminated(self.run_id, status)

    def __enter__(self) -> TrackedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        try:
            self.finish(status)
        except ServiceError as outage:  # the work is done: an open run in the tracker is the lesser harm
            log.warning("run %s stays open: %s", self.run_id, outage)


def connect(uri: str) -> MlflowClient:
    """A client of the server at `uri` that gives up within seconds when it is down."""
    hurry()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def hurry() -> None:
    """Let all clients of MLflow in this process give up within seconds."""
    for name, value in QUICK.items():
        os.environ.setdefault(name, value)  # MLflow reads these at each request


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into a ServiceError of one line, without credentials that the address may hold."""
    import requests
    from mlflow.exceptions import MlflowException, RestException

    try:
        yield
    except InstructDiffusionError:
        raise
    except RestException as error:
        reason = str(error).splitlines()[0][:300]
        raise ServiceError(f"the tracker at {shown(uri)} refused: {shown(reason)}; see its log") from None
    except (MlflowException, requests.RequestException, ConnectionError, TimeoutError) as error:
        text = str(error)
        if found := re.search(r"error code (\d{3})", text):
            raise ServiceError(
                f"the tracker at {shown(uri)} answered {found[1]}; "
                "check MLFLOW_TRACKING_URI, its credentials and the server's --allowed-hosts"
            ) from None
        raise ServiceError(
            f"no answer from the tracker at {shown(uri)}; start it, or set MLFLOW_TRACKING_URI"
        ) from None


def shown(text: str) -> str:
    """A text without the credentials an address in it may hold."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def points(values: Mapping[str, float], step: int, model: str = "") -> list[Metric]:
    """Metrics of one step, as of now; of a logged model where its id is given."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step, model_id=model or None) for name, value in values.items()]


def _signed(model_id: str, run_id: str) -> str:
    """The MLmodel file that tells what goes in and what comes out, as the service has it."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    asked = Schema([ColSpec(DataType.binary, "image"), ColSpec(DataType.string, "instruction")])
    made = ModelSignature(inputs=asked, outputs=Schema([ColSpec(DataType.binary, "picture")]))
    return str(Model(signature=made, run_id=run_id, model_id=model_id).to_yaml())


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
