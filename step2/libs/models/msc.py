"""Multi-scale inputs (Chen et al., "Attention to Scale", CVPR 2016, without the attention)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SCALES = (0.5, 0.75)


class MSC(nn.Module):
    """A network at three scales of its input, and the maximum of their logits."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Images B x 3 x H x W -> in training the logits at scales 1, 0.5, 0.75 and their maximum; else that alone.

        The maximum has the size of the full-scale logits.
        """
        logits = [self.base(x)]
        # By scale_factor and not by size: the published numbers sample at exactly 1 / factor.
        logits += [self.base(F.interpolate(x, scale_factor=p, mode="bilinear")) for p in SCALES]
        size = logits[0].shape[2:]
        best = logits[0]
        for smaller in logits[1:]:
            best = torch.maximum(best, F.interpolate(smaller, size=size, mode="bilinear"))
        return [*logits, best] if self.training else best

    def train(self, mode: bool = True) -> "MSC":
        """Training mode; the running statistics of batch normalisation are frozen in it, too."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self
