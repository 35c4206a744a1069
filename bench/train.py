"""How fast a training step is beside two that are known, on the same networks, batch and precision, one after another.

python bench/train.py           # half an hour on one core; writes bench/results/*.json
python bench/train.py --full    # networks of the real size: 20 GiB of memory

The two: a step of the original release, and one of the script that diffusers has for InstructPix2Pix. Both encode two
pictures and the instruction in every step, and compute activations twice, as their authors' settings say; for the
difference that this makes they are measured without as well. A step's time is what one thread computes on one core, so
that what else the machine does counts little; ours tells its metrics besides in every step.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.training_utils import EMAModel
from figures import record
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from instructdiffusion.model import network
from instructdiffusion.model.config import Diffusion, Network, Optim, Run
from instructdiffusion.model.data.latents import Latents, encode
from instructdiffusion.model.data.shards import Triplet, read_triplets
from instructdiffusion.model.device import fast_bf16, kind
from instructdiffusion.model.diffusion import add_noise, draw_times, drop_conditions
from instructdiffusion.model.network import Model
from instructdiffusion.model.report import Silent
from instructdiffusion.model.synthesis.write import mixture, synthesize
from instructdiffusion.model.train import train
from instructdiffusion.model.words import word_tokenizer

SIDE = 256  # pixels
GIB = 2**20  # KiB, the unit in which the system tells a process's memory
FULL, QUARTER = 1, 4  # what widths are divided by


@dataclass(frozen=True)
class Job:
    """What every way to train is measured on."""

    folder: Path  # with `shards/`
    part: int = QUARTER
    batch: int = 4
    steps: int = 3
    precision: str = "bf16" if fast_bf16() else "fp32"

    @property
    def shards(self) -> Path:
        """The pictures."""
        return self.folder / "shards"

    @property
    def latents(self) -> Path:
        """The same, encoded by the networks of this size."""
        return self.folder / f"latents-{self.part}"

    @property
    def run(self) -> Run:
        """The paper's stage 2, so that nothing but the way to do it differs."""
        optim = Optim(
            steps=self.steps, batch_size=self.batch, micro_batch=self.batch, clip=1e9, zero_stage=0,
            precision=self.precision,
        )  # fmt: skip
        return Run(name="bench", network=Network(size=SIDE), optim=optim, checkpoint_every=10**6, log_every=1)


@dataclass(frozen=True)
class Found:
    """Seconds of each step but the first, which warms up, the loss of each, and the most memory in GiB."""

    seconds: list[float]
    losses: list[float]
    memory: float


class Enough(Exception):
    """All steps are measured."""


class Watch(Silent):
    """Takes the time of every step; after the last one it ends the training before anything is written."""

    def __init__(self, steps: int) -> None:
        self.steps, self.times, self.losses = steps, [time.process_time()], list[float]()

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.losses.append(values["loss"])

    def progress(self, done: int, total: int, text: str) -> None:
        self.times.append(time.process_time())
        if done == self.steps:
            raise Enough


def networks(part: int) -> Model:
    """Stable Diffusion 1.5 with all widths divided by `part`, of random weights."""
    torch.manual_seed(0)
    tokenizer, diffusion, width = word_tokenizer(77), Diffusion(), 768 // part
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        in_channels=8,
        block_out_channels=tuple(w // part for w in (320, 640, 1280, 1280)),
        cross_attention_dim=width,
        norm_num_groups=32 // (2 if part > 1 else 1),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=tuple(w // part for w in (128, 256, 512, 512)),
        layers_per_block=2,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12,
        num_attention_heads=12 // part, max_position_embeddings=77,
    )  # fmt: skip
    for net in (encoder := CLIPTextModel(text), vae, unet):
        net.eval().requires_grad_(False)
    return Model(unet, vae, encoder, tokenizer, network.scheduler_for(diffusion), diffusion, SIDE)


def encoded(job: Job) -> None:
    """Encode the pictures and instructions once, as a training's step before does."""
    encode(job.shards, networks(job.part), job.latents)


def ours(job: Job, cached: bool = True) -> Found:
    """The training as it is: of what was encoded before, or of pictures that are encoded when they are drawn."""
    nets, watch = networks(job.part), Watch(job.steps)
    with suppress(Enough):
        train(job.run, job.latents if cached else job.shards, nets, job.folder / "training", watch)
    return found(np.diff(watch.times).tolist(), watch.losses)


