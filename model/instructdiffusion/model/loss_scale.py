"""fp16 has no room for small gradients: the loss is scaled up, and each gradient down before anyone sees it.

Dynamic loss scaling (arXiv 1710.03740, section 3.2), in each weight's own hook, so that it is the same however weights
and gradients are split.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

FIRST, LEAST = 2.0**16, 1.0
GROWS = 2000  # fine steps before it is tried twice as high


class LossScale(nn.Module):
    """The factor of the loss; a checkpoint holds it with the weights."""

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        """Take care of the gradients of `weights`, from here on."""
        super().__init__()
        self.register_buffer("factor", torch.tensor(FIRST))
        self.register_buffer("fine", torch.tensor(0))  # steps since the last that was left out for an overflow
        self.factor: Tensor
        self.fine: Tensor
        for weight in weights:
            weight.register_hook(lambda gradient: gradient / self.factor)  # what overflowed stays no number

    def grow(self) -> None:
        """Told of a step whose gradient was a number: twice as much after many of them."""
        if self.fine.add_(1) % GROWS == 0:
            self.factor.mul_(2)

    def shrink(self) -> bool:
        """Told of a step that an overflow left out: half as much; False where it can't be less, so is not to blame."""
        self.fine.zero_()
        if self.factor <= LEAST:
            return False
        self.factor.div_(2).clamp_(min=LEAST)
        return True
