"""What this machine is good at."""

from __future__ import annotations

import ctypes
import sys

import torch

_TRIM, _MMAP = -1, -3  # what glibc's malloc.h calls M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_MOST = 2**31 - 1
_KEPT = 2**27  # bytes: of an activation, but not of all gradients of a large network


def best() -> torch.device:
    """Where networks run: this process's GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bf16() -> bool:
    """Whether this machine multiplies bf16 in hardware; without that, bf16 is many times slower than fp32 on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def kind() -> str:
    """What decides how fast something is computed here, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"a CPU {'with' if fast_bf16() else 'without'} bf16"


def keep_memory() -> None:
    """Let this process keep the memory that it frees, for the next step takes as much again.

    Otherwise glibc hands every large tensor back to the system at once, and each step waits until its pages are
    cleared anew. The largest do go back: what is freed seldom fits another as large, and the process would grow by it.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for name, size in ((_TRIM, _MOST), (_MMAP, _KEPT)):
            libc.mallopt(name, size)
