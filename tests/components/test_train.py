"""The train step for real: a tiny model, DeepSpeed, two nodes, a tracker."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from components.conftest import Servers

from instructdiffusion.components import encode, synthesize, train
from instructdiffusion.components.reporter import TrackingReporter
from instructdiffusion.components.settings import Settings, Training
from instructdiffusion.components.storage import Store
from instructdiffusion.components.tracking import Tracker
from instructdiffusion.model import account
from instructdiffusion.model.config import override
from instructdiffusion.model.data.latents import Latents
from instructdiffusion.model.errors import ServiceError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.latest import marks
from instructdiffusion.model.recipes import smoke
from instructdiffusion.model.report import Silent

pytest.importorskip("deepspeed")


class Progress(Silent):
    """A reporter that keeps how far a training was."""

    def __init__(self, done: list[tuple[int, int]]) -> None:
        self.done = done

    def progress(self, done: int, total: int, text: str) -> None:
        self.done.append((done, total))


class Killing(Progress):
    """Kills the second rank, once, when step 3 is told."""

    def progress(self, done: int, total: int, text: str) -> None:
        if done == 3 and (3, total) not in self.done:
            ours = psutil.Process().children(recursive=True)
            (rank,) = (p for p in ours if "training_node" in " ".join(p.cmdline()) and p.environ().get("RANK") == "1")
            rank.kill()
        super().progress(done, total, text)


class Stopping(Progress):
    """Sends SIGTERM to torchrun, once, when step 3 is told."""

    def progress(self, done: int, total: int, text: str) -> None:
        if done == 3:
            ours = psutil.Process().children(recursive=True)
            (torchrun,) = (p for p in ours if "torch.distributed.run" in p.cmdline())
            torchrun.terminate()
        super().progress(done, total, text)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny untrained model, and latents under it."""
    from instructdiffusion.model import network
    from instructdiffusion.model.data.shards import read_triplets

    folder, run = tmp_path_factory.mktemp("prepared"), smoke()
    counts = {"remove": 4, "denoise": 4}
    shards = synthesize.run(folder / "shards", split="train", counts=counts, size=run.network.size, seed=0).path
    pictures = (triplet.source for triplet in read_triplets(shards))
    model = network.save(network.create(run.network, run.diffusion, pictures), folder / "model")
    return encode.run(shards, model, folder / "latents", states=not run.train_text).path, model


@dataclass
class Trained:
    """A training on two nodes of one process each, and all that was told of it."""

    out: Path
    weights: Path
    client: Any
    run_id: str
    done: list[tuple[int, int]]


