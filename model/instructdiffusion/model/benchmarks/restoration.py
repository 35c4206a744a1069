"""Restoration: PSNR and SSIM beside what the autoencoder lets through (table 5 of the paper, right half)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random

from instructdiffusion.model.benchmark import (
    Benchmark,
    Case,
    Measure,
    Order,
    Row,
    Sample,
    Tools,
    each,
    held_out,
    scenes,
)
from instructdiffusion.model.data.readers import Example
from instructdiffusion.model.data.shards import Triplet
from instructdiffusion.model.metrics.pixels import PSNR, SSIM, psnr, ssim
from instructdiffusion.model.metrics.value import mean
from instructdiffusion.model.task import Image
from instructdiffusion.model.tasks import TASKS

KINDS = ("deblur", "denoise", "watermark")


class Restoration(Benchmark):
    """Pictures with blur, noise or text over them, beside the same without; in the size that they come in."""

    name = "restoration"
    about = "clean pictures by PSNR and SSIM (table 5): GoPro, REDS, SIDD, CLWD"
    tasks = KINDS
    count = 300

    def read(self, order: Order, data: Path) -> Iterator[Case]:
        for number, example in enumerate(held_out(order, data, self.tasks)):
            if order.samples and number >= order.samples:
                return
            yield Case(example.key, partial(_loaded, example))

    def composed(self, order: Order) -> Iterator[Case]:
        for key, load in scenes(order, KINDS, self.count):
            yield Case(key, partial(_composed, key, load))

    def row(self, sample: Sample, outputs: Sequence[Image], tools: Tools) -> Row:
        target = sample.targets[-1]
        assert target is not None
        return {"psnr": psnr(outputs[-1], target), "ssim": ssim(outputs[-1], target)}

    def measures(self, tools: Tools) -> tuple[Measure, ...]:
        return (Measure(PSNR, each("psnr"), mean), Measure(SSIM, each("ssim"), mean))


def _loaded(example: Example) -> Sample:
    source, target, label = example.loaded()
    ask = TASKS[example.task].ask(label, Random(example.key))
    return Sample(example.key, source, (ask,), (target,), label, example.picture, example.task)


def _composed(key: str, load: Callable[[], Triplet]) -> Sample:
    triplet = load()
    return Sample(key, triplet.source, (triplet.ask,), (triplet.target,), triplet.label, key, triplet.ask.task)


BENCHMARKS = (Restoration(),)
