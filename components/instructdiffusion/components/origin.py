"""Where a model to start from may be: on disk, in the object store, on the hub of Hugging Face."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instructdiffusion.components.settings import Settings
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import DataError, ServiceError

#: What training needs of a repository: one format of the weights, in full precision, and no safety checker.
WANTED = [f"{part}/*" for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")]
UNWANTED = ["*.bin", "*.ckpt", "*.msgpack", "*.onnx*", "*.fp16.*", "*.non_ema.*", "openvino*", "flax*"]


@contextmanager
def fetched(source: str, near: Path) -> Iterator[Path]:
    """A path to the model that `source` names; what was downloaded for it from the store is removed afterwards.

    Args:
        source: a path, `s3://bucket/name` of a file or folder that was uploaded, or a hub id as `owner/name`.
        near: where downloads from the store go for the time being; the hub has a cache of its own.

    Raises:
        DataError: there is no such thing.
        ServiceError: store or hub do not answer.
    """
    if Path(source).exists():
        yield Path(source)
    elif source.startswith("s3://"):
        near.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=near, prefix=".fetched-") as folder:
            yield from_store(source, Path(folder), Store.open(Settings.from_environment(needs={"store"})))
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith("."):
        yield from_hub(source)
    else:
        raise DataError(f"{source} is not there; name a path, s3://bucket/name, or a hub id as owner/name")


def from_store(uri: str, folder: Path, store: Store) -> Path:
    """Download a file or folder into `folder`."""
    path = folder / uri.rstrip("/").rsplit("/", 1)[-1]
    return store.get_file(uri, path) if path.suffix in (".safetensors", ".ckpt") else store.get_directory(uri, path)


def from_hub(name: str) -> Path:
    """Download a repository's networks into the hub's cache, or find them there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except RepositoryNotFoundError as error:
        raise DataError(f"{name} is neither here nor on the hub, or not yours to read; check the name") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ServiceError(f"{name}: the hub does not answer, and its cache has no copy; name a folder") from error
