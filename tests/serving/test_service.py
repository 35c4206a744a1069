"""The real service on loopback, called by the documented client and by plain HTTP."""

from __future__ import annotations

import base64
import io
import re
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any, cast

import httpx
import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as mask_api

from instructdiffusion.components.deploy import Deployment
from instructdiffusion.model.errors import DataError, ServiceError
from instructdiffusion.model.task import Image
from instructdiffusion.model.tasks import TASKS, understand
from instructdiffusion.serving.client import Client, Source
from instructdiffusion.serving.schema import EditRequest, Joints, Nothing, Region, png_of, read_picture
from instructdiffusion.serving.service import Service

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
    assert isinstance(answer.found, Joints | Nothing)
    assert answer.confidence is not None


def test_a_segmentation_task_answers_with_a_mask_of_the_pictures_size(client: Client, picture: Image) -> None:
    answer = client.edit(picture, asking("segmentation"), task="segmentation", steps=STEPS)
    assert isinstance(answer.found, Region)
    assert answer.found.mask.pixels().shape == (48, 80)
    left, top, right, bottom = answer.found.box
    coco = mask_api.decode(mask_api.frPyObjects(answer.found.mask.model_dump(), 48, 80))
    assert np.array_equal(coco.astype(bool), answer.found.mask.pixels())
    assert coco[int(top) : int(bottom), int(left) : int(right)].sum() == coco.sum() > 0


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
    "too many steps": ({"steps": "51"}, "steps: 51, the limit is 50"),
    "far too many steps": ({"steps": "1001"}, "steps: .*less than or equal to 1000, not '1001'"),
    "two over their limits": ({"steps": "51", "task": "zebra"}, "task: .*; steps: 51, the limit is 50"),
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
    "a bomb": (bomb(), 413, "image: far over 1000000 pixels, the limit"),
    "many bytes": (b"x" * (17 * 2**20), 413, "image: 17825792 bytes, the limit is 16777216"),
    "far too many bytes": (b"x" * (23 * 2**20), 413, "image: over 22435157 bytes in a request, the limit"),
}


@pytest.mark.parametrize(("data", "status", "line"), PICTURES.values(), ids=list(PICTURES))
def test_a_wrong_picture_is_refused_in_one_line(deployment: Deployment, data: bytes, status: int, line: str) -> None:
    assert_refused(post(deployment, FORM, data), status, line)


def test_a_body_that_hides_its_length_meets_the_same_limit(deployment: Deployment) -> None:
    def chunks() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(23):
            yield bytes(2**20)
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{deployment.address}/edit", content=chunks(), headers=headers)
    assert_refused(answer, 413, "image: over 22435157 bytes in a request, the limit")


def test_a_missing_picture_is_named(deployment: Deployment) -> None:
    assert_refused(httpx.post(f"{deployment.address}/edit", data=FORM), 400, "image: missing")


ADDRESSES = ["http://127.0.0.1:9/photo.png", "file:///etc/hostname", "photo.png"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_service_fetches_no_address(deployment: Deployment, address: str) -> None:
    line = "image: send the picture itself.*neither its name nor its address"
    assert_refused(httpx.post(f"{deployment.address}/edit", data=FORM | {"image": address}), 400, line)
    assert_refused(httpx.post(f"{deployment.address}/edit", json=FORM | {"image": address}), 400, line)


def test_json_and_a_form_ask_for_the_same_edit(deployment: Deployment, picture: Image) -> None:
    fields: dict[str, Any] = FORM | {"steps": STEPS, "seed": 5}
    data = base64.b64encode(png_of(picture)).decode()
    answers = [post(deployment, {k: str(v) for k, v in fields.items()}, png_of(picture))]
    for image in (data, {"b64": data}, f"data:image/png;base64,{data}"):
        answers.append(httpx.post(f"{deployment.address}/edit", json=fields | {"image": image}, timeout=60))
    assert len({answer.json()["picture"] for answer in answers}) == 1
    assert {answer.headers["X-Model-Version"] for answer in answers} == {"7"}


BODIES = {
    "no json": (b"{", "application/json", 400, "request: invalid JSON"),
    "a list": (b"[]", "application/json", 400, "request: .*object"),
    "another type": (b"<edit/>", "text/xml", 415, "/edit: can't read text/xml; send multipart/form-data or app"),
    "a torn form": (b"--c", "multipart/form-data; boundary=b", 400, "/edit: "),
}


@pytest.mark.parametrize(("body", "kind", "status", "line"), BODIES.values(), ids=list(BODIES))
def test_a_body_that_can_not_be_read_is_refused(
    deployment: Deployment, body: bytes, kind: str, status: int, line: str
) -> None:
    answer = httpx.post(f"{deployment.address}/edit", content=body, headers={"Content-Type": kind})
    assert_refused(answer, status, line)


def test_a_picture_is_decoded_when_its_turn_comes(picture: Image) -> None:
    service = object.__new__(cast(Any, Service).inner)  # without an editor: it does not come so far
    service.lock = Lock()
    edit = EditRequest(image=png_of(picture)[:-60], instruction="remove the dog")
    with ThreadPoolExecutor(1) as thread:
        with service.lock:
            waiting = thread.submit(service.edited, [edit], "")
            assert not wait([waiting], timeout=0.3).done
        with pytest.raises(DataError, match="image: the PNG data is damaged"):
            waiting.result(10)


def test_the_metrics_count_edits_and_refusals(deployment: Deployment, client: Client, picture: Image) -> None:
    def count(line: str) -> float:
        text = httpx.get(f"{deployment.address}/metrics").text
        return sum(float(row.rsplit(" ", 1)[1]) for row in text.splitlines() if row.startswith(line))

    edits, refused = 'instructdiffusion_edits_total{task="remove"}', 'instructdiffusion_refused_total{reason="invalid"}'
    before = count(edits), count(refused)
    client.edit(picture, "Remove the red ball.", steps=1)
    post(deployment, FORM | {"steps": "0"}, png_of(picture))
    assert (count(edits), count(refused)) == (before[0] + 1, before[1] + 1)
    assert count('instructdiffusion_edit_seconds_count{task="remove"}') == before[0] + 1
    assert count("bentoml_service_request_total") > 0


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


def test_every_example_in_the_description_is_answered(deployment: Deployment) -> None:
    described = httpx.get(f"{deployment.address}/docs.json").json()
    bodies = {p: r["post"]["requestBody"]["content"] for p, r in described["paths"].items() if "post" in r}
    assert set(bodies) == {"/edit", "/v1/models/{name}:predict", "/v2/models/{name}/infer"}
    assert "multipart/form-data" in bodies["/edit"]
    for path, content in bodies.items():
        body = content["application/json"]
        example = body.get("example") or body["schema"].get("examples", [None])[0]
        url = f"{deployment.address}{path.replace('{name}', 'instructdiffusion')}"
        assert httpx.post(url, json=example, timeout=120).status_code == 200, path


def test_every_task_has_examples_with_pictures(deployment: Deployment, client: Client) -> None:
    for task, about in client.tasks().items():
        for example in about["examples"]:
            assert (heard := understand(example["instruction"])), example
            assert heard.task == task
        picture = httpx.get(f"{deployment.address}/{about['examples'][0]['image']}")
        assert read_picture(picture.content).shape == (256, 256, 3)


@pytest.mark.parametrize("path", ["examples/zebra/0.png", "examples/remove/99.png"])
def test_an_example_that_is_not_there_is_refused(deployment: Deployment, path: str) -> None:
    assert_refused(httpx.get(f"{deployment.address}/{path}"), 400, "no example")
