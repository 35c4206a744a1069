"""The pipeline on this machine: kfp's local runner in a process of its own, and what it tells while it runs.

    python -m instructdiffusion.pipelines.local ORDER.json

Finished steps are kept by content under the folder of the run, so that the same order goes on where one was stopped.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructdiffusion.components.process import Process
from instructdiffusion.model.errors import ConfigError, DataError, InstructDiffusionError, ServiceError
from instructdiffusion.model.files import write_atomic

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"INFO - Executing task '([\w-]+)'$")
ENDED = re.compile(r"(?:INFO|ERROR) - Task '([\w-]+)' finished with status (SUCCESS|FAILURE)$")
RAISED = re.compile(r"([\w.]+(?:Error|Exception)): (.+)$")
NOISE = ("RuntimeError: Task ", "RuntimeError: Pipeline ")  # kfp's echo of a step that failed
POLL = 0.1  # seconds


@dataclass
class Event:
    """What happened to a step."""

    step: str
    kind: str  # started, progress, done or failed
    title: str = ""
    done: int = 0
    total: int = 0
    text: str = ""
    seconds: float = 0.0


Tell = Callable[[Event], None]


@dataclass
class Reading:
    """What is known of a pipeline from its lines so far."""

    step: str = ""
    title: str = ""
    began: float = 0.0
    error: InstructDiffusionError | None = None
    raised: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def events(self, line: str, now: float) -> Iterator[Event]:
        """What one line of the log says."""
        text = COLOUR.sub("", line).strip()
        if found := STARTED.search(text):
            self.step, self.title, self.began, self.raised = found[1], found[1], now, ""
            yield Event(self.step, "started", self.title)
        elif found := ENDED.search(text):
            seconds = round(now - self.began, 2)
            kind = "done" if found[2] == "SUCCESS" else "failed"
            yield Event(self.step, kind, self.title, seconds=seconds)
        elif text.startswith("{") and (told := _document(text)):
            yield from self._told(told)
        elif (found := RAISED.search(text)) and not text.startswith(NOISE):
            self.raised = f"{found[1]}: {found[2]}"[:300]

    def _told(self, told: Mapping[str, Any]) -> Iterator[Event]:
        if "step" in told and isinstance(told["step"], str):
            self.title = told["step"]
            yield Event(self.step, "started", self.title)
        elif "progress" in told:
            done, total, text = int(told["progress"]), int(told["total"]), str(told.get("text", ""))
            yield Event(self.step, "progress", self.title, done, total, text)
        elif "error" in told:
            kind = {e.exit_code: e for e in (ConfigError, DataError, ServiceError)}
            self.error = kind.get(int(told["exit_code"]), InstructDiffusionError)(str(told["error"]))


def run(
    folder: Path,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    tell: Tell,
    version: str = "",
) -> dict[str, Any]:
    """Run the pipeline below `folder` to its end; returns its outputs, artifacts as {"path", "metadata"}.

    Args:
        folder: `steps/` holds artifacts, `cache/` which of them can be used again, `pipeline.log` the log.
        parameters: of the pipeline.
        version: of what the steps use beside their inputs; finished steps of another one are not used again.
        environment: of the steps; names the servers.
        tell: hears what happens, as it happens.

    Raises:
        InstructDiffusionError: what the step that failed said, of the same kind.
        ServiceError: a step failed in another way; the message names it and the log.
    """
    folder = folder.absolute()
    order = {"parameters": dict(parameters), "folder": str(folder), "version": version}
    write_atomic(folder / "order.json", json.dumps(order, indent=1))
    (folder / "outputs.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "instructdiffusion.pipelines.local", str(folder / "order.json")]
    quiet = {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    log_file = folder / "pipeline.log"
    process = Process("pipeline", command, log_file=log_file, environment={**environment, **quiet})
    reading = Reading()
    process.start()
    try:
        for line in _lines(process):
            for event in reading.events(line, time.monotonic()):
                tell(event)
                if event.kind == "failed":  # kfp would go on with whatever does not depend on it
                    raise _failure(reading, process)
    except BaseException:
        # Not so when it ended by itself: the service that it deployed is to live on.
        process.stop()
        raise
    if process.poll() != 0 or not (folder / "outputs.json").is_file():
        process.stop()
        raise _failure(reading, process)
    outputs: dict[str, Any] = json.loads((folder / "outputs.json").read_text())
    return outputs


def _failure(reading: Reading, process: Process) -> InstructDiffusionError:
    """What the step said, or else the last that raised something, with where to read more."""
    if reading.error is not None:
        return reading.error
    reason = reading.raised or process.last_words()
    title = f"step {reading.title}" if reading.title else "the pipeline"
    return ServiceError(f"{title} failed: {reason} (log: {process.log_file}); run the same command again to go on")


def _lines(process: Process) -> Iterator[str]:
    """The log's lines while the process writes them, until it ends."""
    at, rest = 0, b""
    while True:
        ended = process.poll() is not None  # asked before reading, so that no line is missed
        with process.log_file.open("rb") as file:
            file.seek(at)
            new = file.read()
        at += len(new)
        *whole, rest = (rest + new).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
        if ended:
            return
        if not new:
            time.sleep(POLL)


def _document(text: str) -> dict[str, Any] | None:
    try:
        told = json.loads(text)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def main(order: Path) -> None:
    """The process that kfp's runner works in."""
    from kfp import local

    from instructdiffusion.pipelines.graph import end_to_end

    wanted = json.loads(order.read_text())
    folder = Path(wanted["folder"])
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "steps"),
        enable_caching=True,
        cache_root=str(folder / "cache" / wanted["version"]),
    )
    task = end_to_end(**wanted["parameters"])
    write_atomic(folder / "outputs.json", json.dumps({k: _plain(v) for k, v in task.outputs.items()}, indent=1))


def _plain(value: Any) -> Any:
    if hasattr(value, "metadata"):
        return {"path": value.path, "metadata": dict(value.metadata)}
    return value


if __name__ == "__main__":
    main(Path(sys.argv[1]))