@pytest.fixture(scope="module")
def trained(prepared: tuple[Path, Path], servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    (data, model), out, done = prepared, tmp_path_factory.mktemp("trained") / "out", list[tuple[int, int]]()
    tracker = Tracker(servers.tracker.address, "tests")
    with pytest.MonkeyPatch.context() as patch, tracker.open_run("two nodes") as tracked:
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
        reporter = TrackingReporter(tracked, on_progress=lambda *told: done.append(told[:2]), interval=0)
        told: dict[str, Any] = {"env": tracked.environment(), "report": reporter}
        weights = train.run(smoke(), data, out, model=model, nodes=2, processes_per_node=1, **told)
        assert reporter.close() == 0
    return Trained(out, weights, tracker.client, tracked.run_id, done)


@pytest.mark.slow
def test_two_nodes_train_and_all_is_told_to_the_tracker(prepared: tuple[Path, Path], trained: Trained) -> None:
    steps = smoke().optim.steps
    assert trained.done[-1] == (steps, steps)
    assert digest_of(trained.weights) != digest_of(prepared[1])
    assert json.loads((trained.out / "training.json").read_text())["processes"] == 2
    environment = json.loads((trained.out / "job.json").read_text())["spec"]["trainer"]["env"]
    assert {"name": "MLFLOW_RUN_ID", "value": trained.run_id} in environment
    told = trained.client.get_run(trained.run_id).data.metrics
    assert {"loss", "gradient_norm", "average_distance", "mixture/off", "waiting", "memory_gib"} <= {*told}
    history = trained.client.get_metric_history(trained.run_id, "loss")
    assert sorted(point.step for point in history) == [*range(1, steps + 1)]
    pictures = {file.path.split("+")[2] for file in trained.client.list_artifacts(trained.run_id, "images")}
    assert pictures == {"2", "4"}  # the steps that sheets were drawn at


@pytest.mark.slow
def test_each_node_tells_how_its_machine_does(trained: Trained) -> None:
    told = trained.client.get_run(trained.run_id).data.metrics
    for node in ("node-0", "node-1"):
        assert told[f"system/{node}/system_memory_usage_megabytes"] > 0


@pytest.mark.slow
def test_data_that_comes_from_the_store_trains_the_same_weights(
    prepared: tuple[Path, Path],
    trained: Trained,
    store: Store,
    settings: Settings,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, model = prepared
    for key, value in {**settings.environment(), "TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    address = store.put_directory(data, name)
    streamed = train.run(smoke(), address, tmp_path / "out", model=model, settings=settings)
    assert digest_of(streamed) == digest_of(trained.weights)
    assert not [*tmp_path.glob("instructdiffusion-*")]


@pytest.mark.slow
def test_what_is_trained_is_not_trained_again_and_another_training_never_gets_its_weights(
    prepared: tuple[Path, Path], trained: Trained
) -> None:
    (data, model), run = prepared, smoke()
    before = len(trained.done)
    settings = Settings(training=Training(nodes=1, processes=2))  # the same number of processes
    told = override(run, ["log_every=2", "optim.zero_stage=2"])  # nothing that is learned hangs on them
    for same in (run, told):
        again = train.run(same, data, trained.out, model=model, report=Progress(trained.done), settings=settings)
        assert again == trained.weights
    assert len(trained.done) == before

    wrong = run.model_copy(update={"train_text": False})  # the latents hold tokens, no states
    with pytest.raises(ServiceError, match=r"rank 0 ended with .*train_text=False; encode again") as caught:
        train.run(wrong, data, trained.out, model=model, processes_per_node=1)
    assert "\n" not in str(caught.value)
    assert not trained.weights.exists()
    assert not (trained.out / "DONE").exists()


@pytest.mark.slow
def test_a_training_whose_rank_is_killed_goes_on_by_itself_and_from_the_store_when_its_disk_is_gone(
    prepared: tuple[Path, Path], settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data, model), out, done = prepared, tmp_path / "out", list[tuple[int, int]]()
    run = override(smoke(), ["optim.steps=8", "checkpoint_every=1", "account=true", "samples_every=0"])
    asked = settings.model_copy(update={"training": Training(checkpoints=2)})
    weights = train.run(run, data, out, model=model, report=Killing(done), settings=asked)
    assert "rank 1 ended with signal SIGKILL" in caplog.text
    assert done[-1] == (8, 8)
    drawn, due = account.read(out), Latents.open(data).mixture(run.seed, {}).draws(range(32))
    assert [sorted(numbers) for numbers in drawn.values()] == [sorted(due[i : i + 4]) for i in range(0, 32, 4)]

    made, (newest, _) = digest_of(weights), marks(out / "checkpoints")
    shutil.rmtree(out)
    done.clear()
    weights = train.run(run, data, out, model=model, report=Progress(done), settings=asked)
    assert done == [(step, 8) for step in range(newest["step"] + 1, 9)]
    assert digest_of(weights) == made


@pytest.mark.slow
def test_a_training_whose_torchrun_is_told_to_stop_is_saved_by_all_ranks_and_goes_on_from_there(
    prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    (data, model), out, done = prepared, tmp_path / "out", list[tuple[int, int]]()
    run = override(smoke(), ["optim.steps=40", "checkpoint_every=100", "account=true", "samples_every=0"])
    with pytest.raises(ServiceError, match="got signal: 15"):
        train.run(run, data, out, model=model, report=Stopping(done))
    ((step, _), (mark,)) = done[-1], marks(out / "checkpoints")
    assert 3 <= step == mark["step"] < 40
    for rank in (0, 1):
        (log,) = (out / "logs").glob(f"node-0/*/attempt_0/{rank}/stderr.log")
        assert f"told to stop after step {step} of 40; the same command goes on" in log.read_text()
        assert (out / "checkpoints" / mark["tag"] / f"weight-{rank}.safetensors").is_file()
    assert [*account.read(out)] == [*range(1, step + 1)]

    done.clear()
    train.run(run, data, out, model=model, report=Progress(done))
    assert done == [(number, 40) for number in range(step + 1, 41)]
    drawn, due = account.read(out), Latents.open(data).mixture(run.seed, {}).draws(range(160))
    assert [sorted(numbers) for numbers in drawn.values()] == [sorted(due[i : i + 4]) for i in range(0, 160, 4)]
