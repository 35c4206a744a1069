"""Networks that turn pictures and words into vectors, from any folder or hub id; and LPIPS, FID and KID.

Nothing is downloaded that was not named: where no network is given, the metric is marked as missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from instructdiffusion.model.device import best
from instructdiffusion.model.errors import ConfigError, DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.foreign import checked, load_weights
from instructdiffusion.model.metrics.likeness import CLIP_224, DINO_224, Vector
from instructdiffusion.model.metrics.spec import Preprocessing, Spec
from instructdiffusion.model.task import Image

LPIPS = Spec(name="lpips", unit="learned distance", better="lower")
FID = Spec(name="fid", unit="Fréchet distance of features", better="lower")
KID = Spec(name="kid", unit="squared kernel distance of features", better="lower", parameters=(("subsets", 100.0),))


@dataclass(frozen=True)
class Encoder:
    """A network that sees pictures, and reads words where it is CLIP's kind."""

    name: str  # its address and what its weights are, for specs; see `named`
    preprocessing: Preprocessing
    network: Any
    tokenizer: Any = None

    @torch.inference_mode()
    def pictures(self, pictures: Sequence[Image]) -> list[Vector]:
        """A vector for each picture; they may differ in size."""
        pixels = torch.from_numpy(np.stack([self.preprocessing(p) for p in pictures])).to(self.network.device)
        if self.tokenizer is None:
            return list(self.network(pixel_values=pixels).last_hidden_state[:, 0].float().cpu().numpy())
        return list(_vectors(self.network.get_image_features(pixel_values=pixels)))

    @torch.inference_mode()
    def words(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text, cut to what the network can read."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.network.device)
        return list(_vectors(self.network.get_text_features(**tokens)))

    def spec(self, spec: Spec) -> Spec:
        """A spec with this network in it."""
        return spec.model_copy(update={"model": self.name, "preprocessing": self.preprocessing})


def clip(address: str) -> Encoder:
    """CLIP from a folder or hub id in transformers' layout; pictures are resized to what it was trained on.

    Raises:
        DataError: there is no such network.
    """
    from transformers import AutoTokenizer, CLIPModel

    network, tokenizer = loaded(CLIPModel, address), loaded(AutoTokenizer, address)
    side = network.config.vision_config.image_size
    return Encoder(named(address), CLIP_224.model_copy(update={"resize": side, "crop": side}), network, tokenizer)


def dino(address: str) -> Encoder:
    """DINO's vision transformer from a folder or hub id; its first token is what is compared.

    Raises:
        DataError: there is no such network.
    """
    from transformers import ViTModel

    network = loaded(ViTModel, address, add_pooling_layer=False)
    side = network.config.image_size
    resize = round(side * DINO_224.resize / DINO_224.crop)
    return Encoder(named(address), DINO_224.model_copy(update={"resize": resize, "crop": side}), network)


def encoder(address: str) -> Encoder:
    """Whatever lies there: CLIP, or else a vision transformer as of DINO.

    Raises:
        DataError: there is no such network.
    """
    from transformers import AutoConfig

    return clip(address) if loaded(AutoConfig, address).model_type == "clip" else dino(address)


def aesthetic_layers(path: Path) -> dict[str, Vector]:
    """The layers of LAION's aesthetic predictor, linear or improved, from its file (.pth or .safetensors).

    Raises:
        DataError: the file is not there, holds something else, or is a pickle that would run a program.
        ConfigError: it is a pickle, and picklescan is not installed.
    """
    state = load_weights(path)
    linear = [isinstance(value, Tensor) and name.endswith(("weight", "bias")) for name, value in state.items()]
    if not state or not all(linear):
        raise DataError(f"{path} holds no linear layers; name the aesthetic predictor's file")
    return {name: value.double().numpy() for name, value in state.items()}


def lpips(outputs: Sequence[Image], targets: Sequence[Image], network: nn.Module) -> list[float]:
    """Learned perceptual distance of pairs of one size. `network` is called with two batches in -1..1, see `lpips_of`.

    Returns:
        One distance a pair.
    """
    with torch.inference_mode():
        found = network(_signed(outputs), _signed(targets))
    return [float(value) for value in found.reshape(len(outputs))]


def lpips_of(kind: str) -> nn.Module:
    """The network of LPIPS, `alex`, `vgg` or `squeeze`, from torchmetrics; its backbone comes from torchvision.

    Raises:
        ConfigError: torchvision is not installed, or the kind is unknown.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        return LearnedPerceptualImagePatchSimilarity(kind).net  # type: ignore[arg-type]
    except (ModuleNotFoundError, ValueError) as error:
        raise ConfigError(f"LPIPS {kind!r} can't be had ({error}); hand in a network") from error


def fid(outputs: Sequence[Image], targets: Sequence[Image], features: nn.Module) -> float:
    """Fréchet distance of two sets of pictures of one size; `features` takes N x 3 x H x W, uint8, and gives N x D."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=features).set_dtype(torch.float64)
    return _distance(metric, outputs, targets)


def kid(outputs: Sequence[Image], targets: Sequence[Image], features: nn.Module, seed: int = 0) -> float:
    """Kernel distance of the same, over 100 subsets of at most 1000 pictures."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(1000, len(outputs), len(targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _distance(KernelInceptionDistance(feature=features, subsets=100, subset_size=size), outputs, targets)


def _distance(metric: Any, outputs: Sequence[Image], targets: Sequence[Image]) -> float:
    if min(len(outputs), len(targets)) < 2:
        raise DataError("a distance of sets needs two pictures on either side; give more")
    for pictures, real in ((targets, True), (outputs, False)):
        metric.update(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), real=real)
    found = metric.compute()
    return float(found[0] if isinstance(found, tuple) else found)


def _signed(pictures: Sequence[Image]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _vectors(found: Any) -> NDArray[np.float32]:
    """What transformers' CLIP gives: the vectors, or since version 5 an output that holds them."""
    vectors: NDArray[np.float32] = (found if isinstance(found, Tensor) else found.pooler_output).float().cpu().numpy()
    return vectors


def loaded(kind: Any, address: str, **options: Any) -> Any:
    """A network, where this process computes best, or a tokenizer or processor of transformers.

    Raises:
        DataError: there is none, or its folder holds a pickle of more than weights.
    """
    checked(Path(address))
    try:
        made = kind.from_pretrained(address, **options)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{address} is no network that can be read ({_line(error)}); name a folder or hub id") from None
    return made.eval().to(best()) if isinstance(made, nn.Module) else made


def named(address: str) -> str:
    """The address of a network that was loaded, with the digest of its folder or the revision that the hub gave."""
    folder = Path(address)
    if folder.is_dir():
        return f"{folder.name}@{digest_of(folder)}"
    from huggingface_hub import try_to_load_from_cache

    kept = try_to_load_from_cache(address, "config.json")  # lies in a folder that is named by the revision
    return f"{address}@{Path(kept).parent.name}" if isinstance(kept, str) else address


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120]
