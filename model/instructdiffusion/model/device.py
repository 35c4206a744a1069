"""What this machine is good at."""

from __future__ import annotations

import torch


def best() -> torch.device:
    """Where networks run: this process's GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bf16() -> bool:
    """Whether this machine multiplies bf16 in hardware; without that, bf16 is many times slower than fp32 on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
