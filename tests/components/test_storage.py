"""The store against a real S3 server."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from components.conftest import Servers
from relay import Relay

from instructdiffusion.components.process import free_ports
from instructdiffusion.components.settings import Settings
from instructdiffusion.components.storage import Store
from instructdiffusion.model.errors import ConfigError, DataError, ServiceError
from instructdiffusion.model.files import digest_of

SECRET = "INSTRUCTDIFFUSION_STORE_SECRET_KEY"


def test_a_folder_comes_back_as_it_was_sent(store: Store, folder: Path, name: str, tmp_path: Path) -> None:
    uri = store.put_directory(folder, name)
    back = store.get_directory(uri, tmp_path / "back")
    assert digest_of(back) == digest_of(folder)
    assert not (back / ".hidden").exists()
    assert store.exists(uri)
    assert not store.exists(f"{uri}-other")


def test_a_name_by_content_is_the_same_for_the_same_content(store: Store, folder: Path, name: str) -> None:
    first = store.put_directory(folder, name, by_content=True)
    assert re.fullmatch(rf"s3://instructdiffusion/{name}/sha256-[0-9a-f]{{64}}", first)
    assert store.put_directory(folder, name, by_content=True) == first
    (folder / "editor.json").write_text("{}")
    assert store.put_directory(folder, name, by_content=True) != first


def test_what_is_there_is_not_sent_again(store: Store, folder: Path, name: str) -> None:
    store.put_directory(folder, name)
    before = written(store, name)
    store.put_directory(folder, name)
    (folder / "editor.json").write_text('{"resolution": 128}')
    store.put_directory(folder, name)
    after = written(store, name)
    changed = {key for key in after if before.get(key) != after[key]}
    assert changed == {f"{name}/editor.json", f"{name}/.files.json"}


def test_an_interrupted_upload_is_not_taken_for_whole_and_goes_on(
    store: Store, folder: Path, name: str, tmp_path: Path
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put_directory(folder, name, sent=interrupt)
    uri = store.uri(name)
    started = written(store, name)
    assert started  # what was on its way when it broke off may be there, the list of files is not
    assert f"{name}/.files.json" not in started
    assert not store.exists(uri)
    with pytest.raises(ServiceError, match="not whole"):
        store.get_directory(uri, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    store.put_directory(folder, name)
    assert started.items() <= written(store, name).items()
    assert digest_of(store.get_directory(uri, tmp_path / "back")) == digest_of(folder)


def test_a_damaged_object_is_named_and_nothing_is_left(store: Store, folder: Path, name: str, tmp_path: Path) -> None:
    uri = store.put_directory(folder, name)
    other = tmp_path / "other.json"
    other.write_text('{"resolution": 65}')
    store.put_file(other, f"{name}/editor.json")
    with pytest.raises(DataError, match=r"editor\.json is damaged"):
        store.get_directory(uri, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_what_came_of_a_folder_before_an_outage_is_not_fetched_again(
    servers: Servers, settings: Settings, store: Store, name: str, tmp_path: Path
) -> None:
    many, relay = tmp_path / "many", Relay(servers.store, kill=False)
    for number in range(24):
        (many / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        (many / f"{number % 3}/{number}.bin").write_bytes(os.urandom(100_000))
    uri = store.put_directory(many, name)
    far, back = Store.open(settings.model_copy(update={"store_endpoint": relay.endpoint})), tmp_path / "back"
    back.mkdir()
    (back / "old.bin").write_bytes(b"of the version before")

    relay.left = 1_200_000
    with pytest.raises(ServiceError, match=relay.endpoint):
        far.get_directory(uri, back)
    assert [path.name for path in back.iterdir()] == ["old.bin"]
    part = tmp_path / ".back.part"
    came = {path: path.stat().st_ino for path in part.rglob("*.bin")}
    assert 2 < len(came) < 24
    (part / "stray.bin").write_bytes(b"of the version before")
    next(iter(came)).write_bytes(os.urandom(100_000))

    relay.left = 2**62
    assert far.get_directory(uri, back) == back
    assert digest_of(back) == digest_of(many)
    assert 2**62 - relay.left < 100_000 * (24 - len(came) + 2)
    assert not part.exists()


def test_who_wants_the_same_folder_at_the_same_time_gets_it(
    store: Store, folder: Path, name: str, tmp_path: Path
) -> None:
    uri = store.put_directory(folder, name)
    with ThreadPoolExecutor(3) as pool:
        made = [*pool.map(lambda _: store.get_directory(uri, tmp_path / "back"), range(3))]
    assert made == 3 * [tmp_path / "back"]
    assert digest_of(tmp_path / "back") == digest_of(folder)


def test_a_listed_file_cannot_leave_its_folder(store: Store, name: str, tmp_path: Path) -> None:
    listing = tmp_path / "listing"
    listing.write_text(json.dumps({"../escaped": {"size": 1, "sha256": "sha256:0"}}))
    store.put_file(listing, f"{name}/.files.json")
    with pytest.raises(DataError, match="outside its folder"):
        store.get_directory(store.uri(name), tmp_path / "in" / "back")
    assert not (tmp_path / "in" / "escaped").exists()


def test_a_file_comes_back_and_a_copy_is_kept(store: Store, folder: Path, name: str, tmp_path: Path) -> None:
    uri = store.put_file(folder / "editor.json", name)
    copy = store.get_file(uri, tmp_path / "copy.json")
    stamp = copy.stat().st_mtime_ns
    assert store.get_file(uri, copy).stat().st_mtime_ns == stamp
    copy.write_text("spoilt")
    assert store.get_file(uri, copy).read_text() == '{"resolution": 64}'
    with pytest.raises(ServiceError, match="is not in the store"):
        store.get_file(f"{uri}-other", copy)


def test_wrong_secret_is_one_line_without_the_secret(settings: Settings, folder: Path) -> None:
    store = Store(settings.store_endpoint, settings.store_access_key, "wr0ng-secret", settings.store_bucket)
    for call in (
        store.ensure_bucket,
        lambda: store.put_directory(folder, "x"),
        lambda: store.exists(store.uri("x")),
    ):
        with pytest.raises(ServiceError) as caught:
            call()
        message = str(caught.value)
        assert settings.store_endpoint in message
        assert SECRET in message
        assert "wr0ng" not in message
        assert "\n" not in message


def test_a_store_that_is_down_is_one_line_with_the_setting(folder: Path) -> None:
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    store = Store(endpoint, "key", "s3cret", "bucket")
    with pytest.raises(ServiceError) as caught:
        store.put_directory(folder, "x")
    assert endpoint in str(caught.value)
    assert "INSTRUCTDIFFUSION_STORE_ENDPOINT" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_bucket_that_is_missing_is_named(settings: Settings, folder: Path) -> None:
    settings = settings.model_copy(update={"store_bucket": "not-there"})
    with pytest.raises(ServiceError, match="no bucket not-there"):
        Store.open(settings).put_directory(folder, "x")


def test_addresses_of_another_bucket_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="INSTRUCTDIFFUSION_STORE_BUCKET"):
        store.get_directory("s3://elsewhere/x", tmp_path / "x")


def test_an_empty_or_missing_folder_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        store.put_directory(tmp_path, "x")
    with pytest.raises(DataError, match="is not a folder"):
        store.put_directory(tmp_path / "nowhere", "x")


def written(store: Store, name: str) -> dict[str, str]:
    """When each object under a name was written, as the server tells it."""
    client = store._client
    found = client.list_objects(store.bucket, prefix=f"{name}/", recursive=True)
    return {str(o.object_name): f"{o.etag} {o.last_modified}" for o in found}
