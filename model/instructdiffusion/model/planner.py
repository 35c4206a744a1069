"""What a training will take, told beforehand: the memory of a process part by part, floating-point work, hours.

Nothing is computed. One step of the run's own loss goes through the run's own networks as shapes without numbers, and
what its operations would hold is counted; what DeepSpeed holds besides follows from its stage (arXiv 1910.02054) and
its buckets. Activations and DeepSpeed's buffers are added up, though they are not there at once: memory that many small
tensors leave is of no use to one large tensor. `bench/plan.py` holds it against trainings.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from instructdiffusion.model import engine, network, speed
from instructdiffusion.model.config import Diffusion, Optim, Run
from instructdiffusion.model.diffusion import Objective
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.speed import Way
from instructdiffusion.model.train import learn
from instructdiffusion.model.weights import SETTINGS

NUMBER = 4  # bytes: weights, gradients and all sums are of 32 bits
PARTS = ("unet", "vae", "text_encoder")
WRITTEN = "a checkpoint being written"
ROOM = 192 * 2**20  # bytes that kernels set aside while they compute, on CPUs of both kinds; by bench/plan.py
ZERO_ROOM = 320 * 2**20  # and with what ZeRO keeps at hand meanwhile
MESSAGES = 64 * 2**20  # bytes of what is on its way between processes, beside the numbers themselves; likewise
COLLECTED = 100  # operations from one collection of garbage to the next
#: Numbers of split weights that DeepSpeed holds whole at most until the backward pass, and that it gathers in advance.
LIVE, NEXT = 10**9, 5 * 10**7


@dataclass(frozen=True)
class Shapes:
    """Networks without numbers, on PyTorch's device `meta`."""

    unet: UNet2DConditionModel
    vae: nn.Module
    text_encoder: CLIPTextModel
    cells: int  # of a latent, along a side
    diffusion: Diffusion | None  # what the U-Net was made for; None: for whatever a run wants


@dataclass(frozen=True)
class Plan:
    """What one process holds at its fullest moment, and the work of a triplet.

    `device`: bytes in the memory of its GPU; `host`: in the machine's. Without a GPU all are in the machine's.
    """

    device: Mapping[str, int]
    host: Mapping[str, int]
    learning: int  # numbers that learn
    flops: float  # floating-point operations of a triplet, forward and backward
    triplets: int  # of the whole run
    processes: int

    @property
    def alone(self) -> int:
        """Bytes without a GPU: a checkpoint is written where activations and gradients were before."""
        going = self.device["activations"] + self.device["gradients"]
        return sum(self.device.values()) + sum(self.host.values()) - min(going, self.host[WRITTEN])

    def hours(self, rate: float) -> float:
        """How long the run takes if each process trains `rate` triplets a second."""
        return self.triplets / (rate * self.processes) / 3600


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU: its memory in GiB, the most it computes in 16 bits, not sparse, in Tflop/s, and which 16 bits."""

    memory: int
    tflops: float
    halves: Literal["bf16", "fp16"] = "bf16"


#: From NVIDIA's data sheets.
GPUS = {
    "T4": Gpu(16, 65, "fp16"),
    "L4": Gpu(24, 121),
    "V100": Gpu(32, 125, "fp16"),
    "A100-40GB": Gpu(40, 312),
    "L40S": Gpu(48, 362),
    "A100-80GB": Gpu(80, 312),
    "H100": Gpu(80, 989),
    "H200": Gpu(141, 989),
}


def shapes_of(folder: Path | None, side: int) -> Shapes:
    """The networks of a model's folder; None: those of Stable Diffusion 1.5 for pictures of `side` pixels.

    Raises:
        DataError: the folder is no model.
    """
    if folder is None:
        with torch.device("meta"):
            return _stable_diffusion(side)
    if not (folder / SETTINGS).is_file():
        raise DataError(f"{folder} is no model: it holds no {SETTINGS}; name a folder that a training wrote")
    with network.reading(folder), torch.device("meta"):
        unet, vae, text = (json.loads((folder / name / "config.json").read_text()) for name in PARTS)
        settings = json.loads((folder / SETTINGS).read_text())
        return Shapes(
            UNet2DConditionModel.from_config(unet),
            network.AUTOENCODERS[vae["_class_name"]].from_config(vae),
            CLIPTextModel._from_config(CLIPTextConfig(**text), attn_implementation=network.TEXT_ATTENTION),
            settings["resolution"] // (vae.get("patch") or 2 ** (len(vae["block_out_channels"]) - 1)),
            Diffusion.model_validate(settings["diffusion"]),
        )


def way_on(gpu: Gpu, optim: Optim) -> Way:
    """How a training on such a GPU most likely computes, where the settings leave it open."""
    precision = gpu.halves if optim.precision == "auto" else optim.precision
    attention = "fused" if optim.attention == "auto" else optim.attention
    return Way(attention=attention, precision=precision)


def plan(run: Run, shapes: Shapes, processes: int, way: Way, libraries: int = 0) -> Plan:
    """Plan a run on so many processes.

    Args:
        shapes: of the networks; they are changed, so take new ones for another plan.
        way: attention, precision and layout that it will compute in.
        libraries: bytes that a process takes before it holds a network.

    Raises:
        ConfigError: the batch can't be shared out evenly.
    """
    micro = engine.deepspeed_config(run, processes)["train_micro_batch_size_per_gpu"]
    stage, alone = run.optim.zero_stage, processes == 1
    objective = _objective(run, shapes, way)
    n = _count(p for p in objective.parameters() if p.requires_grad)
    everything, frozen = _count(objective.parameters()), _count(shapes.vae.parameters())
    if not run.train_text:
        frozen += _count(shapes.text_encoder.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True):
        held, flops = _step(objective.to_empty(device="cpu"), _batch(run, shapes, micro), keep=not stage)
    part, bucket = -(-n // processes), min(n, engine.BUCKET)  # of what is shared out; of gradients on their way
    samples = everything + frozen if run.samples_every else 0
    activations = held if stage else max(held - NUMBER * n, 0)  # beside the gradients, which come as those go
    gradients = {0: n + (0 if alone else bucket), 3: n + bucket + 2 * part}.get(stage, bucket + part)
    received = 0 if alone or not stage else bucket
    numbers = {
        "weights": everything if stage < 3 else -(-everything // processes),
        "weights made whole": min(everything, LIVE) if stage == 3 else 0,
        "their average": part if stage == 3 else n,
        "weights as AdamW changes them": part if stage else 0,
        "AdamW's sums": 2 * (part if stage else n),
        "gradients": gradients,
        "what comes from other processes": received,
        "weights that will be used next": 2 * min(n, NEXT) if stage == 3 else 0,
    }
    device = {name: NUMBER * count for name, count in numbers.items() if count} | {"activations": activations}
    host = {"libraries": libraries, "networks that don't learn": NUMBER * frozen}
    host["networks that draw samples"] = NUMBER * samples
    after = {0: gradients - n, 3: gradients}.get(stage, part + received)  # numbers that come when kernels have computed
    host["what kernels set aside"] = max((ZERO_ROOM if stage else ROOM) - NUMBER * after, 0)
    host["messages between processes"] = 0 if alone else MESSAGES
    host[WRITTEN] = 2 * NUMBER * part  # a kind of the state at a time: as tensors, and as bytes
    for name in _offloaded(run):
        host[name] = device.pop(name)
    return Plan(device, host, n, flops / micro, run.optim.steps * run.optim.batch_size, processes)


def _offloaded(run: Run) -> list[str]:
    """What waits in the machine's memory."""
    optimizer = ["weights as AdamW changes them", "AdamW's sums"]
    return {"none": [], "optimizer": optimizer, "all": ["weights", "their average", *optimizer]}[run.optim.offload]


