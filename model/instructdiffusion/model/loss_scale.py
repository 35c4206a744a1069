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
        self.register_buffer("fine", torch.tensor(0))  # steps in a row in which every gradient was a number
        self.factor: Tensor
        self.fine: Tensor
        self.overflows: list[Tensor] = []
        for weight in weights:
            weight.register_hook(self._unscale)

    def update(self, overflow: bool) -> None:
        """Half as much after an overflow, which counts nothing; twice as much after many steps without any."""
        self.overflows.clear()
        if overflow:
            self.fine.zero_()
            self.factor.div_(2).clamp_(min=LEAST)
        elif self.fine.add_(1) % GROWS == 0:
            self.factor.mul_(2)

    def overflowed(self) -> bool:
        """Whether any gradient of this process was no number since the last update."""
        return bool(self.overflows) and bool(torch.stack(self.overflows).any())

    def _unscale(self, gradient: Tensor) -> Tensor:
        self.overflows.append(~gradient.isfinite().all())
        return (gradient / self.factor).nan_to_num(0.0, 0.0, 0.0)
