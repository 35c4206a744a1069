"""What a service reads from its environment."""

from __future__ import annotations

import pytest

from instructdiffusion.components.settings import Settings as Addresses
from instructdiffusion.model.errors import ConfigError
from instructdiffusion.serving.settings import NAMES, PREFIX, Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings.from_environment({NAMES["max_steps"]: ""}) == Settings()


def test_every_setting_is_read() -> None:
    numbers = {"max_bytes": 2000, "max_pixels": 3000, "max_steps": 4, "max_pictures": 5}
    given = {"name": "mine", "version": "8", "models": "/elsewhere", "max_arrival": 6, "max_waiting": 7, **numbers}
    settings = Settings.from_environment({NAMES[field]: str(value) for field, value in given.items()})
    assert settings.model_dump() == given


def test_the_name_is_the_inference_services_unless_one_is_told() -> None:
    service = {"INFERENCE_SERVICE_NAME": "pictures"}  # as KServe sets it
    assert Settings.from_environment(service).name == "pictures"
    assert Settings.from_environment({**service, NAMES["name"]: "mine"}).name == "mine"
    assert Settings.from_environment({"INFERENCE_SERVICE_NAME": ""}) == Settings()


def test_all_that_is_wrong_is_said_in_one_line() -> None:
    wrong = {NAMES["max_steps"]: "0", NAMES["name"]: "a/b", f"{PREFIX}MAX_BYTE": "1"}
    with pytest.raises(ConfigError) as error:
        Settings.from_environment(wrong)
    line = str(error.value)
    assert "\n" not in line
    for part in ("MAX_BYTE is not a setting: did you mean", "MAX_STEPS=0: Input should be greater", "NAME=a/b: "):
        assert part in line


def test_the_platforms_variables_and_those_of_the_steps_are_left_alone() -> None:
    theirs = {"PORT": "tcp://10.0.0.1:80", "SERVICE_HOST": "10.0.0.1"}  # as Kubernetes sets for a Service
    assert Settings.from_environment({PREFIX + name: value for name, value in theirs.items()}) == Settings()
    Addresses.from_environment(dict.fromkeys(NAMES.values(), "1"), needs=())
