"""Bilinear resizing as two matrix products."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """B x C x h x w -> B x C x H x W for `size` (H, W): `F.interpolate(mode="bilinear", align_corners=True)`.

    Call it outside autocast, which would round the products. Off a CPU, the backward pass of `F.interpolate` adds
    with atomics: its result depends on their order, and deterministic algorithms replace it by a very slow one.
    """
    rows, columns = (_weights(n, m, x.dtype, x.device) for n, m in zip(x.shape[2:], size, strict=True))
    return rows @ (x @ columns.T)


@functools.lru_cache(maxsize=64)
def _weights(n: int, m: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """m x n: the weights of n values in each of the m interpolated ones."""
    values = torch.eye(n, dtype=torch.float64)[None, None]
    weights = F.interpolate(values, (m, n), mode="bilinear", align_corners=True)
    return weights[0, 0].to(device, dtype)
