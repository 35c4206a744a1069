"""`demo --rank label-studio`: the servers that the demo starts for it, and its way of ranking through them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from labeling.proposed import propose
from rich.console import Console

from instructdiffusion.components import rank
from instructdiffusion.components.settings import Settings
from instructdiffusion.labeling.rankings import FILE, REFERENCE, read
from instructdiffusion.pipelines import demo, machine
from instructdiffusion.pipelines.show import Steps

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.usefixtures("labels")  # starts a server once, which leaves a fresh database
def test_edits_are_ranked_by_two_accounts_of_the_server_that_the_demo_starts(fresh: Path, tmp_path: Path) -> None:
    propose(tmp_path, {"denoise": 2}, size=32)
    shutil.copytree(fresh, tmp_path / "label-studio")
    ports = dict.fromkeys(machine.SERVERS, 0)
    with demo.servers(tmp_path, ports, Steps(Console(quiet=True)), "label-studio") as (environment, addresses):
        assert {*addresses} == {"object store", "tracker", "Label Studio"}
        made = rank.run(
            tmp_path / "candidates",
            tmp_path / "data",
            tmp_path / "rankings",
            annotator="label-studio",
            settings=Settings.from_environment(environment),
        )
    assert made.facts["annotators"] == {f"{REFERENCE} 1": 2, f"{REFERENCE} 2": 2}
    assert all(ranking.edits for ranking in read(made.path / FILE))
