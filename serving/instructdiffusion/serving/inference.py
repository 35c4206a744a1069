"""KServe's two inference protocols: `:predict` (V1) with instances, `infer` (V2, Open Inference) with tensors.

Pictures travel as base64 in both. A V2 tensor has one element per picture; one of a single element counts for all.
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from instructdiffusion.model.errors import DataError
from instructdiffusion.serving.schema import EditRequest, EditResponse, complaint

BINARY = "Inference-Header-Content-Length"  # header of a V2 request whose tensors follow the JSON as raw bytes
TENSORS = {  # datatype by input of V2
    "image": "BYTES",
    "instruction": "BYTES",
    "task": "BYTES",
    "seed": "INT64",
    "steps": "INT32",
    "text_guidance": "FP32",
    "image_guidance": "FP32",
}
OUTPUTS = {"picture": "BYTES", "answer": "BYTES"}


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())  # other servers' extras are not ours to refuse


class PredictRequest(_Body):
    """The body of V1's `:predict`."""

    instances: list[EditRequest] = Field(min_length=1)


class PredictResponse(_Body):
    """An answer for each instance, in their order."""

    predictions: list[EditResponse]


class Tensor(_Body):
    """Values by name; nested lists are flattened, row by row."""

    name: str
    shape: list[int]
    datatype: Literal["BYTES", "INT32", "INT64", "UINT32", "UINT64", "FP32", "FP64"]
    data: list[Any]

    def values(self) -> list[Any]:
        """The elements.

        Raises:
            DataError: there are more or fewer than the shape says.
        """
        values = _flat(self.data)
        if prod(self.shape) != len(values):
            raise DataError(f"inputs.{self.name}: {len(values)} elements, its shape says {self.shape}")
        return values


class Named(_Body):
    """An output that is asked for."""

    name: str


class InferRequest(_Body):
    """The body of V2's `infer`. Inputs are the fields of an edit; left out ones are up to the model."""

    id: str | None = None
    inputs: list[Tensor]
    outputs: list[Named] = Field([], description="outputs to answer with; none named: all")

    def edits(self) -> list[EditRequest]:
        """One request per picture.

        Raises:
            DataError: a tensor is unknown, of the wrong type or length, or holds a wrong value.
        """
        for named in self.outputs:
            if named.name not in OUTPUTS:
                raise DataError(f"outputs: no output {named.name[:60]!r}; there are {', '.join(OUTPUTS)}")
        columns = {tensor.name: _column(tensor) for tensor in self.inputs}
        count = max((len(values) for values in columns.values()), default=0)
        for name, values in columns.items():
            if len(values) not in (1, count):
                raise DataError(f"inputs.{name}: {len(values)} elements, give 1 or {count}, as for the others")
        rows = [{n: v[i if len(v) > 1 else 0] for n, v in columns.items()} for i in range(max(count, 1))]
        return [_edit(row, i) for i, row in enumerate(rows)]

    def answer(self, name: str, version: str, edits: list[EditResponse]) -> dict[str, Any]:
        """The body of the response: `picture`, a PNG in base64, and `answer`, all else of an edit as JSON."""
        texts = [edit.model_dump(mode="json", include={"picture"})["picture"] for edit in edits]
        rest = [edit.model_dump_json(exclude={"picture"}) for edit in edits]
        data = {"picture": texts, "answer": rest}
        asked = [output.name for output in self.outputs] or list(OUTPUTS)
        return {
            "id": self.id,
            "model_name": name,
            "model_version": version,
            "outputs": [{"name": n, "datatype": OUTPUTS[n], "shape": [len(edits)], "data": data[n]} for n in asked],
        }


def metadata(name: str, version: str) -> dict[str, Any]:
    """What V2 tells about the model: the tensors that it takes and gives."""
    return {
        "name": name,
        "versions": [version],
        "platform": "instructdiffusion",
        "inputs": [{"name": n, "datatype": kind, "shape": [-1]} for n, kind in TENSORS.items()],
        "outputs": [{"name": n, "datatype": kind, "shape": [-1]} for n, kind in OUTPUTS.items()],
    }


def _column(tensor: Tensor) -> list[Any]:
    if tensor.name not in TENSORS:
        raise DataError(f"inputs: no input {tensor.name[:60]!r}; there are {', '.join(TENSORS)}")
    wanted = TENSORS[tensor.name]
    if (tensor.datatype == "BYTES") != (wanted == "BYTES"):
        raise DataError(f"inputs.{tensor.name}: datatype {tensor.datatype}, send {wanted}")
    return tensor.values()


def _edit(row: dict[str, Any], index: int) -> EditRequest:
    try:
        return EditRequest.model_validate(row)
    except ValidationError as error:
        raise DataError(complaint(error, f"inputs[{index}].")) from error


def _flat(data: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for item in data:
        flat += _flat(item) if isinstance(item, list) else [item]
    return flat
