"""LaMa: a generator of fast Fourier convolutions, which sees the whole picture at every layer (Suvorov et al., 2021).

A file of TorchScript, as big-lama is passed around, is run as it is. Of a file of safetensors only the weights are
taken: the network is built here, as wide and deep as they say. Its modules are named as in the published checkpoint,
where channels are split in two: `l` sees its neighbours, `g` sees everything.

Shape suffixes: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from instructdiffusion.model.device import best
from instructdiffusion.model.errors import DataError
from instructdiffusion.model.files import digest_of
from instructdiffusion.model.synthesis.inpainters import Inpainter
from instructdiffusion.model.task import Image, Mask

MULTIPLE = 8  # sides are padded to a multiple of this: the network halves them three times
Split = tuple[Tensor, Tensor | None]  # local and global channels


class Lama(Inpainter):
    """`network` takes a picture (B3HW, 0..1) and a mask (B1HW, 0 or 1), and gives a picture."""

    def __init__(self, network: Any, name: str) -> None:
        self.device = best()
        self.network, self.name = network.to(self.device), name

    @staticmethod
    def load(path: Path) -> Lama:
        """LaMa from its file.

        Raises:
            DataError: it is missing, a pickle, or holds another network; names it.
        """
        if not path.is_file():
            raise DataError(f"{path}: no such file; name LaMa's TorchScript or safetensors file")
        network = _published(path) if path.suffix == ".safetensors" else _script(path)
        return Lama(network.eval(), f"lama:{path.name}@{digest_of(path)}")

    @torch.inference_mode()
    def guess(self, picture: Image, mask: Mask) -> Image:
        height, width = mask.shape
        spare = ((0, -height % MULTIPLE), (0, -width % MULTIPLE))
        picture_HWC = np.pad(picture, (*spare, (0, 0)), mode="symmetric")
        mask_HW = np.pad(mask, spare, mode="symmetric")
        picture_BCHW = torch.from_numpy(picture_HWC).permute(2, 0, 1)[None].float() / 255
        mask_B1HW = torch.from_numpy(mask_HW)[None, None].float()
        found_BCHW = self.network(picture_BCHW.to(self.device), mask_B1HW.to(self.device)).cpu()
        found = (found_BCHW[0] * 255).round().clamp(0, 255).permute(1, 2, 0).to(torch.uint8)
        return np.asarray(found.numpy()[:height, :width])


class Generator(nn.Module):
    """The generator: `downs` halvings, `blocks` residual blocks with a share of global channels, and back up."""

    def __init__(self, width: int = 64, downs: int = 3, blocks: int = 18, share: float = 0.75) -> None:
        super().__init__()
        sizes = [width * 2**step for step in range(downs + 1)]
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), Unit(4, width, 7, 0, 0, 0)]
        for step, (narrow, wide) in enumerate(pairwise(sizes)):
            layers.append(Unit(narrow, wide, 3, 1, 0, share if step == downs - 1 else 0, stride=2))
        layers += [Block(sizes[-1], share) for _ in range(blocks)]
        layers.append(Joined())
        for wide, narrow in zip(sizes[:0:-1], sizes[-2::-1], strict=True):
            layers.append(nn.ConvTranspose2d(wide, narrow, 3, 2, 1, output_padding=1))
            layers += [nn.BatchNorm2d(narrow), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Sigmoid()]
        self.model = nn.Sequential(*layers)

    def forward(self, picture_BCHW: Tensor, mask_BCHW: Tensor) -> Tensor:
        seen_BCHW = picture_BCHW * (1 - mask_BCHW)
        return self.model(torch.cat([seen_BCHW, mask_BCHW], dim=1))


class Fourier(nn.Module):
    """A convolution of the spectrum, 1 x 1: each of its points depends on the whole picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfftn(x_BCHW, dim=(-2, -1), norm="ortho"))
        interleaved = spectrum.movedim(-1, 2).flatten(1, 2)  # real and imaginary part of each channel in turn
        mixed = torch.relu(self.bn(self.conv_layer(interleaved)))
        back = mixed.unflatten(1, (-1, 2)).movedim(2, -1).contiguous()
        return torch.fft.irfftn(torch.view_as_complex(back), s=x_BCHW.shape[-2:], dim=(-2, -1), norm="ortho")


