"""V2's tensors become requests, and what is wrong with them is said by name."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from instructdiffusion.model.errors import DataError
from instructdiffusion.model.task import Image
from instructdiffusion.serving.inference import TENSORS, InferRequest
from instructdiffusion.serving.schema import EditRequest, png_of


def tensor(name: str, *data: Any, datatype: str | None = None, shape: list[int] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype or TENSORS.get(name, "BYTES"),
        "shape": shape or [len(data)],
        "data": data,
    }


def infer(picture: Image, *inputs: dict[str, Any], **rest: Any) -> InferRequest:
    image = tensor("image", base64.b64encode(png_of(picture)).decode())
    body = {"inputs": [image, tensor("instruction", "Remove the dog."), *inputs], **rest}
    return InferRequest.model_validate(body)


def test_every_field_of_an_edit_is_a_tensor() -> None:
    assert set(TENSORS) == set(EditRequest.model_fields)


def test_a_single_value_counts_for_all_pictures(picture: Image) -> None:
    edits = infer(picture, tensor("seed", 1, 2, 3), tensor("steps", 5)).edits()
    assert [(edit.seed, edit.steps, edit.instruction) for edit in edits] == [
        (n, 5, "Remove the dog.") for n in (1, 2, 3)
    ]
    assert edits[2].image == png_of(picture)


def test_nested_lists_are_read_row_by_row(picture: Image) -> None:
    edits = infer(picture, tensor("seed", [1], [2], shape=[2, 1])).edits()
    assert [edit.seed for edit in edits] == [1, 2]


WRONG = {
    "an unknown input": ([tensor("zebra", 1)], "inputs: no input 'zebra'; there are image, instruction"),
    "a wrong datatype": ([tensor("seed", "1", datatype="BYTES")], "inputs.seed: datatype BYTES, send INT64"),
    "a wrong shape": ([tensor("seed", 1, 2, shape=[3])], r"inputs.seed: 2 elements, its shape says \[3\]"),
    "lengths that differ": ([tensor("seed", 1, 2), tensor("steps", 1, 2, 3)], "inputs.seed: 2 elements, give 1 or 3"),
    "a wrong value": ([tensor("steps", 1, 0)], r"inputs\[1\]\.steps: .*greater than or equal to 1, not '0'"),
}


@pytest.mark.parametrize(("inputs", "line"), WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_with_the_tensors_is_said(picture: Image, inputs: list[dict[str, Any]], line: str) -> None:
    with pytest.raises(DataError, match=f"^{line}"):
        infer(picture, *inputs).edits()


def test_no_tensors_are_a_missing_picture_and_instruction() -> None:
    with pytest.raises(DataError, match=r"^inputs\[0\]\.image: missing.*inputs\[0\]\.instruction: missing"):
        InferRequest.model_validate({"inputs": []}).edits()


def test_an_unknown_output_is_refused(picture: Image) -> None:
    with pytest.raises(DataError, match="outputs: no output 'zebra'; there are picture, answer"):
        infer(picture, outputs=[{"name": "zebra"}]).edits()
