"""Every value is described, also what its being empty means, and the README says the same."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import yaml
from charts.rendering import CHART, PROFILES


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The script that writes the README."""
    spec = importlib.util.spec_from_file_location("readme", CHART.parent / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(tree: dict[str, Any], schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """The values of a tree that the schema does not open further."""
    for key, value in tree.items():
        name = f"{path}.{key}" if path else key
        inner = schema["properties"][key]
        if isinstance(value, dict) and "properties" in inner:
            yield from leaves(value, inner, name)
        else:
            yield name


def test_every_value_is_described(tool: ModuleType) -> None:
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    described = {v.path: v.meaning for v in tool.values(text)}
    assert list(described) == list(leaves(yaml.safe_load(text), schema))
    assert [path for path, meaning in described.items() if len(meaning) < 10] == []


def test_a_value_that_may_be_empty_says_what_that_means(tool: ModuleType) -> None:
    for value in tool.values((CHART / "values.yaml").read_text()):
        if value.default in ("", [], {}):
            assert "Empty:" in value.meaning, value.path


def test_a_value_without_a_description_is_noticed(tool: ModuleType) -> None:
    found = {
        v.path: v.meaning for v in tool.values("# -- One.\na: 1\nb:\n  # -- Two,\n  # and more.\n  c: []\n  d: ''\n")
    }
    assert found == {"a": "One.", "b.c": "Two, and more.", "b.d": ""}


def test_the_readme_is_up_to_date(tool: ModuleType) -> None:
    written = (CHART / "README.md").read_text()
    assert written == tool.readme((CHART / "values.yaml").read_text()), "run: python charts/readme.py"


def test_the_schema_knows_every_value_and_forbids_all_others() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(node: dict[str, Any], tree: dict[str, Any], path: str) -> None:
        assert node["additionalProperties"] is False, path
        assert set(node["properties"]) - {"global"} == set(tree), path
        for key, value in tree.items():
            if "properties" in node["properties"][key]:
                compare(node["properties"][key], value, f"{path}.{key}")

    compare(schema, values, "")


def test_profiles_say_nothing_that_has_no_effect() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def known(tree: dict[str, Any], defaults: dict[str, Any]) -> bool:
        return all(
            key in defaults and (not isinstance(value, dict) or key == "resources" or known(value, defaults[key]))
            for key, value in tree.items()
        )

    assert all(known(profile, values) for profile in PROFILES.values())