class Spectral(nn.Module):
    """From global channels to global channels, through the spectrum."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        half = outer // 2
        self.downsample = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
        self.conv1 = nn.Sequential(nn.Conv2d(inner, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU())
        self.fu = Fourier(half)
        self.conv2 = nn.Conv2d(half, outer, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.conv1(self.downsample(x_BCHW))
        return self.conv2(x_BCHW + self.fu(x_BCHW))


class Convolution(nn.Module):
    """All four ways between local and global channels; those without channels are left out."""

    def __init__(
        self, inner: int, outer: int, size: int, pad: int, share_in: float, share_out: float, stride: int
    ) -> None:
        super().__init__()
        in_g, out_g = int(inner * share_in), int(outer * share_out)
        in_l, out_l = inner - in_g, outer - out_g

        def local(one: int, other: int) -> nn.Module | None:
            there = one and other
            return nn.Conv2d(one, other, size, stride, pad, bias=False, padding_mode="reflect") if there else None

        self.convl2l, self.convl2g, self.convg2l = local(in_l, out_l), local(in_l, out_g), local(in_g, out_l)
        self.convg2g = Spectral(in_g, out_g, stride) if in_g and out_g else None

    def forward(self, x: Split) -> Split:
        local, far = x
        return _sum((self.convl2l, local), (self.convg2l, far)), _sum((self.convl2g, local), (self.convg2g, far))


class Unit(nn.Module):
    """A convolution, normalised and rectified."""

    def __init__(
        self, inner: int, outer: int, size: int, pad: int, share_in: float, share_out: float, stride: int = 1
    ) -> None:
        super().__init__()
        self.ffc = Convolution(inner, outer, size, pad, share_in, share_out, stride)
        out_g = int(outer * share_out)
        self.bn_l = nn.BatchNorm2d(outer - out_g)
        self.bn_g = nn.BatchNorm2d(out_g) if out_g else None

    def forward(self, x: Tensor | Split) -> Split:
        local, far = self.ffc(x if isinstance(x, tuple) else (x, None))
        return torch.relu(self.bn_l(local)), torch.relu(self.bn_g(far)) if self.bn_g else None


class Block(nn.Module):
    """Two units and a way around them."""

    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = (Unit(width, width, 3, 1, share, share) for _ in range(2))

    def forward(self, x: Split) -> Split:
        local, far = self.conv2(self.conv1(x))
        return x[0] + local, None if far is None or x[1] is None else x[1] + far


class Joined(nn.Module):
    """Local and global channels as one tensor."""

    def forward(self, x: Split) -> Tensor:
        return torch.cat([part for part in x if part is not None], dim=1)


def generator_of(state: Mapping[str, Tensor]) -> Generator:
    """The generator with these weights, as large as they are; LaMa's discriminators and losses are left out.

    Raises:
        DataError: they are of another network.
    """
    ours = {name.removeprefix("generator."): value for name, value in state.items()}
    ours = {name: value for name, value in ours.items() if name.startswith("model.")}
    numbers = sorted({int(found[1]) for name in ours if (found := re.match(r"model\.(\d+)\.conv1\.", name))})
    try:
        width = len(ours["model.1.ffc.convl2l.weight"])
        far, near = (len(ours[f"model.{numbers[0]}.conv1.bn_{kind}.weight"]) for kind in "gl")
        network = Generator(width, numbers[0] - 2, len(numbers), far / (far + near))
        network.load_state_dict(ours)
    except (KeyError, IndexError, RuntimeError) as error:
        raise DataError(f"these are not the weights of LaMa's generator ({str(error).splitlines()[0]})") from None
    return network


def _sum(*ways: tuple[nn.Module | None, Tensor | None]) -> Any:
    found = [way(x) for way, x in ways if way is not None and x is not None]
    return sum(found[1:], found[0]) if found else None


def _published(path: Path) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return generator_of(load_file(path))
    except (SafetensorError, DataError) as error:
        raise DataError(f"{path} is not LaMa ({error}); name its safetensors or TorchScript file") from error


def _script(path: Path) -> Any:
    """A TorchScript archive: it holds code of its own, which a mere pickle of weights lacks."""
    scripted = zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist())
    if not scripted:
        raise DataError(
            f"{path} is neither TorchScript nor safetensors, and pickles are not opened: they can run anything; "
            "save its weights as safetensors"
        )
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        raise DataError(f"{path} is no TorchScript that can be read; download it again") from error
