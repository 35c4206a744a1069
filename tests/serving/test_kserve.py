"""KServe's own client asks the served Bento, by both of its protocols, as a user would."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest

from instructdiffusion.components.deploy import Deployment
from instructdiffusion.model.task import Image
from instructdiffusion.serving.schema import EditResponse, png_of

MODEL = "instructdiffusion"
INSTRUCTION = "Remove the red ball."


def asked(protocol: str, call: Callable[[Any], Awaitable[Any]]) -> Any:
    """What KServe's client gets from one call."""
    from kserve import InferenceRESTClient, RESTConfig

    async def run() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol=protocol, timeout=120)) as client:
            return await call(client)

    return asyncio.run(run())


def base64_of(picture: Image) -> str:
    return base64.b64encode(png_of(picture)).decode()


def instance(picture: Image, **options: Any) -> dict[str, Any]:
    return {"image": {"b64": base64_of(picture)}, "instruction": INSTRUCTION, "steps": 1, **options}


def tensors(picture: Image, count: int = 1) -> list[Any]:
    """The inputs of a V2 request as KServe's objects: one instruction for `count` pictures."""
    from kserve import InferInput

    images = InferInput("image", [count], "BYTES")
    images.set_data_from_numpy(np.array([base64_of(picture)] * count, dtype=object), binary_data=False)
    steps = InferInput("steps", [1], "INT32")
    steps.set_data_from_numpy(np.array([1], np.int32), binary_data=False)
    seeds = InferInput("seed", [count], "INT64", list(range(count)))
    return [images, InferInput("instruction", [1], "BYTES", [INSTRUCTION]), steps, seeds]


def request(inputs: list[Any], **options: Any) -> Any:
    from kserve import InferRequest

    return InferRequest(model_name=MODEL, infer_inputs=inputs, **options)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_the_client_finds_server_and_model_ready(deployment: Deployment, protocol: str) -> None:
    assert asked(protocol, lambda client: client.is_server_live(deployment.address)) is True
    assert asked(protocol, lambda client: client.is_model_ready(deployment.address, MODEL)) is True


def test_v2_tells_whether_the_server_is_ready(deployment: Deployment) -> None:
    assert asked("v2", lambda client: client.is_server_ready(deployment.address)) is True


def test_another_models_name_is_not_ready(deployment: Deployment) -> None:
    assert asked("v2", lambda client: client.is_model_ready(deployment.address, "zebra")) is False


def test_v1_answers_each_instance(deployment: Deployment, picture: Image) -> None:
    body = {"instances": [instance(picture, seed=seed) for seed in (0, 1)]}
    answer = asked("v1", lambda client: client.infer(deployment.address, body, model_name=MODEL))
    first, second = (EditResponse.model_validate(one) for one in answer["predictions"])
    assert first.picture.size == second.picture.size == (80, 48)
    assert (first.seed, second.seed, first.task, first.model_version) == (0, 1, "remove", "7")


def test_v2_answers_each_picture_as_v1_does(deployment: Deployment, picture: Image) -> None:
    headers: dict[str, str] = {}

    def infer(client: Any) -> Any:
        asking = request(tensors(picture, 2), request_id="my-id")
        return client.infer(deployment.address, asking, model_name=MODEL, response_headers=headers)

    answer = asked("v2", infer)
    pictures, answers = (answer.get_output_by_name(name).data for name in ("picture", "answer"))
    assert (answer.id, answer.model_name) == ("my-id", MODEL)
    assert headers["x-model-version"] == "7"
    assert [json.loads(text)["seed"] for text in answers] == [0, 1]
    body = {"instances": [instance(picture, seed=1)]}
    v1 = asked("v1", lambda client: client.infer(deployment.address, body, model_name=MODEL))["predictions"][0]
    assert pictures[1] == v1.pop("picture")
    assert {**v1, "seconds": 0} == {**json.loads(answers[1]), "seconds": 0}


def test_v2_answers_with_the_output_that_was_asked_for(deployment: Deployment, picture: Image) -> None:
    from kserve.protocol.infer_type import RequestedOutput

    asking = request(tensors(picture), request_outputs=[RequestedOutput("answer")])
    answer = asked("v2", lambda client: client.infer(deployment.address, asking, model_name=MODEL))
    assert [output.name for output in answer.outputs] == ["answer"]


def test_v2_describes_the_tensors(deployment: Deployment) -> None:
    about = httpx.get(f"{deployment.address}/v2/models/{MODEL}").json()
    assert about["versions"] == ["7"]
    assert {tensor["name"]: tensor["datatype"] for tensor in about["inputs"]}["image"] == "BYTES"
    assert [tensor["name"] for tensor in about["outputs"]] == ["picture", "answer"]
    assert httpx.get(f"{deployment.address}/v2").json()["name"] == MODEL
    assert httpx.get(f"{deployment.address}/v2/models").json() == {"models": [MODEL]}


V1 = {
    "no instances": ({}, "instances: missing"),
    "an empty list": ({"instances": []}, "instances: .*at least 1"),
    "three pictures": ({"instances": [{}, {}, {}]}, "instances: 3 pictures in a request, the limit is 2"),
    "a wrong one": ({"instances": [{}, {"steps": 51}]}, r"instances\[1\]\.steps: 51, the limit is 50"),
    "a misspelt field": ({"instances": [{"stepz": 1}]}, r"instances\[0\]\.stepz: no such field; there are .*steps"),
    "an address": ({"instances": [{"image": "http://a/b.png"}]}, r"instances\[0\]\.image: send the picture itself"),
}


@pytest.mark.parametrize(("change", "line"), V1.values(), ids=list(V1))
def test_v1_names_what_is_wrong(deployment: Deployment, picture: Image, change: dict[str, Any], line: str) -> None:
    body = {key: [instance(picture) | one for one in ones] for key, ones in change.items()}
    with pytest.raises(httpx.HTTPStatusError, match=f"{line}.*'400 "):
        asked("v1", lambda client: client.infer(deployment.address, body, model_name=MODEL))


def test_raw_tensors_are_refused_with_the_way_to_send_them(deployment: Deployment, picture: Image) -> None:
    from kserve import InferInput

    raw = InferInput("image", [1], "BYTES")
    raw.set_data_from_numpy(np.array([png_of(picture)], dtype=object), binary_data=True)
    asking = request([raw])
    with pytest.raises(httpx.HTTPStatusError, match=r"binary_data=False.*'415 "):
        asked("v2", lambda client: client.infer(deployment.address, asking, model_name=MODEL))


def test_another_model_is_refused_by_name(deployment: Deployment, picture: Image) -> None:
    body = {"instances": [instance(picture)]}
    with pytest.raises(httpx.HTTPStatusError, match=r"no model is named 'zebra'; there is instructdiffusion, '404 "):
        asked("v1", lambda client: client.infer(deployment.address, body, model_name="zebra"))


def test_many_pixels_over_several_pictures_are_refused_before_one_is_decoded(deployment: Deployment) -> None:
    short = png_of(np.zeros((600, 1000, 3), np.uint8))[:-60]  # its decoder would complain
    body = {"instances": [{"image": base64.b64encode(short).decode(), "instruction": INSTRUCTION}] * 2}
    with pytest.raises(
        httpx.HTTPStatusError, match=r"instances: 1200000 pixels in a request, the limit is 1000000.*'413 "
    ):
        asked("v1", lambda client: client.infer(deployment.address, body, model_name=MODEL))
