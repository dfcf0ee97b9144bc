"""Multi-scale inputs (Chen et al., "Attention to Scale", CVPR 2016, without the attention)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SCALES = (0.5, 0.75)


class MSC(nn.Module):
    """Runs a network on its input at scales 1, 0.5 and 0.75 and takes the maximum of the logits."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Compute logits.

        Args:
            x: B x 3 x H x W.

        Returns:
            The maximum, of the size of the logits at scale 1; in training mode, a list of the logits at each scale
            and the maximum.
        """
        logits = [self.base(x)]
        # With scale_factor instead of size, as published: the input is sampled at steps of exactly 1 / factor.
        logits += [self.base(F.interpolate(x, scale_factor=p, mode="bilinear")) for p in SCALES]
        size = logits[0].shape[2:]
        best = logits[0]
        for smaller in logits[1:]:
            best = torch.maximum(best, F.interpolate(smaller, size=size, mode="bilinear"))
        return [*logits, best] if self.training else best

    def train(self, mode: bool = True) -> "MSC":
        """Set the mode; batch normalization always uses its running statistics and does not update them."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self
