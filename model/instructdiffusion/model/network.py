"""The networks: U-Net, autoencoder, text encoder and tokenizer, in one folder laid out as a diffusers pipeline.

Full size is SD 1.5 (`UNet2DConditionModel`, `AutoencoderKL`, `CLIPTextModel`). Nano is the same U-Net and text encoder
classes at small size, with a patch code for autoencoder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    AttnProcessor,
    AttnProcessor2_0,
)
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from instructdiffusion.model.config import Diffusion, Network
from instructdiffusion.model.errors import DataError, ModelError
from instructdiffusion.model.files import atomic_directory, write_atomic
from instructdiffusion.model.task import Family, Image
from instructdiffusion.model.weights import BASE, NETWORKS, SETTINGS

TEXT_ATTENTION = "sdpa" if torch.cuda.is_available() else "eager"  # on a CPU the fused kernel trains at half the speed
IMAGE_CHANNELS = 3
disable_progress_bar()  # of reading weights: it writes over the lines of whoever reads them


@dataclass(frozen=True)
class Guidance:
    """How to sample: steps, and the weights of the instruction and of the source; 0.5 and 0.5 is no guidance at all.

    `still`: without words nothing changes, so the source stands for what the network would say then, and guidance costs
    no second look: the target is source + (text + 0.5) (full - source), for an image weight of 0.5.
    """

    steps: int = 4
    text: float = 0.5
    image: float = 0.5
    still: bool = False


#: What scored best for the nano base (docs/decisions/0002-nano-base.md): one step is the mean of all answers, which
#: is what fidelity rewards; what an instruction points at wants it a little louder.
NANO_GUIDANCE: dict[Family, Guidance] = {
    "perception": Guidance(steps=1, text=0.65, still=True),
    "restoration": Guidance(steps=1),
    "editing": Guidance(steps=1, text=0.65, still=True),
}


@dataclass
class Model:
    """Everything that an edit needs. `resolution` is the pictures' side in pixels."""

    unet: UNet2DConditionModel
    vae: Any
    text_encoder: CLIPTextModel
    tokenizer: PreTrainedTokenizerBase
    scheduler: DDIMScheduler
    diffusion: Diffusion
    resolution: int
    guidance: dict[Family, Guidance] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.unet.device

    def to(self, device: torch.device) -> Model:
        """Move the networks; returns the model itself."""
        for part in (self.unet, self.vae, self.text_encoder):
            part.to(device)
        return self

    def encode(self, pictures: Iterable[Image]) -> Tensor:
        """Latents of uint8 pictures: the posterior's mode, unscaled; batch x channels x height x width, float32."""
        pixels = torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            return self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist.mode().float()

    def decode(self, latents: Tensor) -> list[Image]:
        """Pictures of latents, uint8.

        Raises:
            ModelError: there are pixels that are no numbers.
        """
        with torch.inference_mode():
            pixels = self.vae.decode(latents.to(self.device, self.vae.dtype)).sample.float()
        if not pixels.isfinite().all():
            raise ModelError(
                "the networks make pixels that are no numbers; choose another model, "
                "or train this one again with a lower optim.learning_rate"
            )
        array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return list(array.permute(0, 2, 3, 1).cpu().numpy())

    def tokens(self, instructions: list[str]) -> Tensor:
        """Token ids, batch x length, padded."""
        batch = self.tokenizer(
            instructions, padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length
        )
        return torch.tensor(batch["input_ids"])

    def text(self, instructions: list[str]) -> Tensor:
        """Hidden states of the instructions, batch x length x width."""
        with torch.inference_mode():
            return self.text_encoder(self.tokens(instructions).to(self.device)).last_hidden_state

    @property
    def scale(self) -> float:
        """What target latents are multiplied by; condition latents are not (spec 1.5)."""
        return float(getattr(self.vae.config, "scaling_factor", 1.0))


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Patches to their principal components and back: an autoencoder with nothing to train.

    Components are divided by the root of their standard deviation, so that fine detail neither drowns nor dominates.
    Same interface as `AutoencoderKL`. docs/decisions/0002-nano-base.md says why this and not a trained one.
    """

    @register_to_config
    def __init__(self, patch: int = 4, latent_channels: int = 32, scaling_factor: float = 1.0) -> None:
        super().__init__()
        size = IMAGE_CHANNELS * patch * patch
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.eye(size)[:latent_channels].clone())
        self.register_buffer("spread", torch.ones(latent_channels))
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)

    @torch.no_grad()
    def fit(self, pictures: Iterable[Image]) -> PatchAutoencoder:
        """Set the components from pictures (uint8), a few hundred at least."""
        pixels = torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float() / 127.5 - 1
        patches = self.unshuffle(pixels).permute(0, 2, 3, 1).flatten(0, 2).double()
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
        order = values.argsort(descending=True)[: self.components.shape[0]]
        deviation = values[order].clamp(min=1e-6).sqrt()
        spread = deviation.sqrt()
        spread *= (deviation / spread).square().mean().sqrt()  # latents have mean square 1
        self.mean.copy_(mean)
        self.components.copy_(vectors[:, order].T)
        self.spread.copy_(spread)
        return self

    def encode(self, pixels: Tensor) -> AutoencoderKLOutput:
        """Pixels in -1..1 (batch x 3 x height x width) to a distribution of no width over latents."""
        patches = self.unshuffle(pixels) - self.mean[:, None, None]
        latents = torch.einsum("bphw,cp->bchw", patches, self.components) / self.spread[:, None, None]
        moments = torch.cat([latents, torch.full_like(latents, -30.0)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments, deterministic=True))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Latents to pixels in about -1..1."""
        patches = torch.einsum("bchw,cp->bphw", latents * self.spread[:, None, None], self.components)
        return DecoderOutput(sample=self.shuffle(patches + self.mean[:, None, None]))


AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "PatchAutoencoder": PatchAutoencoder}


def create(network: Network, diffusion: Diffusion, pictures: Iterable[Image], seed: int = 0) -> Model:
    """Make a nano model from nothing; the autoencoder is fitted to `pictures`."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(network.tokens)
    cells, deep = network.size // network.patch, len(network.widths)
    unet = UNet2DConditionModel(
        sample_size=cells,
        in_channels=2 * network.channels,
        out_channels=network.channels + diffusion.gate,
        block_out_channels=network.widths,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (deep - 1)),
        # At the finest level, where each of an object's parts has cells of its own, words are heard too, and only they.
        up_block_types=(*("CrossAttnUpBlock2D",) * (deep - 1), "SimpleCrossAttnUpBlock2D"),
        only_cross_attention=(True, *(False,) * (deep - 1)),
        layers_per_block=network.layers,
        attention_head_dim=network.heads,  # diffusers reads this as the number of heads, at the finest as their width
        cross_attention_dim=network.text_width,
        norm_num_groups=16,
        time_embedding_dim=2 * network.text_width,
        addition_embed_type="text",
        addition_embed_type_num_heads=network.heads,
    )
    finest = [hearing.to_out[0] for hearing in unet.up_blocks[-1].attentions]
    for last in (unet.conv_out, *finest):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=network.text_width,
        intermediate_size=4 * network.text_width,
        projection_dim=network.text_width,
        num_hidden_layers=network.text_layers,
        num_attention_heads=network.heads,
        max_position_embeddings=network.tokens,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    vae = PatchAutoencoder(network.patch, network.channels).fit(pictures)
    return Model(
        unet,
        vae,
        CLIPTextModel._from_config(text, attn_implementation=TEXT_ATTENTION),
        tokenizer,
        scheduler_for(diffusion),
        diffusion,
        network.size,
        dict(NANO_GUIDANCE),
    )


def scheduler_for(diffusion: Diffusion) -> DDIMScheduler:
    """The noise schedule of a run, sampled from full noise down."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=diffusion.schedule,
        prediction_type=diffusion.prediction,
        rescale_betas_zero_snr=diffusion.zero_terminal_snr,  # arXiv 2305.08891, algorithm 1
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def save(model: Model, folder: Path, half: bool = False) -> Path:
    """Write a model in diffusers' layout, whole or not at all; `half` stores 16-bit weights."""
    with atomic_directory(folder) as new:
        for name in NETWORKS:
            getattr(model, name).save_pretrained(new / name)
        for config in new.glob("*/config.json"):  # diffusers writes down in which folder a network lay before
            told = json.loads(config.read_text())
            told.pop("_name_or_path", None)
            write_atomic(config, json.dumps(told, indent=2, sort_keys=True) + "\n")
        if half:
            for file in new.rglob("*.safetensors"):
                _halve(file)
        settings = {
            "resolution": model.resolution,
            "diffusion": model.diffusion.model_dump(),
            "guidance": {family: vars(g) for family, g in model.guidance.items()},
        }
        write_atomic(new / SETTINGS, json.dumps(settings, indent=1))
    return folder


