"""Checkpoints in a real store: kept, pruned, and brought back to an empty disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from instructdiffusion.components.keeper import Keeper, to_keep
from instructdiffusion.components.process import free_ports
from instructdiffusion.components.settings import Settings
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import DataError, ServiceError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.latest import LATEST, Done, marks


def save(folder: Path, step: int) -> None:
    """Write what a checkpoint is to a keeper: a folder, and its mark before that of the one before."""
    tag = f"step-{step:07d}"
    (folder / tag).mkdir(parents=True)
    (folder / tag / "weight-0.safetensors").write_bytes(bytes([step]) * 1000)
    new = {"tag": tag, **Done(step)._asdict(), "digest": digest_of(folder / tag)}
    (folder / LATEST).write_text(json.dumps([new, *marks(folder)][:2]))


def steps(store: Store, name: str) -> list[int]:
    """The steps of the whole checkpoints in the store."""
    return [step for step in range(100) if store.exists(store.uri(f"{name}/step-{step:07d}"))]


def test_the_newest_stay_and_every_so_many_steps_one_for_good() -> None:
    assert to_keep([500, 1000, 1500, 2000, 2500], last=2, every=0) == {2000, 2500}
    assert to_keep([2500, 2000, 1500, 1000, 500], last=1, every=1000) == {1000, 2000, 2500}


def test_an_empty_disk_gets_the_newest_checkpoint_and_the_store_only_those_that_the_policy_keeps(
    store: Store, name: str, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    keeper = Keeper(store, name, here, last=2, every=3, pause=0.05)
    keeper.fetch()  # nothing anywhere: a training begins
    assert marks(here) == []
    for step in (2, 3, 4, 5):
        save(here, step)
        assert keeper.send()
    with keeper.keeping():
        save(here, 6)
    assert steps(store, name) == [3, 5, 6]

    Keeper(store, name, there, last=2).fetch()
    assert [mark["step"] for mark in marks(there)] == [6]
    assert digest_of(there / "step-0000006") == digest_of(here / "step-0000006")
    assert not list(here.glob(".*"))


def test_a_checkpoint_on_the_disk_that_is_newer_or_whole_alone_is_not_replaced(
    store: Store, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    save(here, 4)
    assert Keeper(store, name, here, last=2).send()
    shutil.copytree(here, there)
    save(there, 5)
    Keeper(store, name, there, last=2).fetch()
    assert [mark["step"] for mark in marks(there)] == [5, 4]

    (there / "step-0000005/weight-0.safetensors").write_bytes(b"damaged")
    shutil.rmtree(there / "step-0000004")
    Keeper(store, name, there, last=2).fetch()
    assert [mark["step"] for mark in marks(there)] == [4]
    assert "goes on from s3://" in caplog.text


def test_a_checkpoint_that_is_damaged_in_the_store_is_passed_over(
    store: Store, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    other.write_bytes(b"other bytes")
    keeper = Keeper(store, name, here, last=2)
    for step in (1, 2):
        save(here, step)
        keeper.send()
    store.put_file(other, f"{name}/step-0000002/weight-0.safetensors")
    Keeper(store, name, tmp_path / "there", last=2).fetch()
    assert [mark["step"] for mark in marks(tmp_path / "there")] == [1]
    assert "is damaged" in caplog.text

    store.put_file(other, f"{name}/step-0000001/weight-0.safetensors")
    with pytest.raises(DataError, match=r"all checkpoints in .* are damaged"):
        Keeper(store, name, tmp_path / "nowhere", last=2).fetch()


def test_a_store_that_refuses_for_a_while_gets_the_newest_when_it_takes_it_again(
    settings: Settings, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = Store.open(settings.model_copy(update={"store_bucket": name}))  # there is no such bucket yet
    keeper = Keeper(later, "run", tmp_path / "here", last=2)
    for step in (1, 2):
        save(tmp_path / "here", step)
        assert not keeper.send()
    later.ensure_bucket()
    assert keeper.send()
    assert steps(later, "run") == [2]
    assert caplog.text.count("is not in the store yet") == 1


def test_without_the_store_a_training_goes_on_from_the_disk_or_does_not_begin(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = Store(f"127.0.0.1:{free_ports(1)[0]}", "key", "s3cret", "bucket")
    with pytest.raises(ServiceError, match="INSTRUCTDIFFUSION_STORE_ENDPOINT"):
        Keeper(away, "run", tmp_path / "empty", last=2).fetch()
    save(tmp_path / "here", 3)
    Keeper(away, "run", tmp_path / "here", last=2).fetch()
    assert "goes on from the checkpoint on the disk, of step 3" in caplog.text
