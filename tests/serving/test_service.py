"""The real service on loopback, called by the documented client and by plain HTTP."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest

from instructdiffusion.components.deploy import Deployment
from instructdiffusion.model.errors import DataError, ServiceError
from instructdiffusion.model.task import Image
from instructdiffusion.model.tasks import TASKS
from instructdiffusion.serving.client import Client, Source
from instructdiffusion.serving.schema import Joints, Region, png_of

STEPS = 2  # enough to tell one edit from another


def test_an_edit_has_the_size_that_was_sent_and_names_the_model(client: Client, picture: Image) -> None:
    answer = client.edit(picture, "make it look like winter", steps=STEPS)
    assert answer.picture.size == (80, 48)
    assert answer.model_version == "7"
    assert answer.found is None
    assert answer.seconds > 0


def test_the_same_seed_gives_the_same_edit_and_another_seed_another(client: Client, picture: Image) -> None:
    def edit(seed: int) -> Any:
        return np.asarray(client.edit(picture, "remove the dog", seed=seed, steps=STEPS).picture)

    assert np.array_equal(edit(1), edit(1))
    assert not np.array_equal(edit(1), edit(2))


def test_callers_at_the_same_time_do_not_disturb_each_other(client: Client, picture: Image) -> None:
    def edit(seed: int) -> bytes:
        return client.edit(picture, "remove the dog", seed=seed, steps=STEPS).picture.tobytes()

    alone = [edit(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(edit, range(4))) == alone


def test_a_keypoint_task_answers_with_joints(client: Client, picture: Image) -> None:
    answer = client.edit(picture, asking("keypoint"), task="keypoint", steps=STEPS)
    assert answer.task == "keypoint"
    assert isinstance(answer.found, Joints)


def test_a_segmentation_task_answers_with_a_mask_of_the_pictures_size(client: Client, picture: Image) -> None:
    answer = client.edit(picture, asking("segmentation"), task="segmentation", steps=STEPS)
    assert isinstance(answer.found, Region)
    assert answer.found.mask.pixels().shape == (48, 80)


def asking(task: str) -> str:
    """An instruction as the task itself would put it."""
    rng = Random(0)
    return TASKS[task].ask(TASKS[task].toy(rng)[1], rng).instruction


def test_a_path_bytes_an_array_and_a_pillow_image_are_the_same_picture(
    client: Client, picture: Image, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png_of(picture))
    forms: list[Source] = [path, str(path), path.read_bytes(), picture, PIL.Image.fromarray(picture)]
    answers = {client.edit(form, "remove the dog", steps=STEPS).picture.tobytes() for form in forms}
    assert len(answers) == 1


def test_the_service_lists_its_tasks(client: Client) -> None:
    assert set(client.tasks()) == set(TASKS)


FORM: dict[str, str] = {"instruction": "remove the dog"}
REFUSED = {
    "no instruction": ({"instruction": ""}, "instruction: missing"),
    "a long instruction": ({"instruction": "x" * 501}, "instruction: .*at most 500 characters"),
    "an unknown task": ({"task": "zebra"}, "task: no task is named 'zebra'; there are .*keypoint"),
    "too many steps": ({"steps": "101"}, "steps: .*less than or equal to 100, not '101'"),
    "no step": ({"steps": "0"}, "steps: .*greater than or equal to 1"),
    "a negative seed": ({"seed": "-1"}, "seed: .*greater than or equal to 0"),
    "a word for a number": ({"text_guidance": "much"}, "text_guidance: .*valid number"),
    "an endless guidance": ({"image_guidance": "nan"}, "image_guidance: .*finite"),
    "a misspelt field": ({"stepz": "3"}, "stepz: no such field; there are .*steps"),
    "two wrong fields": ({"steps": "0", "seed": "-1"}, "seed: .*; steps: "),
}


@pytest.mark.parametrize(("change", "line"), REFUSED.values(), ids=list(REFUSED))
def test_a_wrong_field_is_refused_in_one_line(
    deployment: Deployment, picture: Image, change: dict[str, str], line: str
) -> None:
    answer = post(deployment, FORM | change, png_of(picture))
    assert_refused(answer, 400, line)


def bomb() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {
    "text": (b"hello", 400, "image: not a picture that can be read; send PNG, JPEG, WEBP"),
    "nothing": (b"", 400, "image: "),
    "a bomb": (bomb(), 413, "image: .*16777216 pixels, the limit"),
    "many bytes": (b"x" * (17 * 2**20), 413, "image: .*bytes, the limit is 16842752"),
}


@pytest.mark.parametrize(("data", "status", "line"), PICTURES.values(), ids=list(PICTURES))
def test_a_wrong_picture_is_refused_in_one_line(deployment: Deployment, data: bytes, status: int, line: str) -> None:
    assert_refused(post(deployment, FORM, data), status, line)


def test_a_body_that_hides_its_length_meets_the_same_limit(deployment: Deployment) -> None:
    def chunks() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(17):
            yield bytes(2**20)
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{deployment.address}/edit", content=chunks(), headers=headers)
    assert_refused(answer, 413, "image: the limit of a request is 16842752 bytes")


def test_a_missing_picture_is_named(deployment: Deployment) -> None:
    assert_refused(httpx.post(f"{deployment.address}/edit", data=FORM), 400, "image: missing")


def test_the_service_fetches_no_address(deployment: Deployment) -> None:
    answer = httpx.post(f"{deployment.address}/edit", data=FORM | {"image": f"{deployment.address}/metrics"})
    assert_refused(answer, 400, "image: not a file; .*neither its name nor its address")


def post(deployment: Deployment, fields: dict[str, str], picture: bytes) -> httpx.Response:
    return httpx.post(f"{deployment.address}/edit", data=fields, files={"image": picture}, timeout=60)


def assert_refused(answer: httpx.Response, status: int, line: str) -> None:
    assert answer.status_code == status
    assert answer.headers["X-Model-Version"] == "7"
    error = answer.json()["error"]
    assert re.match(line, error), error
    assert "\n" not in error


def test_the_client_passes_the_services_line_on(client: Client, picture: Image) -> None:
    with pytest.raises(ServiceError, match="answered 400: task: no task is named 'zebra'"):
        client.edit(picture, "remove the dog", task="zebra")


def test_the_client_names_a_file_that_is_not_there(client: Client) -> None:
    with pytest.raises(DataError, match=r"can't read none\.png"):
        client.edit("none.png", "remove the dog")


def test_the_client_refuses_an_array_that_is_no_picture(client: Client) -> None:
    with pytest.raises(DataError, match="uint8, height x width x 3"):
        client.edit(np.zeros((48, 80), np.uint8), "remove the dog")


def test_the_client_says_when_nothing_answers() -> None:
    with Client("http://127.0.0.1:9") as client:
        assert not client.ready()
        with pytest.raises(ServiceError, match="can't be reached"):
            client.tasks()


def test_the_description_shows_the_route_and_its_limits(deployment: Deployment) -> None:
    described = httpx.get(deployment.address, follow_redirects=True).json()
    assert "/edit" in described["paths"]
    assert described["components"]["schemas"]["EditForm"]["properties"]["seed"]["maximum"] == 2**32 - 1
