"""Data sets in the store, read while they are there: a shard comes when it is needed, and outages are waited for."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from instructdiffusion.components.settings import Settings
from instructdiffusion.components.storage import Store, Unanswered
from instructdiffusion.model.addresses import S3

if TYPE_CHECKING:
    from instructdiffusion.model.data.away import Away

log = logging.getLogger(__name__)

LONGEST = 15.0  # seconds between two tries


def reach(address: str) -> Path | Away:
    """A data set as a training reads it: in a folder, or in the store of the environment's settings.

    Raises:
        ConfigError: it is in a store and none is set.
    """
    if not address.startswith(S3):
        return Path(address)
    return away(address, Settings.from_environment(needs=["store"]))


def away(address: str, settings: Settings) -> Away:
    """A data set of the store; some of its shards are kept among this machine's temporary files.

    Their place derives from the address: whoever reads the same data set here shares it, and a training that goes on
    finds what it had.

    Raises:
        ConfigError: no store is set.
    """
    from instructdiffusion.model.data.away import Away

    short = hashlib.sha256(address.encode()).hexdigest()[:12]
    cache = Path(tempfile.gettempdir()) / f"instructdiffusion-{short}"
    return Away(address, partial(fetch, Store.open(settings), address), cache, settings.store_cache * 2**30)


@contextmanager
def version(data: Path | str, store: Callable[[], Store]) -> Iterator[Path]:
    """A folder with a data set's manifest, within the block; of one at an `s3://` address it holds nothing else."""
    if isinstance(data, Path) or not data.startswith(S3):
        yield Path(data)
        return
    with tempfile.TemporaryDirectory() as folder:
        store().get_file(f"{data.rstrip('/')}/manifest.json", Path(folder) / "manifest.json")
        yield Path(folder)


def fetch(store: Store, folder: str, name: str, to: Path, *, patience: float) -> None:
    """Append to `to` what it lacks of a file in a folder of the store, however often the store goes away meanwhile.

    Args:
        folder: its `s3://` address.
        patience: seconds without a byte before an outage is an error.

    Raises:
        ServiceError: there is no such file, or the store is gone for good.
    """
    from tenacity import RetryCallState, Retrying, before_sleep_log, retry_if_exception_type, wait_random_exponential

    heard, had = time.monotonic(), _size(to)

    def hopeless(state: RetryCallState) -> bool:
        nonlocal heard, had
        if (has := _size(to)) > had:
            heard, had = time.monotonic(), has
        return time.monotonic() - heard >= patience

    tries = Retrying(
        retry=retry_if_exception_type(Unanswered),
        wait=wait_random_exponential(0.2, LONGEST),
        stop=hopeless,
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    tries(store.append, f"{folder.rstrip('/')}/{name}", to)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
