"""Compiled pipelines handed to a server of Kubeflow Pipelines, and followed."""

from __future__ import annotations

import io
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import yaml

from instructdiffusion.model.errors import ConfigError, DataError, ServiceError
from instructdiffusion.model.files import write_atomic
from instructdiffusion.pipelines.parameters import NAMES, checked

log = logging.getLogger(__name__)

TIMEOUT = 15.0  # seconds for the server to say that it is there
PATIENCE = 600.0  # seconds that it may not answer while a run is watched
HELPER = re.compile(r"(-driver|executor|root)(\(\d+\))?$")  # the server's own; each try of one is numbered
OVER = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
TOKEN = "INSTRUCTDIFFUSION_PIPELINES_TOKEN"


class Away(ServiceError):
    """The server does not answer at the moment."""


@dataclass(frozen=True)
class Order:
    """What is to be run."""

    name: str
    file: Path
    arguments: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[str, ...] = ()


def order(name: str, folder: Path, given: Mapping[str, Any]) -> Order:
    """Read a compiled pipeline and check the arguments against it.

    Raises:
        ConfigError: there is no such pipeline, or an argument is wrong.
        DataError: it was not compiled yet, or the file is no pipeline.
    """
    if name not in NAMES:
        raise ConfigError(f"no pipeline {name!r}; choose from {', '.join(NAMES)}")
    file = folder / f"{name}.yaml"
    try:
        spec = next(iter(yaml.safe_load_all(file.read_text())))
        definitions = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is no compiled pipeline ({type(error).__name__}); run: instructdiffusion compile --output {folder}"
        ) from None
    defaults = {key: told["defaultValue"] for key, told in definitions.items() if "defaultValue" in told}
    return Order(name, file, checked(given, definitions), defaults, tuple(sorted(images)))


class Server:
    """Kubeflow Pipelines at an address."""

    def __init__(self, host: str, token: str = "", namespace: str = "") -> None:
        """Make sure that it answers and lets us in.

        Args:
            host: http(s)://host:port, without the path of its API.
            token: of a user or ServiceAccount; empty: none.
            namespace: of a user, on a server that many share; empty: there is one.

        Raises:
            ServiceError: it does not answer, or refuses the token; the message says what to do.
        """
        self.host, self.namespace = host.rstrip("/"), namespace
        _probe(self.host, token)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            import kfp

            self._client = kfp.Client(
                host=self.host, existing_token=token or None, namespace=namespace or "kubeflow", ui_host=self.host
            )

    def submit(
        self, wanted: Order, *, experiment: str = "", run: str = "", account: str = "", fresh: bool = False
    ) -> str:
        """Start a run; returns its id.

        Args:
            wanted: what to run.
            experiment: its name on the server; made where there is none.
            run: name of the run; empty: the pipeline's with the time.
            account: ServiceAccount that the steps run under; empty: the server's default.
            fresh: use nothing that was finished before.

        Raises:
            ServiceError: the server refused it, or is gone.
            DataError: the file is no pipeline.
        """
        from google.protobuf.json_format import ParseError

        try:
            copied = _uncached(wanted.file) if fresh else nullcontext(wanted.file)
            with self._explained(f"start {wanted.name}"), copied as file:
                started = self._client.create_run_from_pipeline_package(
                    str(file),
                    arguments=dict(wanted.arguments),
                    run_name=run or f"{wanted.name} {time.strftime('%Y-%m-%d %H:%M:%S')}",
                    experiment_name=experiment or None,
                    namespace=self.namespace or None,
                    service_account=account or None,
                )
        except ParseError:
            raise DataError(f"{wanted.file} is damaged; run: instructdiffusion compile --output DIR") from None
        return str(started.run_id)

    def address(self, run: str) -> str:
        """Where people look at a run."""
        return f"{self.host}/#/runs/details/{run}"

    def watch(self, run: str, tell: Callable[[str, str], None], poll: float = 5.0, patience: float = PATIENCE) -> str:
        """Follow a run to its end; returns its state, SUCCEEDED.

        Args:
            run: its id.
            tell: hears every change: the step's name (empty: the run itself; of several of one name the second is
                `train 2`) and its state.
            poll: seconds between looks.
            patience: seconds that the server may not answer.

        Raises:
            ServiceError: the run did not succeed; or the server is gone or refuses us, and the run goes on.
        """
        told, names, heard = dict[str, str](), dict[str, str](), time.monotonic()
        while True:
            try:
                with self._explained(f"look at run {run}"):
                    found = self._client.get_run(run)
            except ServiceError as error:
                if not isinstance(error, Away) or time.monotonic() - heard > patience:
                    raise ServiceError(f"{error}; the run goes on, look at it again: {self.address(run)}") from None
                log.warning("%s; asking again", error)
                time.sleep(poll)
                continue
            heard = time.monotonic()
            steps = _states(found, names)
            for name, (state, _) in {**steps, "": (str(found.state or "PENDING"), "")}.items():
                if told.get(name) != state:
                    told[name] = state
                    tell(name, state)
            if told[""] == "SUCCEEDED":
                return told[""]
            if told[""] in OVER:
                raise ServiceError(_failure(run, told[""], steps, found, self.address(run)))
            time.sleep(poll)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """The client's errors as ours; what it prints goes nowhere."""
        import kfp_server_api
        import urllib3

        try:
            with redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            raise _refused(self.host, error.status, _reason(error.body, str(error.reason)), what) from None
        except urllib3.exceptions.HTTPError as error:
            raise _down(self.host, type(error).__name__) from None


