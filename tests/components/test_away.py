"""Shards that come from a real store, which is killed while it sends one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from relay import Relay

from instructdiffusion.components.away import away, reach, version
from instructdiffusion.components.process import LOOPBACK
from instructdiffusion.components.servers import seaweed
from instructdiffusion.components.settings import Settings
from instructdiffusion.components.step import data_digest
from instructdiffusion.components.storage import Store
from instructdiffusion.model import recipes
from instructdiffusion.model.data.shards import Manifest, Shard
from instructdiffusion.model.errors import ConfigError, DataError, ServiceError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.train_main import main

BYTES = 3_000_000  # of a shard
ENOUGH = 1_200_000  # bytes after which the store is killed: more than one piece, less than a shard


def uploaded(store: Store, folder: Path, name: str) -> str:
    """A data set of one shard, whose bytes are of chance."""
    folder.mkdir()
    (folder / "a.tar").write_bytes(os.urandom(BYTES))
    shard = Shard(name="a.tar", digest=digest_of(folder / "a.tar"), count=1, origins=(("", 1),), tasks=(("remove", 1),))
    Manifest(size=32, split="train", seed=0, counts={"remove": 1}, shards=(shard,)).save(folder)
    return store.put_directory(folder, name)


def test_an_outage_in_mid_shard_is_survived_and_what_had_come_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        server = stack.enter_context(seaweed(tmp_path / "store"))
        settings = Settings.from_environment(server.environment, needs=["store"])
        (store := Store.open(settings)).ensure_bucket()
        address = uploaded(store, tmp_path / "set", "set")
        relay = Relay(server)
        there = away(address, settings.model_copy(update={"store_endpoint": relay.endpoint}))
        (shard,) = there.manifest().shards

        relay.left = ENOUGH
        coming = pool.submit(there.path, shard)
        assert relay.broken.wait(60)
        port = int(server.address.rpartition(":")[2])
        server.process.stop()
        part = there.cache / ".a.tar.part"
        assert 0 < part.stat().st_size < BYTES
        assert not coming.done()
        came = part.stat().st_size
        relay.left = 2**62
        stack.enter_context(seaweed(tmp_path / "store", port))
        assert coming.result(120) == there.cache / "a.tar"
        assert digest_of(there.cache / "a.tar") == shard.digest
        assert BYTES - came <= 2**62 - relay.left < BYTES


def test_a_store_that_is_gone_for_good_is_one_line_that_names_shard_and_setting(
    settings: Settings, store: Store, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    there = away(uploaded(store, tmp_path / "set", name), settings)
    (shard,) = there.manifest().shards
    gone = settings.model_copy(update={"store_endpoint": f"{LOOPBACK}:9"})
    with pytest.raises(ServiceError) as caught:
        replace(there, fetch=away(there.address, gone).fetch, patience=0.1).path(shard)
    assert f"{LOOPBACK}:9" in str(caught.value)
    assert f"{there.address}/a.tar" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ServiceError, match=r"b\.tar is not in the store"):
        there.path(shard.model_copy(update={"name": "b.tar"}))  # which is no outage, and not waited for
    with pytest.raises(DataError, match=r"a\.tar is damaged"):
        there.path(shard.model_copy(update={"digest": "sha256:0"}))


def test_a_version_is_told_from_its_manifest_alone(store: Store, name: str, tmp_path: Path) -> None:
    address = uploaded(store, tmp_path / "set", name)
    with version(address, lambda: store) as folder, version(tmp_path / "set", lambda: store) as here:
        assert (here, [*folder.iterdir()]) == (tmp_path / "set", [folder / "manifest.json"])
        assert data_digest(folder) == data_digest(here)
    assert not folder.exists()


def test_an_address_needs_a_store_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("INSTRUCTDIFFUSION_STORE_ENDPOINT", raising=False)
    assert reach(str(tmp_path)) == tmp_path
    with pytest.raises(ConfigError, match="INSTRUCTDIFFUSION_STORE_ENDPOINT is not set"):
        reach("s3://bucket/set")
    (tmp_path / "run.json").write_text(recipes.smoke().model_dump_json())
    code = main(
        ["--run", str(tmp_path / "run.json"), "--data", "s3://bucket/set", "--out", str(tmp_path / "out")], reach
    )
    assert code == ConfigError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: INSTRUCTDIFFUSION_STORE_ENDPOINT is not set")
