"""`instructdiffusion train plan`: memory, hours and cost, for people and for machines."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from instructdiffusion.model.errors import ConfigError
from instructdiffusion.pipelines.cli import app

pytest.importorskip("deepspeed")


def plan(*arguments: str) -> str:
    ended = CliRunner().invoke(app, ["train", "plan", *arguments], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def facts(*arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(plan(*arguments, "--json"))
    return told


def test_nothing_else_is_on_the_standard_output_of_json() -> None:
    command = [sys.executable, "-m", "instructdiffusion.pipelines", "train", "plan", "smoke", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(ended.stdout)["learning"] > 0


def test_hours_and_cost_follow_from_a_measured_rate() -> None:
    told = facts("train", "--processes", "2", "--rate", "8", "--price", "1.5", "--set", "optim.steps=7200")
    assert told["triplets"] == 7200 * 32
    assert told["hours"] == pytest.approx(7200 * 32 / 16 / 3600)
    assert told["cost"] == pytest.approx(told["hours"] * 2 * 1.5)
    assert told["host_bytes"] <= sum(told["host"].values())
    assert told["device"] == {}
    assert told["share"] is None


def test_of_a_gpu_it_is_told_whether_the_training_fits() -> None:
    large = ("paper", "--set", "optim.micro_batch=64", "--set", "optim.gradient_checkpointing=false")
    assert "this does not fit in 16 GiB" in " ".join(plan(*large, "--gpu", "T4", "--processes", "48").split())
    told = facts("train", "--gpu", "H200", "--processes", "2")
    assert told["fits"] is True
    assert told["device_bytes"] == sum(told["device"].values())
    half = facts("train", "--gpu", "H200", "--processes", "2", "--share", "0.15")
    assert half["hours"] == pytest.approx(2 * told["hours"])
    assert "if 0.15 of what the GPU computes" in " ".join(plan("train", "--gpu", "H200", "--share", "0.15").split())


def test_a_gpu_that_is_not_known_is_one_line() -> None:
    ended = CliRunner().invoke(app, ["train", "plan", "train", "--gpu", "B52"])
    assert ended.exit_code == ConfigError.exit_code
    assert "--gpu B52: not known; choose one of T4" in ended.stderr
