"""The networks: U-Net, autoencoder, text encoder and tokenizer, in one folder laid out as a diffusers pipeline.

Full size is SD 1.5 (`UNet2DConditionModel`, `AutoencoderKL`, `CLIPTextModel`). Nano is the same U-Net and text encoder
classes at small size, with a patch code for autoencoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from instructdiffusion.model.attention import set_attention
from instructdiffusion.model.config import Diffusion, Network
from instructdiffusion.model.errors import DataError, ModelError
from instructdiffusion.model.files import atomic_directory, write_atomic
from instructdiffusion.model.foreign import checked
from instructdiffusion.model.patches import PatchAutoencoder
from instructdiffusion.model.task import Family, Image
from instructdiffusion.model.weights import BASE, NETWORKS, SETTINGS, check_free
from instructdiffusion.model.words import word_tokenizer

TEXT_ATTENTION = "sdpa" if torch.cuda.is_available() else "eager"  # on a CPU the fused kernel trains at half the speed
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
    """Write a model in diffusers' layout, whole or not at all; `half` stores 16-bit weights.

    Raises:
        DataError: the disk is full or the folder can't be written, or holds something that is no model.
    """
    check_free(folder)
    with atomic_directory(folder) as new:
        for name in NETWORKS:
            _write(getattr(model, name), new / name)
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
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"model in {folder} can't be read ({reason}); copy it again or choose another") from error


def parts(folder: Path) -> tuple[UNet2DConditionModel, Any, CLIPTextModel, PreTrainedTokenizerBase]:
    """U-Net, autoencoder, text encoder and tokenizer of a diffusers folder, in 32 bits, not learning.

    Raises:
        DataError, ConfigError: as `foreign.checked`, of weights in a pickle.
    """
    vae_class = json.loads((folder / "vae" / "config.json").read_text())["_class_name"]
    unet = _read(UNet2DConditionModel, folder / "unet", torch_dtype=torch.float32)
    vae = _read(AUTOENCODERS[vae_class], folder / "vae", torch_dtype=torch.float32)
    text = _read(CLIPTextModel, folder / "text_encoder", dtype=torch.float32, attn_implementation=TEXT_ATTENTION)
    set_attention(unet)
    return unet, vae, text, AutoTokenizer.from_pretrained(folder / "tokenizer")


def _read(kind: Any, folder: Path, **options: Any) -> Any:
    """A network of safetensors, or of pickles that hold weights and no more."""
    return kind.from_pretrained(folder, use_safetensors=checked(folder), **options).eval().requires_grad_(False)


def _write(network: Any, folder: Path) -> None:
    """Write a network; a disk that is full is an OSError, as of any other file."""
    try:
        network.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _halve(file: Path) -> None:
    halves = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
    file.write_bytes(as_bytes(halves, {"format": "pt"}))
