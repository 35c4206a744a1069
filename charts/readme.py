"""Write the chart's README from the comments of its values: `python charts/readme.py`.

A comment that begins with `# --` describes the value below it and may go on over several lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHART = Path(__file__).parent / "instructdiffusion"
HEAD = """# The chart `instructdiffusion`

One release holds what a team needs around Kubeflow Pipelines, Kubeflow Trainer and KServe: MLflow, Label Studio, a
PostgreSQL and an object store or the way to yours, the reconciler, the runtimes for training and serving, and the
rights and network rules that go with them. [Installing](../../docs/installing.md) says how, with either profile:

| profile | for | database and store | comes in by |
|---|---|---|---|
| [`evaluation`](profiles/evaluation.yaml) | trying it on one machine | in the chart | `kubectl port-forward` |
| [`production`](profiles/production.yaml) | a team | yours | an ingress |

[`values.schema.json`](values.schema.json) refuses a value that is misspelt or of the wrong form; values that don't go
together are refused too, all in one message. This page is written by `python charts/readme.py` from
[`values.yaml`](values.yaml).

## Values

| value | default | meaning |
|---|---|---|
"""


class Value(NamedTuple):
    """A value that may be set: its path, its default, and what `values.yaml` says of it."""

    path: str
    default: Any
    meaning: str


def values(text: str) -> Iterator[Value]:
    """Every value of a `values.yaml`: each key with a comment, and each scalar or list without one."""
    tree = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    described: list[str] = []
    for line in text.splitlines():
        if found := re.match(r" *# (-- )?(.*)$", line):
            comment = [found[2]] if found[1] else [*comment, found[2]] if comment else []
            continue
        if found := re.match(r"( *)([\w.-]+):", line):
            path = [*path[: len(found[1]) // 2], found[2]]
            name = ".".join(path)
            inside = any(name.startswith(f"{above}.") for above in described)  # of a map that is one value
            if comment or not (inside or isinstance(_at(tree, path), dict)):
                described.append(name)
                yield Value(name, _at(tree, path), " ".join(comment))
        comment = []


def readme(text: str) -> str:
    """The page of a `values.yaml`."""
    rows = (f"| `{v.path}` | `{json.dumps(v.default)}` | {v.meaning} |" for v in values(text))
    return HEAD + "\n".join(rows) + "\n"


def _at(tree: Any, path: list[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme((CHART / "values.yaml").read_text()))
