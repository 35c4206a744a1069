"""What the body of a step needs from around it: store, tracker, someone to tell how far it is.

A step tells on its standard output, one JSON document a line, as a training does. Nothing here imports kfp: steps run
where pipelines can't be defined.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from instructdiffusion.components.away import version
from instructdiffusion.components.policy import Policy
from instructdiffusion.components.registry import Registry
from instructdiffusion.components.settings import Settings
from instructdiffusion.components.step import Made
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tracking import TrackedRun, Tracker
from instructdiffusion.model.errors import ConfigError, InstructDiffusionError, from_system
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.startup import ADAPTERS, collect_seldom, hidden

log = logging.getLogger(__name__)


@contextmanager
def inside(title: str) -> Iterator[Surroundings]:
    """The surroundings of a step, which is announced under `title`.

    An error of ours is told as `{"error": ..., "exit_code": ...}` and ends the process with that code, so that
    whoever runs the pipeline can show the line alone. On a cluster the step leaves a record for the run's summary.
    """
    collect_seldom()  # what steps import lives as long as they do
    say({"step": title})
    here, began = Surroundings(), time.time()
    try:
        here.use_gpus()
        with hidden(*ADAPTERS):  # a training has processes of its own
            yield here
    except (InstructDiffusionError, OSError) as error:
        told = from_system(error) if isinstance(error, OSError) else error
        say({"error": str(told), "exit_code": told.exit_code})
        here.record(title, began, str(told))
        raise SystemExit(told.exit_code) from None
    except BaseException as error:  # Ctrl-C and SIGTERM too
        here.record(title, began, f"{type(error).__name__}: {error}")
        raise
    here.record(title, began)


class Surroundings:
    """Store and tracker as the environment names them; a step works without either."""

    @cached_property
    def settings(self) -> Settings:
        """Read from the environment."""
        return Settings.from_environment(needs=())

    @cached_property
    def store(self) -> Store | None:
        """Where artifacts are uploaded; None: nowhere."""
        return Store.open(self.settings) if self.settings.store_endpoint else None

    @property
    def needed_store(self) -> Store:
        """The store; ConfigError where none is set."""
        return Store.open(self.settings)

    @cached_property
    def registry(self) -> Registry:
        """The model registry; ConfigError where none is set."""
        return Registry.open(self.settings)

    def tracked(self, name: str, key: str) -> AbstractContextManager[TrackedRun | None]:
        """The tracker's run of that key, made under `name` where there is none yet; None without a tracker."""
        if not self.settings.tracking_uri:
            return nullcontext()
        return Tracker.open(self.settings).open_run(name, key=key)

    def needed_run(self, name: str, key: str) -> AbstractContextManager[TrackedRun]:
        """The same; ConfigError without a tracker."""
        return Tracker.open(self.settings).open_run(name, key=key)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Tell how far the step is."""
        say({"progress": done, "total": total, "text": text})

    def keep(self, artifact: Any, made: Made, **more: str | int | float | list[str]) -> None:
        """Write on an artifact what it is: its digest makes a step that reads it run again when it changes."""
        artifact.metadata.update({"digest": made.digest, "uri": made.uri, **more})

    def measure(self, metrics: Any, figures: Mapping[str, float]) -> None:
        """Write figures into an artifact of metrics, and into its file: a local cache takes back no step without."""
        for name, value in figures.items():
            metrics.log_metric(name, value)
        write_atomic(Path(metrics.path), json.dumps(dict(figures), indent=1))

    def use_gpus(self) -> None:
        """Make sure that a step which was given GPUs can use them, rather than be slow beside them.

        Raises:
            ConfigError: it was given some, and its PyTorch finds none.
        """
        if not self.settings.gpus:
            return
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                f"PyTorch {torch.__version__} finds none of the GPUs ({self.settings.gpus}) that this step was given: "
                "build its image with --build-arg TORCH_INDEX=https://pypi.org/simple, or compile with gpus=0"
            )

    def folder(self, source: str, copy: Path) -> Path:
        """A folder of this machine, or one of the store (s3://...), which is downloaded to `copy`."""
        return self.needed_store.get_directory(source, copy) if source.startswith("s3://") else Path(source)

    def kept_folder(self, source: str, work: Path) -> Path:
        """The same, downloaded below `work` once for all steps that read it."""
        return self.folder(source, work / "sources" / hashlib.sha256(source.encode()).hexdigest()[:12])

    def version(self, source: str) -> AbstractContextManager[Path]:
        """A folder with a data set's manifest; of one in the store (s3://...) it holds nothing else."""
        return version(source, lambda: self.needed_store)

    def policy(self, source: str, beside: Path) -> Policy:
        """The gate's policy: a file, or one of the store, downloaded beside a step's output; empty: the default.

        Raises:
            ConfigError: it can't be read, or a field is wrong.
        """
        if not source:
            return Policy()
        return Policy.load(self.file(source, beside.with_name("policy.yaml")))

    def file(self, source: str, copy: Path) -> Path:
        """A file of this machine, or one of the store (s3://...), which is downloaded to `copy`."""
        return self.needed_store.get_file(source, copy) if source.startswith("s3://") else Path(source)

    def show(self, artifact: Any, page: str) -> None:
        """Write what the pipeline's own pages show of this step."""
        write_atomic(Path(artifact.path), page)

    @property
    def records(self) -> Path | None:
        """Where the steps of this run leave their records; None: nowhere, as on one machine."""
        settings = self.settings
        return Path(settings.records) / settings.run_id if settings.records and settings.run_id else None

    def record(self, title: str, began: float, error: str = "") -> None:
        """Leave for the summary how the step went; that a record can't be written fails no step."""
        try:
            if (folder := self.records) is not None:
                record = {"step": title, "began": began, "seconds": round(time.time() - began, 1), "error": error}
                write_atomic(folder / f"{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}.json", json.dumps(record))
        except (OSError, InstructDiffusionError) as problem:
            log.warning("the step left no record for the run's summary: %s", problem)

    def keep_file(self, artifact: Any, content: Mapping[str, Any]) -> None:
        """Write a JSON document as an artifact of one file."""
        path = Path(artifact.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
        artifact.metadata["digest"] = digest_of(path)


def folder_for(work: Path, name: str, inputs: Sequence[str]) -> Path:
    """Where a job of these inputs works: the same folder when it is started again."""
    digest = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:12]
    return work / "jobs" / f"{name}-{digest}"


def copy(source: Path, artifact: Any) -> Path:
    """Copy a folder or a file to where an artifact belongs."""
    target = Path(artifact.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
    return target


def say(document: Mapping[str, Any]) -> None:
    """One line on the standard output."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