def online(
    job: Job, *, checkpointing: bool, attention: type, average: Callable[[list[Tensor]], Callable[[], None]]
) -> Found:
    """A training that encodes what it needs in every step; draws what the other draws."""
    nets, run = networks(job.part), job.run
    unet = nets.unet.train().requires_grad_(True)
    unet.set_attn_processor(attention())
    if checkpointing:
        unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(unet.parameters(), run.optim.learning_rate, weight_decay=0.01, fused=True)
    follow = average(list(unet.parameters()))
    triplets = list(read_triplets(job.shards))
    order = Latents.open(job.latents).mixture(run.seed, {})
    bf16, null = job.precision == "bf16", nets.tokens([""])
    times, losses = [time.process_time()], []
    for step in range(job.steps):
        generator = torch.Generator().manual_seed(hash((run.seed, step, 0)) & 0x7FFFFFFF)
        batch = [triplets[n] for n in order.draws(range(step * job.batch, (step + 1) * job.batch))]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = noise_error(nets, batch, null, generator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        follow()
        losses.append(loss.item())
        times.append(time.process_time())
    return found(np.diff(times).tolist(), losses)


def noise_error(nets: Model, batch: list[Triplet], null: Tensor, generator: torch.Generator) -> Tensor:
    """The loss of a batch of pictures (paper, equation 1), everything encoded on the spot."""
    with torch.no_grad():
        source, target = (pixels([getattr(t, name) for t in batch]) for name in ("source", "target"))
        clean = nets.vae.encode(target).latent_dist.mode() * nets.scale
        condition = nets.vae.encode(source).latent_dist.mode()
        text = nets.text_encoder(nets.tokens([t.ask.instruction for t in batch])).last_hidden_state
        nothing = nets.text_encoder(null).last_hidden_state
    t = draw_times(len(batch), nets.diffusion, 999, generator)
    noise = torch.randn(clean.shape, generator=generator)
    no_text, no_image = drop_conditions(len(batch), nets.diffusion, generator)
    text = torch.where(no_text.view(-1, 1, 1), nothing, text)
    condition = torch.where(no_image.view(-1, 1, 1, 1), 0.0, condition)
    output = nets.unet(torch.cat([add_noise(clean, noise, t, nets.scheduler), condition], 1), t, text).sample
    return (output.float() - noise).square().mean()


def pixels(pictures: list[Any]) -> Tensor:
    """Uint8 pictures as -1..1, batch x 3 x height x width."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def one_by_one(weights: list[Tensor], decay: float = 0.9999) -> Callable[[], None]:
    """The original release's average: each weight's in turn."""
    shadow = [w.detach().clone() for w in weights]

    def follow() -> None:
        with torch.no_grad():
            for kept, weight in zip(shadow, weights, strict=True):
                kept.sub_((1 - decay) * (kept - weight))

    return follow


def by_diffusers(weights: list[Tensor]) -> Callable[[], None]:
    """The average of diffusers' script."""
    average = EMAModel(weights, decay=0.9999)
    return lambda: average.step(weights)


def found(seconds: list[float], losses: list[float]) -> Found:
    """What this process measured, and the most memory that it took."""
    return Found(seconds[1:], losses, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB)


release = partial(online, attention=AttnProcessor, average=one_by_one)
script = partial(online, attention=AttnProcessor2_0, average=by_diffusers)
WAYS: dict[str, Callable[[Job], Found]] = {
    "the original release's step": partial(release, checkpointing=True),
    "diffusers' script's step": partial(script, checkpointing=True),
    "the original release's step, activations kept": partial(release, checkpointing=False),
    "diffusers' script's step, activations kept": partial(script, checkpointing=False),
}


def process(tasks: int) -> ProcessPoolExecutor:
    """A process that ends after so many tasks, on one core: what else the machine does disturbs it least."""
    context = get_context("spawn")
    return ProcessPoolExecutor(1, context, torch.set_num_threads, (1,), max_tasks_per_child=tasks)


def rounds(job: Job, repeats: int, ways: dict[str, Callable[[Job], Found]]) -> Iterator[dict[str, Found]]:
    """All ways, one after another, as often as asked: what else the machine does meets each alike.

    Each has a process of its own, so that memory is that of this way.
    """
    processes = {name: process(repeats) for name in ways}
    for _ in range(repeats):
        yield {name: processes[name].submit(way, job).result() for name, way in ways.items()}


def compare(job: Job, repeats: int, ways: dict[str, Callable[[Job], Found]], what: str) -> None:
    """Measure and record rates and memory beside each way."""
    all_found = list(rounds(job, repeats, {"ours": ours, **ways}))

    def rate(name: str) -> float:
        return job.batch / statistics.median(s for one in all_found for s in one[name].seconds)

    def memory(name: str) -> float:
        return statistics.median(one[name].memory for one in all_found)

    for name in ways:
        record(
            f"Steps of {what} on a core of {kind()}, beside {name}",
            rate("ours"),
            "images/s",
            rate(name),
            held=name,
            repeats=repeats,
        )
    for name in list(ways)[:2]:
        record(
            f"Memory of training {what} beside {name}", memory("ours"), "GiB", memory(name), held=name, repeats=repeats
        )


def curves(folder: Path, steps: int) -> None:
    """Record by how much losses differ at most from the original release's, in 32 bits, of the same draws."""
    job = Job(folder, steps=steps, precision="fp32")
    ways = {"": ours, ", encoded when drawn": partial(ours, cached=False), "theirs": next(iter(WAYS.values()))}
    (losses,) = ({name: np.array(found.losses) for name, found in one.items()} for one in rounds(job, 1, ways))
    theirs = losses.pop("theirs")
    for name, own in losses.items():
        apart = float((abs(own - theirs) / theirs).max())
        record(f"Largest difference of {steps} losses{name}", apart, "of the loss", 1e-3, held="the bar", repeats=1)


def measure(repeats: int, part: int) -> None:
    """Measure and record everything of networks of one size."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        synthesize(folder / "shards", split="train", counts=mixture(40), size=SIDE, seed=0, workers=1)
        with process(1) as alone:  # what it takes to encode is not what a training takes
            alone.submit(encoded, Job(folder, part=part)).result()
        if part == FULL:
            two = dict(list(WAYS.items())[:2])
            compare(Job(folder, part=FULL, batch=2, steps=3), 1, two, "SD 1.5's U-Net")
        else:
            curves(folder, 20)
            compare(Job(folder), repeats, WAYS, "a U-Net of a quarter of SD 1.5's widths")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="networks of the real size instead")
    given = parser.parse_args()
    measure(given.repeats, FULL if given.full else QUARTER)
