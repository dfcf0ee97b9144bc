"""Batch normalization with few operations, and with running statistics that can be updated later."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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


class LateStatistics:
    """Separates a forward pass in training mode from its update of the running statistics.

    The output of a training-mode forward pass depends on the statistics of the batch only, so that it can be computed
    before other passes while the running statistics come out as if it had been computed after them.
    """

    def __init__(self, network: nn.Module) -> None:
        norms = (m for m in network.modules() if isinstance(m, _BatchNorm))
        self.norms = [m for m in norms if m.training and m.track_running_stats]
        self.running = [b for m in self.norms for b in (m.running_mean, m.running_var) if b is not None]
        self.updates = [torch.zeros_like(b) for b in self.running]

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """Context of the forward pass: running = (1 - momentum) * 0 + momentum * batch is kept for `update`."""
        if self.updates:
            torch._foreach_zero_(self.updates)
        self._assign(self.updates)
        try:
            yield
        finally:
            self._assign(self.running)

    def update(self) -> None:
        """running = (1 - momentum) * running + momentum * batch."""
        if self.running:
            (momentum,) = {m.momentum for m in self.norms}
            assert momentum is not None
            torch._foreach_mul_(self.running, 1 - momentum)
            torch._foreach_add_(self.running, self.updates)

    def _assign(self, buffers: list[Tensor]) -> None:
        for k, m in enumerate(self.norms):
            m.running_mean, m.running_var = buffers[2 * k], buffers[2 * k + 1]
