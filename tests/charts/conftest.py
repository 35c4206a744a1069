"""Every scenario of the chart, rendered once."""

from __future__ import annotations

import pytest

pytest.importorskip("helm_python", reason="helm-python-sdk is not installed; run: make setup")

from charts.rendering import SCENARIOS, Object, objects_of, values_of


@pytest.fixture(scope="session", params=sorted(SCENARIOS))
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """What each scenario installs."""
    return objects_of(values_of(request.param))


@pytest.fixture(scope="session")
def evaluation() -> list[Object]:
    """What the evaluation profile installs."""
    return objects_of(values_of("evaluation-default"))


@pytest.fixture(scope="session")
def production() -> list[Object]:
    """What the production profile installs, with all that a team would set."""
    return objects_of(values_of("production-full"))
