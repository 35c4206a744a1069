"""The client of the service.

    with Client("http://127.0.0.1:3000") as client:
        answer = client.edit("photo.jpg", "remove the dog")
        answer.picture.save("edited.png")

Needs httpx, pydantic, pillow and numpy; neither torch nor bentoml.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import PIL.Image
from pydantic import ValidationError

from instructdiffusion.model.errors import DataError, ServiceError
from instructdiffusion.model.task import Image
from instructdiffusion.serving.schema import EditResponse, png_of

Source = str | Path | bytes | Image | PIL.Image.Image


class Client:
    """Calls one service; threads may share it. `timeout` is in seconds and covers the wait for the edit."""

    def __init__(self, url: str, timeout: float = 300.0) -> None:
        self.url = url.rstrip("/")
        # A proxy from the environment would also be asked for a service on this machine.
        self._http = httpx.Client(base_url=self.url, timeout=httpx.Timeout(timeout, connect=10.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def edit(
        self,
        picture: Source,
        instruction: str,
        *,
        task: str | None = None,
        seed: int = 0,
        steps: int | None = None,
        text_guidance: float | None = None,
        image_guidance: float | None = None,
    ) -> EditResponse:
        """Edit a picture: a path, the bytes of a file, a uint8 array (height x width x 3) or a Pillow image.

        What is left out is up to the model. `EditRequest` says what each option means and its range.

        Returns:
            The answer; `.picture` is a Pillow image of the size that was sent, `.found` the typed result.

        Raises:
            DataError: the file can't be read, or the array is no picture.
            ServiceError: the service refused, in its own words, or did not answer.
        """
        options = {
            "instruction": instruction,
            "task": task,
            "seed": seed,
            "steps": steps,
            "text_guidance": text_guidance,
            "image_guidance": image_guidance,
        }
        fields = {name: str(value) for name, value in options.items() if value is not None}
        answer = self._call("POST", "/edit", data=fields, files={"image": ("image", _bytes_of(picture))})
        try:
            return EditResponse.model_validate_json(answer.content)
        except ValidationError as error:
            raise ServiceError(
                f"{self.url}/edit answered something else than an edit; is it a service of this version?"
            ) from error

    def tasks(self) -> dict[str, Any]:
        """The tasks that the service knows: family and examples by name.

        Raises:
            ServiceError: the service did not answer.
        """
        answer: dict[str, Any] = self._call("GET", "/tasks").json()
        return answer

    def ready(self) -> bool:
        """Whether the weights are loaded and the service answers now."""
        try:
            return self._http.get("/readyz", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Wait until `ready`.

        Raises:
            ServiceError: not ready within `seconds`.
        """
        until = time.monotonic() + seconds
        while not self.ready():
            if time.monotonic() > until:
                raise ServiceError(f"{self.url} was not ready within {seconds:g} s; see the service's log")
            time.sleep(0.1)

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise ServiceError(f"{self.url}{path} did not answer in time; raise the client's timeout") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"{self.url}{path} can't be reached ({error}); is the service running?") from error
        if answer.is_success:
            return answer
        raise ServiceError(f"{self.url}{path} answered {answer.status_code}: {_line_of(answer)}")


def _line_of(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return " ".join(answer.text.split())[:200] or answer.reason_phrase


def _bytes_of(picture: Source) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, PIL.Image.Image):
        return png_of(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise DataError(f"picture: {picture.dtype} {picture.shape}; give uint8, height x width x 3")
        return png_of(picture)
    try:
        return Path(picture).read_bytes()
    except OSError as error:
        raise DataError(f"can't read {picture}: {error.strerror}; give the path of a picture") from error
