"""Services that edit pictures, as endpoints of a benchmark: the project's own, or any that speaks KServe's V2."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image as Pillow

from instructdiffusion.model.endpoints import Endpoint, Folder, Still
from instructdiffusion.model.errors import ConfigError, ServiceError
from instructdiffusion.model.task import Ask, Image
from instructdiffusion.model.tasks import TASKS
from instructdiffusion.serving.client import Client
from instructdiffusion.serving.schema import png_of

AT_ONCE = 4  # requests under way
V2 = "/v2/models/"


def endpoint(model: str, url: str) -> Endpoint:
    """The endpoint that a command names: a model folder, `do-nothing`, or an address; neither is the embedded base.

    Raises:
        ConfigError: both are given.
        DataError: the folder is no model.
    """
    if model and url:
        raise ConfigError("--model and --url are both given; score one of them at a time")
    if url:
        return KServe(url) if V2 in url else Served(url)
    return Still() if model == Still.name else Folder(Path(model) if model else None)


class Remote:
    """What services share: pictures are sent one by one, a few at a time; nobody sees their autoencoder."""

    resolution = 0

    def __init__(self, url: str) -> None:
        """`url` is the service's address."""
        self.name = self.url = url.rstrip("/")

    def edit(self, pictures: Sequence[Image], asks: Sequence[Ask], seeds: Sequence[int]) -> list[Image]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.one, pictures, asks, seeds))

    def one(self, picture: Image, ask: Ask, seed: int) -> Image:
        """Edit one picture."""
        raise NotImplementedError

    def rebuilt(self, pictures: Sequence[Image], targets: Sequence[Image]) -> list[Image] | None:
        return None


class Served(Remote):
    """The project's own service, `instructdiffusion serve` or a Bento."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client = Client(self.url)

    def one(self, picture: Image, ask: Ask, seed: int) -> Image:
        task = ask.task if ask.task in TASKS else None
        answer = self._client.edit(picture, ask.instruction, task=task, seed=seed)
        return np.asarray(answer.picture.convert("RGB"))


class KServe(Remote):
    """A model behind KServe's V2 protocol, at `.../v2/models/NAME`: pictures go and come as PNG in base64."""

    def __init__(self, url: str, timeout: float = 300.0) -> None:
        super().__init__(url.rstrip("/").removesuffix("/infer"))
        self._http = httpx.Client(timeout=httpx.Timeout(timeout, connect=10.0))

    def one(self, picture: Image, ask: Ask, seed: int) -> Image:
        image = base64.b64encode(png_of(picture)).decode()
        inputs = [_tensor("image", "BYTES", image), _tensor("instruction", "BYTES", ask.instruction)]
        inputs.append(_tensor("seed", "INT64", seed))
        if ask.task in TASKS:
            inputs.append(_tensor("task", "BYTES", ask.task))
        body = {"inputs": inputs, "outputs": [{"name": "picture"}]}
        try:
            answer = self._http.post(f"{self.url}/infer", json=body)
            answer.raise_for_status()
            found = {o["name"]: o["data"] for o in answer.json()["outputs"]}
            return np.asarray(Pillow.open(io.BytesIO(base64.b64decode(found["picture"][0]))).convert("RGB"))
        except httpx.HTTPStatusError as error:
            told = error.response.text.strip()[:200]
            raise ServiceError(f"{self.url}/infer answered {error.response.status_code}: {told}") from None
        except httpx.HTTPError as error:
            raise ServiceError(f"{self.url} can't be reached ({error}); is the service running?") from error
        except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
            raise ServiceError(
                f"{self.url}/infer answered no picture ({error}); is it this model's service?"
            ) from error


def _tensor(name: str, datatype: str, value: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [1], "data": [value]}