def load(folder: Path | None) -> Model:
    """Read a model; None is the embedded nano base.

    Raises:
        DataError: a part is missing or broken; names the folder and what to do.
    """
    folder = folder or BASE
    path = folder / SETTINGS
    if not path.is_file():
        raise DataError(
            f"{folder} is no model: it holds no {SETTINGS}; name a folder that a training run wrote, make one of "
            "Stable Diffusion with: instructdiffusion model import, or run: make base"
        )
    with reading(folder):
        settings = json.loads(path.read_text())
        unet, vae, text_encoder, tokenizer = parts(folder)
        return Model(
            unet,
            vae,
            text_encoder,
            tokenizer,
            scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
            diffusion=Diffusion.model_validate(settings["diffusion"]),
            resolution=settings["resolution"],
            guidance={family: Guidance(**g) for family, g in settings["guidance"].items()},
        )


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Whatever breaks while a model's folder is read becomes a line that names it."""
    try:
        yield
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"model in {folder} can't be read ({reason}); copy it again or choose another") from error


def parts(folder: Path) -> tuple[UNet2DConditionModel, Any, CLIPTextModel, PreTrainedTokenizerBase]:
    """U-Net, autoencoder, text encoder and tokenizer of a diffusers folder, in 32 bits, not learning."""
    vae_class = json.loads((folder / "vae" / "config.json").read_text())["_class_name"]
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    vae = AUTOENCODERS[vae_class].from_pretrained(folder / "vae", torch_dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(
        folder / "text_encoder", dtype=torch.float32, attn_implementation=TEXT_ATTENTION
    )
    for part in (unet, vae, text_encoder):
        part.eval().requires_grad_(False)
    set_attention(unet)
    return unet, vae, text_encoder, AutoTokenizer.from_pretrained(folder / "tokenizer")


def set_attention(unet: UNet2DConditionModel, fused: bool | None = None) -> None:
    """Let a U-Net compute attention by the fused kernel or the plain way.

    None: fused on GPUs; plain on CPUs, where it is as fast or faster at this size, but for attention that hears the text
    beside its picture (diffusers' "added" keys and values, which have processors of their own): its many thin heads at
    the finest level would fill the memory with weights.
    """
    slow, fast = (AttnProcessor, AttnAddedKVProcessor), (AttnProcessor2_0, AttnAddedKVProcessor2_0)
    for module in unet.modules():
        if isinstance(module, Attention):
            hears = module.added_kv_proj_dim is not None
            quick = (torch.cuda.is_available() or hears) if fused is None else fused
            module.set_processor((fast if quick else slow)[hears]())


def word_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words: those of the tasks' templates, colours, kinds, joints, places; no case, no commas."""
    words = ["<pad>", "<start>", "<end>", "<unknown>", *_words()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace("colour", "color"),
            normalizers.Replace(Regex("[^a-z ]"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
    )


@cache
def _words() -> tuple[str, ...]:
    from instructdiffusion.model.colors import MARKS, OBJECTS, TINTS
    from instructdiffusion.model.synthesis.objects import JOINTS, KINDS
    from instructdiffusion.model.synthesis.scenes import PLACES
    from instructdiffusion.model.tasks import TASKS

    texts = [re.sub(r"\{\w+\}", " ", t) for task in TASKS.values() for t in task.templates]
    texts += [*MARKS, *TINTS, *OBJECTS, *KINDS, *PLACES, *(j for joints in JOINTS.values() for j in joints)]
    texts += ["a dot on the and thing object left right of above below"]
    return tuple(sorted({w for text in texts for w in re.sub("[^a-z ]", " ", text.lower()).split()}))


def _halve(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()},
        file,
        {"format": "pt"},
    )
