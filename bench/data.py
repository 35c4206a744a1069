"""How fast data is made and read on this machine, and in how much memory.

python bench/data.py            # a few minutes; writes bench/results/*.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from figures import record
from PIL import Image as Pillow
from train import Enough, Watch

from instructdiffusion.model.config import Run, override
from instructdiffusion.model.data.build import build
from instructdiffusion.model.data.latents import Latents, encode
from instructdiffusion.model.data.lexicon import COCO
from instructdiffusion.model.data.offers import Offer, Order, numbered
from instructdiffusion.model.data.photos import photographs
from instructdiffusion.model.data.shards import read_triplets, write_shard
from instructdiffusion.model.data.sources import DataSet, Scenes, Sources
from instructdiffusion.model.files import write_atomic
from instructdiffusion.model.recipes import recipe
from instructdiffusion.model.synthesis.scenes import Studio
from instructdiffusion.model.synthesis.write import compose, mixture, plan, synthesize
from instructdiffusion.model.train import train

CHUNK = 100  # triplets written at once
GIB = 2**20  # KiB, the unit in which the system tells a process's memory


def shard(size: int, out: str, number: int) -> int:
    """Compose and write triplets, as a worker does."""
    studio = Studio.open(size, "train")
    rows = islice(plan(mixture(10 * CHUNK), number, "train"), CHUNK)
    return write_shard(Path(out) / f"{number}.tar", (compose(studio, task, seed) for task, seed in rows)).count


def rate(workers: int, size: int, shards: int, repeats: int) -> float:
    """Triplets composed and written a second, by processes that are up already; the median of some repeats."""
    with TemporaryDirectory() as out, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        work = partial(shard, size, out)
        list(pool.map(work, range(2 * workers)))  # photographs are loaded, everybody is awake

        def once() -> float:
            began = time.perf_counter()
            return sum(pool.map(work, range(shards))) / (time.perf_counter() - began)

        return statistics.median(once() for _ in range(repeats))


def peaks(triplets: int) -> tuple[float, float]:
    """Most memory in GiB of a process after a tenth of a long build, and at its end."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peaks, triplets).result()


def _peaks(triplets: int) -> tuple[float, float]:
    found = []
    with TemporaryDirectory() as out:
        for count in (triplets // 10, triplets):
            order = Order(Sources(sources=(Scenes(scenes=count),)), size=64, seed=count, per_shard=1000)
            build(order, Path(out) / str(count), workers=1)
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB)
    return found[0], found[1]


def published(root: Path, count: int) -> tuple[DataSet, DataSet]:
    """Photographs as people and as blurred pairs, in the sizes and formats of COCO and of GoPro."""
    rng, photos = Random(0), photographs("train")
    images, annotations = [], []

    def save(path: Path, size: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Pillow.fromarray(rng.choice(photos)).resize(size, Pillow.Resampling.BICUBIC)
        noisy = np.asarray(picture).astype(np.int16) + np.random.default_rng(0).integers(-6, 7, (size[1], size[0], 3))
        Pillow.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)

    for number in range(count):
        name = f"{number:012d}.jpg"
        save(root / "coco/train2017" / name, (640, 480))
        images.append({"id": number, "file_name": name, "width": 640, "height": 480})
        joints = [v for i in range(len(COCO)) for v in (200 + 10 * i, 100 + 15 * i, 2)]
        person = {"id": number, "image_id": number, "category_id": 1, "bbox": [180, 80, 200, 300], "keypoints": joints}
        annotations.append({**person, "iscrowd": 0, "num_keypoints": len(COCO)})
        for kind in ("blur", "sharp"):
            save(root / f"gopro/train/scene/{kind}/{number:06d}.png", (1280, 720))
    categories = [{"id": 1, "name": "person", "keypoints": [name.replace(" ", "_") for name in COCO]}]
    document = {"images": images, "annotations": annotations, "categories": categories, "licenses": []}
    write_atomic(root / "coco/annotations/person_keypoints_train2017.json", json.dumps(document))
    people = DataSet(name="people", path=str(root / "coco"), split="train2017")
    return people, DataSet(name="blurred", path=str(root / "gopro"), split="train")


def reading(size: int, count: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Triplets a second from shards, and from the loose files with painting online, of each kind of data set."""
    found = {}
    with TemporaryDirectory() as folder:
        for source in published(Path(folder), count):
            order, out = Order(Sources(sources=(source,)), size=size, seed=0), Path(folder) / source.name
            build(order, out, workers=1)

            def loose(order: Order = order, source: DataSet = source) -> Iterable[Any]:
                for _, offer in numbered(source, order):
                    assert isinstance(offer, Offer)
                    yield from offer.make()

            found[source.name] = (speed(partial(read_triplets, out), repeats), speed(loose, repeats))
    return found


def speed(stream: Callable[[], Iterable[Any]], repeats: int) -> float:
    """Things a second of a stream, the median of some repeats."""

    def once() -> float:
        began = time.perf_counter()
        return sum(1 for _ in stream()) / (time.perf_counter() - began)

    return statistics.median(once() for _ in range(repeats))


def stall(steps: int) -> tuple[float, float]:
    """Seconds that a step of the demo's training waits for its triplets, and that it takes; medians, on one process."""
    run = override(recipe("train"), [f"optim.steps={steps}", "log_every=1", "checkpoint_every=1000"])
    with TemporaryDirectory() as name:
        folder, watch = Path(name), Watch(steps)
        synthesize(folder / "shards", split="train", counts=mixture(1000), size=64, seed=0)
        encode(folder / "shards", None, folder / "latents")
        with suppress(Enough):
            train(run, folder / "latents", None, folder / "training", watch)
        return statistics.median(waits(Latents.open(folder / "latents"), run)), statistics.median(
            np.diff(watch.times)[1:]
        )


def waits(batches: Latents, run: Run) -> Iterator[float]:
    """Seconds of every step but the first until its triplets are there, drawn and read as the training does."""
    draws, size, micro = batches.mixture(run.seed, {}), run.optim.batch_size, run.optim.micro_batch
    for step in range(run.optim.steps):
        began = time.perf_counter()
        batches.expect(draws, step * size, size)
        numbers = draws.draws(range(step * size, (step + 1) * size))
        for start in range(0, size, micro):
            batches.batch(numbers[start : start + micro])
        if step:
            yield time.perf_counter() - began


def measure(repeats: int, triplets: int) -> None:
    """Measure and record everything."""
    one, large, both = rate(1, 64, 6, repeats), rate(1, 256, 1, repeats), rate(2, 64, 12, repeats)
    speeds = partial(record, unit="triplets/s", repeats=repeats)
    speeds("Composing triplets of 64 px on a core", one, against=300, held="the bar")
    speeds("Composing triplets of 256 px on a core", large, against=40, held="the bar")
    speeds("Composing triplets of 64 px on two cores", both, against=one, held="one core")
    early, late = peaks(triplets)
    record(f"Memory over {triplets} triplets", late, "GiB", early, held="over a tenth of them", repeats=1)
    for size in (64, 256):
        for name, (shards, loose) in reading(size, 40, repeats).items():
            what = f"Reading shards of {name} pictures of {size} px"
            speeds(what, shards, against=loose, held="loose files, painted online")
    waiting, whole = stall(12)
    record("Waiting for triplets in a step of the demo", waiting, "s", whole, held="the whole step", repeats=11)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--triplets", type=int, default=100_000, help="of the long build whose memory is watched")
    given = parser.parse_args()
    measure(given.repeats, given.triplets)
