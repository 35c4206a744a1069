"""The loop: it learns, it stops and goes on, and it refuses what does not fit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from faults import spoil
from safetensors.torch import load_file

from instructdiffusion.model import curve, network, recipes
from instructdiffusion.model.config import override, parse
from instructdiffusion.model.data.away import Away
from instructdiffusion.model.data.latents import Latents, encode
from instructdiffusion.model.data.shards import MANIFEST
from instructdiffusion.model.engine import deepspeed_config, join, learning_rate
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of, write_atomic
from instructdiffusion.model.inputs import data_digest, inputs, run_digest, settle
from instructdiffusion.model.train import train
from instructdiffusion.model.weights import model_digest


def _train(
    run_file: Path, data: Path, model: Path, out: Path, processes: int = 1, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the training as torchrun runs it, where a run that was killed while it compiled has left its locks."""
    for operator in ("deepspeed_shm_comm", "cpu_adam"):  # who needs it waits for its lock to go, for ever
        lock = out.parent / "extensions" / operator / "lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "--", "instructdiffusion.model.train_main", "--run", str(run_file), "--data", str(data)]
    paths = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [*command, "--model", str(model), "--out", str(out)],
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "TORCH_EXTENSIONS_DIR": str(out.parent / "extensions"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_processes_train_and_a_run_that_was_cut_off_ends_where_the_whole_one_does(
    latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.json"
    whole.write_text(recipes.smoke().model_dump_json())
    done = _train(whole, latents, tiny_folder, tmp_path / "one", processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # its last checkpoint is that of step 2
    shutil.rmtree(tmp_path / "two" / "model")
    (tmp_path / "two" / "training.json").unlink()  # as if it had been killed before the end
    again = _train(whole, latents, tiny_folder, tmp_path / "two", processes=2, PYTHONPROFILEIMPORTTIME="1")
    assert again.returncode == 0, again.stderr[-2000:]
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", again.stderr, re.MULTILINE))
    assert {"deepspeed.runtime.engine", "diffusers.models.unets.unet_2d_condition"} <= imported
    slow = {"torch._inductor.compile_fx", "pandas", "peft.auto", "scipy.stats"}  # half of what a process would take
    assert slow.isdisjoint(imported)
    weights = [
        load_file(tmp_path / n / "model" / "unet" / "diffusion_pytorch_model.safetensors") for n in ("one", "two")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    start = network.load(tiny_folder).unet.state_dict()
    assert any(not torch.equal(weights[0][name], start[name]) for name in weights[0])
    summary = json.loads((tmp_path / "one" / "training.json").read_text())
    assert (summary["steps"], summary["processes"]) == (4, 2)
    assert [row["step"] for row in summary["curve"]] == [1, 2, 3, 4]
    progress = [json.loads(line) for line in done.stdout.splitlines() if '"progress"' in line]
    assert progress[-1]["progress"] == progress[-1]["total"] == 4


@pytest.mark.slow
def test_a_loss_that_is_no_number_on_one_process_makes_all_leave_the_step_out_and_gauges_are_of_all(
    latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    opened = Latents.open(latents)
    drawn = [opened.mixture(0, {}).draws(range(i, i + 4)) for i in range(0, 16, 4)]
    spoil(latents, drawn[1][1:2])  # of the second process
    run = override(recipes.smoke(), ["account=true", "samples_every=0", "optim.zero_stage=2"])
    (tmp_path / "run.json").write_text(run.model_dump_json())
    done = _train(tmp_path / "run.json", latents, tiny_folder, tmp_path / "out", processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step 2 is left out: the loss is a spike or no number for some of another process's triplets" in done.stderr
    for rank in (0, 1):
        written = [json.loads(line) for line in (tmp_path / f"out/account-{rank}.jsonl").read_text().splitlines()]
        assert [row["numbers"] for row in written] == [drawn[0][rank::2], [], drawn[2][rank::2], drawn[3][rank::2]]
    for step, row in enumerate(curve.read(tmp_path / "out")):
        tasks = Counter(opened.tasks[drawn[step]].tolist()) if step != 1 else Counter[str]()
        told = {name.removeprefix("loss/"): value for name, value in row.items() if name.startswith("loss/")}
        assert told.keys() == tasks.keys()
        if told:
            assert row["loss"] == pytest.approx(sum(told[task] * count for task, count in tasks.items()) / 4)


@pytest.mark.parametrize(
    ("settings", "data", "model", "difference"),
    [
        (["optim.learning_rate=0.1"], "data", "model", "optim.learning_rate=0.001, not 0.1"),
        (["weights.x=2", "seed=1"], "data", "model", "seed=0, not 1; weights.x=None, not 2.0"),
        ([], "other", "model", "its data is data, not other"),
        ([], "data", "other", "its model is model, not other"),
    ],
)
@pytest.mark.parametrize("held", ["training.json", "checkpoints/LATEST"])
def test_a_folder_that_holds_another_training_is_refused_and_left_as_it_is(
    held: str, settings: list[str], data: str, model: str, difference: str, tmp_path: Path
) -> None:
    run = recipes.smoke()
    settle(tmp_path, run, inputs(run, "data", "model"))
    write_atomic(tmp_path / held, "[]")
    before, other = digest_of(tmp_path), override(run, settings)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path} holds another training ({difference}); ")):
        settle(tmp_path, other, inputs(other, data, model))
    assert digest_of(tmp_path) == before


def test_a_folder_takes_what_changes_nothing_that_is_learned_and_anything_while_it_holds_nothing(
    tmp_path: Path,
) -> None:
    run = recipes.smoke()
    settle(tmp_path, override(run, ["seed=7"]), inputs(run, "other", "other"))
    settle(tmp_path, run, inputs(run, "data", "model"))
    write_atomic(tmp_path / "training.json", "{}")
    same = override(run, ["checkpoint_every=3", "optim.zero_stage=3", "optim.offload=all"])
    assert inputs(same, "data", "model") == inputs(run, "data", "model")  # so that steps find its folder, and keep it
    assert run_digest(override(run, ["optim.clip=2"])) != run_digest(run)
    settle(tmp_path, same, inputs(same, "data", ""))  # a model in memory has no digest
    assert parse(json.loads((tmp_path / "run.json").read_text())) == same


def test_a_data_set_has_one_digest_wherever_it_is(latents: Path, tmp_path: Path) -> None:
    def fetch(name: str, to: Path, *, patience: float) -> None:
        shutil.copyfile(latents / name, to)

    assert data_digest(latents) == data_digest(Away("s3://x", fetch, tmp_path, 0)) == digest_of(latents / MANIFEST)
    with pytest.raises(DataError, match=r"holds no manifest\.json: not a finished data set"):
        data_digest(tmp_path)


def test_a_training_that_is_done_is_returned_to_who_asks_for_it_alone(
    latents: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run, out = recipes.smoke(), tmp_path / "out"
    settle(out, run, inputs(run, data_digest(latents), model_digest(tiny_folder)))
    (out / "training.json").write_text("{}")
    assert train(run, latents, tiny_folder, out) == out / "model"
    with pytest.raises(DataError, match=r"/out holds another training \(seed=0, not 1\)"):
        train(override(run, ["seed=1"]), latents, tiny_folder, out)


def test_what_does_not_fit_is_one_line_and_no_traceback(latents: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.json"
    run.write_text(override(recipes.smoke(), ["train_text=false"]).model_dump_json())
    command = [sys.executable, "-m", "instructdiffusion.model.train_main", "--run", str(run), "--data", str(latents)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [*command, "--model", str(tiny_folder), "--out", str(tmp_path / "out")],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == DataError.exit_code
    assert "encode again with states=True" in done.stderr
    assert "Traceback" not in done.stderr


def test_latents_are_the_encoded_triplets(latents: Path, shards: Path, tiny_folder: Path, tmp_path: Path) -> None:
    tokens = Latents.open(latents)
    source, target, text = tokens.batch([0, 7])
    assert source.shape == target.shape == (2, 12, 8, 8)
    assert text.dtype == torch.int64
    encode(shards, tiny_folder, tmp_path / "states")
    assert Latents.open(tmp_path / "states").batch([0])[2].shape == (1, 60, 32)
    next((tmp_path / "states").glob("*.safetensors")).write_bytes(b"broken")
    with pytest.raises(DataError, match="is damaged: its digest is not the manifest's"):
        Latents.open(tmp_path / "states")


def test_all_mistakes_of_a_run_are_listed_at_once() -> None:
    values = recipes.base().model_dump()
    values["optim"]["steps"], values["speed"] = 0, 3
    with pytest.raises(ConfigError, match=r"optim\.steps.*speed|speed.*optim\.steps"):
        parse(values)
    with pytest.raises(ConfigError, match=r"not a multiple of optim\.micro_batch=5"):
        override(recipes.base(), ["optim.micro_batch=5"])
    with pytest.raises(ConfigError, match="has no value"):
        override(recipes.base(), ["optim.steps"])


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("=3", "setting '=3' has no name; write it as name=value"),
        ("name.x=3", r"setting 'name\.x=3': name is no section, it has a value; leave out \.x"),
        ("optim.steps.x=3", r"setting 'optim\.steps\.x=3': steps is no section"),
        ("optim.steps=[", r"setting 'optim\.steps=\[' has a value that is no YAML; write it in quotes"),
        ("optim.steps=@x", "has a value that is no YAML"),
        ("seed=2020-13-45", "has a value that is no YAML"),
        ("optim.stepz=3", r"optim\.stepz is not a setting: did you mean optim\.steps\?"),
        ("steps=3", r"steps is not a setting: did you mean optim\.steps\?"),
        ("no.such.thing=3", "no is not a setting; leave it out"),
    ],
)
def test_a_setting_that_there_is_not_is_one_line_with_what_may_be_meant(setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        override(recipes.base(), [setting])
    assert "\n" not in str(caught.value)


def test_a_training_without_deepspeed_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"needs DeepSpeed; run: pip install 'instructdiffusion\[train\]'"):
        join()


def test_deepspeed_is_told_what_the_run_says() -> None:
    config = deepspeed_config(recipes.train(), 2)
    assert config["train_batch_size"] == 32
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * 2 == 32
    assert config["zero_optimization"] == {"stage": 1}


@pytest.mark.parametrize("decay", ["cosine", "wsd"])
def test_the_learning_rate_warms_up_and_falls_to_nothing(decay: str) -> None:
    settings = ["optim.steps=100", "optim.warmup=10", "optim.learning_rate=0.1", f"optim.decay={decay}"]
    run = override(recipes.base(), settings)
    rates = [learning_rate(run, step) for step in range(101)]
    assert (rates[79] == 0.1) == (decay == "wsd")  # the last fifth is its tail
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(0.1)
    assert rates[100] == pytest.approx(0, abs=1e-6)
    assert rates[10:] == sorted(rates[10:], reverse=True)
