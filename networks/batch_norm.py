"""Batch normalization with few operations."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """As its base, except that `count_batches` updates the counters of all layers of a network at once."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )


def count_batches(network: nn.Module) -> None:
    """Add 1 to `num_batches_tracked` of each BatchNorm2d in training mode, as part of the network's forward pass."""
    norms = (m for m in network.modules() if type(m) is BatchNorm2d and m.training)
    counters = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
    if counters:
        torch._foreach_add_(counters, 1)
