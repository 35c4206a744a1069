"""Settings come from the environment; every mistake is told at once."""

from __future__ import annotations

import pytest

from instructdiffusion.components.settings import NAMES, Settings
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ConfigError

WHOLE = {
    "INSTRUCTDIFFUSION_STORE_ENDPOINT": "127.0.0.1:9000",
    "INSTRUCTDIFFUSION_STORE_ACCESS_KEY": "local",
    "INSTRUCTDIFFUSION_STORE_SECRET_KEY": "tops3cret",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000/",
}


def test_settings_survive_the_way_through_an_environment() -> None:
    settings = Settings.from_environment({**WHOLE, "INSTRUCTDIFFUSION_STORE_SECURE": "true"})
    assert settings.store_secure
    assert settings.tracking_uri == "http://127.0.0.1:5000"
    assert Settings.from_environment(settings.environment()) == settings


def test_all_mistakes_are_told_in_one_line() -> None:
    wrong = {
        "INSTRUCTDIFFUSION_STORE_ENDPOINT": "http://127.0.0.1:9000",
        "INSTRUCTDIFFUSION_STORE_PORT": "70000",
        "INSTRUCTDIFFUSION_STORE_BUCKTE": "mine",
        "MLFLOW_TRACKING_URI": "sqlite:///x.db",
    }
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment(wrong)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        *wrong,
        "STORE_SECRET_KEY is not set",
        "host:port",
        "did you mean INSTRUCTDIFFUSION_STORE_BUCKET",
    ):
        assert part in message


def test_the_secret_is_in_no_text_of_the_settings() -> None:
    settings = Settings.from_environment(WHOLE)
    assert "tops3cret" not in f"{settings} {settings!r} {settings.model_dump_json()}"
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment({**WHOLE, "INSTRUCTDIFFUSION_STORE_PORT": "x"})
    assert "tops3cret" not in str(caught.value)


def test_local_servers_can_be_configured_before_they_run() -> None:
    settings = Settings.from_environment({"INSTRUCTDIFFUSION_TRACKING_PORT": "5001"}, needs=())
    assert settings.tracking_port == 5001
    with pytest.raises(ConfigError, match="INSTRUCTDIFFUSION_STORE_ENDPOINT"):
        Store.open(settings)


def test_what_a_training_asks_for_is_one_variable_of_json() -> None:
    given = {"INSTRUCTDIFFUSION_TRAINING": '{"nodes": 2, "resources": {"nvidia.com/gpu": "4"}}'}
    settings = Settings.from_environment(given, needs=())
    assert (settings.training.nodes, settings.training.processes) == (2, 2)
    assert Settings.from_environment(settings.environment(), needs=()) == settings


@pytest.mark.parametrize(
    ("text", "told"), [("two nodes", "write JSON"), ('{"nodes": 0}', "nodes: "), ('{"node": 2}', "node: ")]
)
def test_a_wrong_training_is_told_by_its_part(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        Settings.from_environment({"INSTRUCTDIFFUSION_TRAINING": text}, needs=())
    assert "INSTRUCTDIFFUSION_TRAINING is wrong" in str(caught.value)


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environment({**WHOLE, "INSTRUCTDIFFUSION_STORE_BUCKET": ""}).store_bucket


def test_every_setting_says_what_it_means() -> None:
    assert [field for field in NAMES if not Settings.meaning(field)] == []