@contextmanager
def _uncached(file: Path) -> Iterator[Path]:
    """A copy whose tasks take nothing from the cache; the client's own way reaches only the outermost ones."""
    from instructdiffusion.pipelines.compiling import tasks

    spec, *rest = yaml.safe_load_all(file.read_text())
    for task in tasks(spec):
        task["cachingOptions"] = {}
    with tempfile.TemporaryDirectory() as folder:
        yield write_atomic(Path(folder) / file.name, yaml.safe_dump_all([spec, *rest]))


def _probe(host: str, token: str) -> None:
    """Ask for the server's health: the client itself would try five times before it gives up."""
    import requests

    try:
        answer = requests.get(
            f"{host}/apis/v2beta1/healthz",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT,
        )
    except requests.RequestException as error:
        raise _down(host, type(error).__name__) from None
    if not answer.ok:
        raise _refused(host, answer.status_code, _reason(answer.text, answer.reason), "talk to it")
    if "json" not in answer.headers.get("Content-Type", ""):
        raise ServiceError(f"{host} answers with a page to log in, or is no Kubeflow Pipelines; set {TOKEN}, or --host")


def _down(host: str, why: str) -> Away:
    return Away(
        f"{host} does not answer ({why}); check --host, or run: "
        "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"
    )


def _refused(host: str, status: int | None, reason: str, what: str) -> ServiceError:
    if status in (401, 403):
        return ServiceError(f"{host} does not let us {what} ({status}): set {TOKEN} to a valid token")
    passing = status is None or status == 429 or status >= 500
    return (Away if passing else ServiceError)(f"{host} can't {what} ({status}): {reason}")


def _reason(body: Any, otherwise: str) -> str:
    """What the server said, in one line."""
    try:
        document = yaml.safe_load(body)  # JSON is YAML
        text = str(document.get("message") or document.get("error") or otherwise)
    except (yaml.YAMLError, AttributeError):
        text = otherwise
    return " ".join(text.split())[:300]


def _states(run: Any, names: dict[str, str]) -> dict[str, tuple[str, str]]:
    """State and error of every step that the server tells of, by its name; the server's own helpers are left out.

    Several steps may have one name: `names` keeps by the server's id what each is told as.
    """
    details = (run.run_details.task_details if run.run_details else None) or ()
    found = {}
    for task in details:
        if task.display_name and task.state and not HELPER.search(task.display_name):
            name = names.setdefault(task.task_id, _unused(task.display_name, names.values()))
            found[name] = (str(task.state), str(task.error.message) if task.error else "")
    return found


def _unused(name: str, used: Collection[str]) -> str:
    """The name; with a number where it is used, as in `train 2`."""
    return next(one for one in chain([name], (f"{name} {number}" for number in count(2))) if one not in used)


def _failure(run: str, state: str, steps: Mapping[str, tuple[str, str]], found: Any, address: str) -> str:
    failed = [f"step {name}: {error or state}" for name, (state, error) in steps.items() if state == "FAILED"]
    why = "; ".join(failed) or (str(found.error.message) if found.error else "no step says why")
    return f"run {run} ended as {state}: {why}; its summary says more: {address}"