def _objective(run: Run, shapes: Shapes, way: Way) -> Objective:
    """The run's loss, with those weights learning that will."""
    learn(run, shapes.unet, shapes.text_encoder)
    words, width = _words(shapes), shapes.text_encoder.config.hidden_size
    diffusion = run.diffusion.read_as(shapes.diffusion) if shapes.diffusion else run.diffusion
    text_encoder, null_text = (shapes.text_encoder, None) if run.train_text else (None, torch.zeros(words, width))
    objective = Objective(shapes.unet, text_encoder, null_text, network.scheduler_for(diffusion), diffusion)
    speed.use(way, objective)
    return objective


def _batch(run: Run, shapes: Shapes, count: int) -> tuple[Tensor, ...]:
    """What the loss is called with, of so many triplets."""
    words, channels = _words(shapes), shapes.unet.config.in_channels // 2
    source, target = torch.zeros(2, count, channels, shapes.cells, shapes.cells)
    states = torch.zeros(count, words, shapes.text_encoder.config.hidden_size)
    tokens = torch.zeros(count, words, dtype=torch.long)
    return source, target, tokens if run.train_text else states, tokens[:1]


def _step(objective: Objective, batch: tuple[Tensor, ...], *, keep: bool) -> tuple[int, float]:
    """Most bytes that a forward and a backward pass hold beside weights, and their work.

    Args:
        keep: gradients, too; else they go as they come, into a bucket that is not counted.
    """
    for weight in objective.parameters():
        if weight.requires_grad and not keep:
            weight.register_post_accumulate_grad_hook(lambda w: setattr(w, "grad", None))
    with _collecting_nothing(), _Held() as held, FlopCounterMode(display=False) as work:
        objective(*batch, torch.Generator()).mean().backward()
    return held.most, work.get_total_flops()


@contextmanager
def _collecting_nothing() -> Iterator[None]:
    """Leave it to others when garbage is collected, and let it cost little: what is there already is passed over."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


class _Held(TorchDispatchMode):
    """Counts the bytes that the results of operations take, until nothing needs them any more."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = self._operations = 0
        self._known = weakref.WeakSet[Any]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._operations += 1
        if self._operations % COLLECTED == 0:  # tensors that hold each other go at the same moment every time
            gc.collect()
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self._now += size
        self.most = max(self.most, self._now)


def _words(shapes: Shapes) -> int:
    words: int = shapes.text_encoder.config.max_position_embeddings
    return words


def _count(weights: Iterable[Tensor]) -> int:
    return sum(weight.numel() for weight in weights)


def _stable_diffusion(side: int) -> Shapes:
    """Stable Diffusion 1.5, whose U-Net takes a source besides, as its authors publish the sizes."""
    cells = side // 8
    unet = UNet2DConditionModel(sample_size=cells, in_channels=8, cross_attention_dim=768)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
    )
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return Shapes(unet, vae, CLIPTextModel(CLIPTextConfig(**sizes)), cells, None)
