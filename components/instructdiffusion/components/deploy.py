"""Deploy: serve a Bento on a local port; it outlives the step that started it.

What runs is written to `home/serving.json`: a rerun finds it, a new version replaces it, `stop` ends it.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from instructdiffusion.components.process import LOOPBACK, claim_port, exit_words, last_words
from instructdiffusion.model.errors import ServiceError
from instructdiffusion.model.files import write_atomic

RETRIES = 2  # Bento starts a worker that failed again, without end


class Deployment(BaseModel):
    """A service that runs: where it answers, and the process it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str  # http://host:port
    pid: int
    started: float  # when the process started; with the pid it names the process for good
    tag: str
    seconds: float  # until the weights were loaded


def run(tag: str, home: Path, port: int = 0, timeout: float = 180.0) -> Deployment:
    """Serve the Bento `tag` on 127.0.0.1 and wait until its weights are loaded.

    A service of the same Bento that runs already is kept. One of another Bento is stopped: after the new one
    is ready, or before it starts where both need the same port.

    Args:
        tag: of a Bento that `package` made under `home`.
        home: folder of Bento's stores; the log goes to `home/serving-PORT.log`.
        port: where to listen; 0: any free port.
        timeout: seconds to wait.

    Raises:
        ConfigError: there is no such Bento.
        DataError: its weights are damaged.
        ServiceError: the port is in use, or the service did not start, with the last line of its log.
    """
    from instructdiffusion.serving.bento import check
    from instructdiffusion.serving.client import Client

    check(tag, home)
    old = current(home)
    if old:
        with Client(old.address) as client:
            if old.tag == tag and client.ready() and (port == 0 or old.address.endswith(f":{port}")):
                return old
        if old.address.endswith(f":{port}"):
            stop(home)
            old = None
    new = _start(tag, home, claim_port(port, "INSTRUCTDIFFUSION_SERVING_PORT", "the service"), timeout)
    write_atomic(home / "serving.json", new.model_dump_json(indent=2))
    if old:
        _end(old)
    return new


def current(home: Path) -> Deployment | None:
    """The service that `run` started under `home`, while its process lives."""
    try:
        deployment = Deployment.model_validate_json((home / "serving.json").read_bytes())
    except (OSError, ValidationError):
        return None
    return deployment if _started(deployment.pid) == deployment.started else None


def stop(home: Path) -> None:
    """End the service that `run` started under `home`; nothing happens when there is none."""
    if deployment := current(home):
        _end(deployment)
    (home / "serving.json").unlink(missing_ok=True)


def _start(tag: str, home: Path, port: int, timeout: float) -> Deployment:
    from instructdiffusion.serving.bento import environment, serve_command

    log_file, begin = home / f"serving-{port}.log", time.monotonic()
    with log_file.open("wb") as output:
        child = subprocess.Popen(
            serve_command(tag, port, LOOPBACK),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(home),
            cwd=home,
            start_new_session=True,
        )
    address = f"http://{LOOPBACK}:{port}"
    deployment = Deployment(address=address, pid=child.pid, started=_started(child.pid), tag=tag, seconds=0)
    try:
        _wait(child, deployment, log_file, timeout)
    except BaseException:  # Ctrl-C too: a service nobody knows of would keep its port
        _end(deployment)
        raise
    return deployment.model_copy(update={"seconds": round(time.monotonic() - begin, 2)})


def _wait(child: subprocess.Popen[bytes], deployment: Deployment, log_file: Path, timeout: float) -> None:
    from instructdiffusion.serving.client import Client

    until, workers, name = time.monotonic() + timeout, set[int](), f"the service of {deployment.tag}"
    with Client(deployment.address) as client:
        while not client.ready():
            workers |= _children(child.pid)
            if (code := child.poll()) is not None:
                raise ServiceError(f"{name} ended with {exit_words(code)}: {_why(log_file)}")
            if len(workers) > RETRIES:
                raise ServiceError(f"{name} can't load its model: {_why(log_file)}")
            if time.monotonic() > until:
                raise ServiceError(f"{name} was not ready in {timeout:g} s: {_why(log_file)}")
            time.sleep(0.1)


def _children(pid: int) -> set[int]:
    import psutil

    try:
        return {child.pid for child in psutil.Process(pid).children()}
    except psutil.NoSuchProcess:
        return set()


def _why(log_file: Path) -> str:
    return f"{last_words(log_file) or 'it wrote no log'} (log: {log_file})"


def _started(pid: int) -> float:
    """When the process started, in seconds since 1970; 0 if there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return 0.0


def _end(deployment: Deployment, grace: float = 10.0) -> None:
    """SIGTERM, so that requests at work are answered; SIGKILL to all of its session after the grace."""
    import psutil

    if _started(deployment.pid) != deployment.started:
        return
    process = psutil.Process(deployment.pid)
    family = [process, *process.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=grace)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=grace)
