"""Shards that come while they are read: the same draws as from a folder, in bounded room, whole or not at all."""

from __future__ import annotations

import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from instructdiffusion.model import recipes
from instructdiffusion.model.data.away import Away, within
from instructdiffusion.model.data.batches import Batches
from instructdiffusion.model.data.latents import FIRST, Latents, encode
from instructdiffusion.model.data.live import Live
from instructdiffusion.model.data.shards import MANIFEST, Manifest, read_triplets, write_shard
from instructdiffusion.model.errors import DataError, ServiceError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.network import Model
from instructdiffusion.model.samples import Samples, first_of_each_task

STEP = 4  # draws


class Far:
    """A folder that is read as if it were far away, and that remembers what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.down = folder, list[str](), False

    def __call__(self, name: str, to: Path, *, patience: float) -> None:
        self.asked.append(name)
        if not (self.folder / name).is_file():
            raise ServiceError(f"there is no {name}")
        with (self.folder / name).open("rb") as file, to.open("ab") as part:
            file.seek(part.tell())
            part.write(file.read(1000 if self.down else -1))
        if self.down:
            raise ServiceError("no answer")


@pytest.fixture
def many(shards: Path, tmp_path: Path) -> Path:
    """The tiny data set in shards of three triplets."""
    folder, triplets = tmp_path / "many", [*read_triplets(shards)]
    parts = [triplets[i : i + 3] for i in range(0, len(triplets), 3)]
    made = tuple(write_shard(folder / f"{i:02d}.tar", part) for i, part in enumerate(parts))
    Manifest.load(shards).model_copy(update={"shards": made}).save(folder)
    return folder


def away(far: Far, tmp_path: Path, room: int = 2**40) -> Away:
    return Away("s3://bucket/many", far, tmp_path / "cache", room)


def steps(batches: Batches[Any], count: int) -> list[tuple[list[int], list[str], torch.Tensor]]:
    """What so many steps of a training draw."""
    mixture, drawn = batches.mixture(3, {}), []
    for place in range(0, count * STEP, STEP):
        batches.expect(mixture, place, STEP)
        numbers = mixture.draws(range(place, place + STEP))
        drawn.append((numbers, batches.tasks[numbers].tolist(), batches.batch(numbers)[0]))
    return drawn


def kept(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("*.tar"))


@pytest.mark.parametrize("shards_at_hand", [3, 1000])
def test_what_is_drawn_is_what_a_folder_gives_and_no_more_is_kept_than_there_is_room_for(
    shards_at_hand: int, many: Path, tiny: Model, tmp_path: Path
) -> None:
    far, largest = Far(many), max(path.stat().st_size for path in many.glob("*.tar"))
    there = away(far, tmp_path, room=shards_at_hand * largest)
    here, coming = Live.open(many, tiny, True), Live.open(there, tiny, True)
    assert sorted(far.asked) == [MANIFEST]  # no shard is read to find out what is in it
    for one, other in zip(steps(here, 20), steps(coming, 20), strict=True):
        assert one[:2] == other[:2]
        torch.testing.assert_close(one[2], other[2], rtol=0, atol=0)
        assert kept(there.cache) <= (shards_at_hand + STEP) * largest
    there.close()
    assert not there.cache.exists()


def test_latents_come_as_shards_do(many: Path, tiny: Model, tmp_path: Path) -> None:
    encode(many, tiny, tmp_path / "latents")
    coming = Latents.open(away(Far(tmp_path / "latents"), tmp_path))
    assert not coming.tokens
    for one, other in zip(steps(Latents.open(tmp_path / "latents"), 5), steps(coming, 5), strict=True):
        assert one[:2] == other[:2]
        torch.testing.assert_close(one[2], other[2], rtol=0, atol=0)


def test_sheets_of_samples_show_what_those_of_a_folder_do_and_fetch_no_more(
    many: Path, tiny: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode(many, tiny, tmp_path / "latents")
    seen, needed = set[str](), [MANIFEST]
    for shard in Manifest.load(many).shards:
        tasks = {task for task, _ in shard.tasks}
        needed += [] if tasks <= seen else [shard.name]
        seen |= tasks
    for folder, files in ((many, needed), (tmp_path / "latents", [MANIFEST, FIRST])):
        far = Far(folder)
        found = first_of_each_task(Away("s3://bucket/many", far, tmp_path / f"cache-{folder.name}", 2**40))
        assert [triplet.key for triplet in found] == [triplet.key for triplet in first_of_each_task(many)]
        assert far.asked == files
    (tmp_path / "latents" / FIRST).unlink()  # as encoded by an earlier version
    assert Samples.of(recipes.smoke(), tiny, away(Far(tmp_path / "latents"), tmp_path)) is None
    assert "s3://bucket/many holds no pictures to draw samples of (there is no first.tar)" in caplog.text


def test_a_manifest_that_does_not_tell_whose_triplets_are_where_means_the_same_but_has_to_be_at_hand(
    many: Path, tiny: Model, tmp_path: Path
) -> None:
    told, manifest = Live.open(many, tiny, True), Manifest.load(many)
    silent = tuple(shard.model_copy(update={"origins": (), "tasks": ()}) for shard in manifest.shards)
    manifest.model_copy(update={"shards": silent}).save(many)
    untold = Live.open(many, tiny, True)
    assert [one[:2] for one in steps(untold, 3)] == [one[:2] for one in steps(told, 3)]
    with pytest.raises(DataError, match=r"the manifest of s3://bucket/many is of an earlier version.* or download it"):
        Live.open(away(Far(many), tmp_path), tiny, True)


def test_who_shares_a_cache_fetches_a_shard_once(many: Path, tmp_path: Path) -> None:
    far = Far(many)
    both = [away(far, tmp_path), away(far, tmp_path)]
    shards = both[0].manifest().shards
    with ThreadPoolExecutor(4) as pool:
        paths = [*pool.map(lambda one: [one.path(shard) for shard in shards], both * 2)]
    assert paths.count(paths[0]) == 4
    assert sorted(far.asked) == [*(shard.name for shard in shards), MANIFEST]


def test_shards_may_come_while_room_is_made(many: Path, tmp_path: Path) -> None:
    there = away(Far(many), tmp_path)
    shards = there.manifest().shards
    names = [shards[0].model_copy(update={"name": f"n{number}.tar"}) for number in range(3000)]
    for shard in names:
        (there.cache / shard.name).symlink_to(many / shards[0].name)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            coming = [pool.submit(there.path, shard) for shard in names]
            while not all(future.done() for future in coming):
                there.ahead(shards[:1])
            assert all(future.result().exists() for future in coming)
    finally:
        sys.setswitchinterval(before)


def test_what_came_before_an_outage_is_not_fetched_again_and_what_an_earlier_run_left_is_used(
    many: Path, tmp_path: Path
) -> None:
    far = Far(many)
    first = away(far, tmp_path)
    shard, other = first.manifest().shards[:2]
    far.down = True
    with pytest.raises(ServiceError, match="no answer"):
        first.path(shard)
    assert not (first.cache / shard.name).exists()
    far.down = False
    (first.cache / f".{shard.name}.part").write_bytes((many / shard.name).read_bytes()[:2000])
    assert digest_of(first.path(shard)) == shard.digest
    (first.cache / f".{other.name}.part").write_bytes(b"of another file")
    assert digest_of(first.path(other)) == other.digest
    again = away(far, tmp_path)
    again.manifest()
    asked = len(far.asked)
    assert again.path(shard) == first.path(shard)
    assert len(far.asked) == asked


def test_a_shard_with_another_digest_is_refused_by_name(many: Path, tmp_path: Path) -> None:
    there = away(Far(many), tmp_path)
    shard = there.manifest().shards[0]
    (many / shard.name).write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match=r"s3://bucket/many/00\.tar is damaged"):
        there.path(shard)
    assert not [*there.cache.glob("*.tar")]


def test_too_little_room_for_what_is_drawn_together_is_said_once(
    many: Path, tiny: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        steps(Live.open(away(Far(many), tmp_path, room=1), tiny, True), 12)
    assert {"give them more room" in line for line in caplog.messages} == {True}


def test_the_nearest_files_get_the_room() -> None:
    sizes = {"a": 4, "b": 2, "d": 3}
    assert within("abcd", sizes, 10) == {"a", "b", "c"}
    assert within("abcd", sizes, 13) == {"a", "b", "c", "d"}
    assert within("cab", sizes, 3) == set()
    assert within("abc", {}, 0) == {"a", "b", "c"}  # nothing is known yet


def test_what_another_process_dropped_is_fetched_again(many: Path, tmp_path: Path) -> None:
    there = away(Far(many), tmp_path)
    shard = there.manifest().shards[0]
    there.path(shard).unlink()
    assert digest_of(there.path(shard)) == shard.digest
    shutil.rmtree(there.cache)
    assert digest_of(there.path(shard)) == shard.digest
