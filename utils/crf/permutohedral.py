"""Gaussian filtering on the permutohedral lattice, as a few sparse matrices, without a compiled extension.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from utils.core.errors import InputError


class _SparseRows(NamedTuple):
    """A sparse matrix in CSR format: row i has the entries from `offsets[i]` to `offsets[i + 1]`."""

    indices: torch.Tensor
    offsets: torch.Tensor
    weights: torch.Tensor

    def __matmul__(self, values: torch.Tensor) -> torch.Tensor:
        # Faster on a CPU than torch.sparse, especially with many classes, and with a fixed order of summation.
        indices, offsets, weights = self
        return F.embedding_bag(
            indices, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )


class Kernel(NamedTuple):
    """The normalised Gaussian kernel D^-1/2 K D^-1/2: splat to the lattice, blur along its axes, slice to pixels."""

    splat: _SparseRows
    blurs: list[_SparseRows]
    slice: _SparseRows

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Filter `values`, pixels x classes."""
        # A few classes at a time if the lattice is large: glibc maps each buffer above 32 MiB anew, and clearing
        # its pages can take as long as filtering.
        rows = max(len(self.splat.offsets), len(self.slice.offsets))
        most = max(1, 2**25 // (rows * values.element_size()))
        if values.shape[1] > most:
            parts = values.chunk(math.ceil(values.shape[1] / most), dim=1)
            return torch.cat([self(part.contiguous()) for part in parts], dim=1)

        values = self.splat @ values
        for blur in self.blurs:
            values = blur @ values
        return self.slice @ values


def make_kernel(features: torch.Tensor) -> Kernel:
    """Build the kernel exp(-|f_i - f_j|^2 / 2) between pixels, normalised symmetrically.

    The constant factors of Adams' blur and slice are omitted, because they cancel in the normalisation.

    Args:
        features: d x pixels.
    """
    dimensions, pixels = features.shape
    keys, axis_steps, weights = _embed(features)

    keys, order = keys.flatten().sort(stable=True)
    first = torch.cat([keys.new_ones(1, dtype=torch.bool), keys[1:] != keys[:-1]])
    starts = F.pad(first.nonzero()[:, 0], (0, 1), value=len(order)).int()
    vertex = torch.empty_like(order, dtype=torch.int32)
    vertex[order] = first.cumsum(0, dtype=torch.int32) - 1
    keys = keys[first]

    splat = _SparseRows((order % pixels).int(), starts, weights.flatten()[order])
    offsets = torch.arange(0, len(order) + 1, dimensions + 1, dtype=torch.int32, device=keys.device)
    to_pixels = _SparseRows(vertex.view(-1, pixels).t().flatten(), offsets, weights.t().flatten())
    kernel = Kernel(splat, [_axis_blur(keys, step) for step in axis_steps], to_pixels)

    scale = (kernel(features.new_ones(pixels, 1))[:, 0] + 1e-20).rsqrt()
    splat.weights.mul_(scale[splat.indices])
    to_pixels.weights.view(pixels, -1).mul_(scale[:, None])
    return kernel


def _axis_blur(keys: torch.Tensor, step: int) -> _SparseRows:
    """Blur with (1/2, 1, 1/2) along one axis; the sorted `keys` of neighbours differ by `step`."""
    count = len(keys)
    vertices = torch.arange(count, dtype=torch.int32, device=keys.device)
    position = torch.searchsorted(keys, keys + step, out_int32=True).clamp_(max=count - 1)
    found = keys[position] == keys + step
    # A missing neighbour is replaced by the vertex itself with weight 0. Entry `count` is discarded.
    ahead = torch.where(found, position, vertices)
    behind = torch.cat([vertices, vertices[:1]])
    behind = behind.scatter_(0, torch.where(found, position, count).long(), vertices)[:count]
    indices = torch.stack([behind, vertices, ahead], 1)
    weights = torch.where(indices == vertices[:, None], 0.0, 0.5)
    weights[:, 1] = 1
    offsets = torch.arange(0, 3 * count + 1, 3, dtype=torch.int32, device=keys.device)
    return _SparseRows(indices.flatten(), offsets, weights.flatten())


def _embed(features: torch.Tensor) -> tuple[torch.Tensor, list[int], torch.Tensor]:
    """Embed pixels with d features in the permutohedral lattice (Adams 2010, section 3).

    Returns:
        The keys of the d + 1 vertices around each pixel (int64, (d + 1) x pixels, row = remainder), the
        differences between the keys of neighbours along each of the d + 1 axes, and the vertices' barycentric
        weights.
    """
    d = len(features)
    elevated = _elevate(features)

    # The nearest point of remainder 0, and the rank of each coordinate by its difference to it, 0 the greatest.
    steps = (elevated * (1 / (d + 1))).round_()
    nearest = steps * (d + 1)
    difference = elevated - nearest
    rank = torch.arange(d + 1, device=features.device)[:, None].repeat(1, features.shape[1])
    for i in range(d):
        for j in range(i + 1, d + 1):
            less = (difference[i] < difference[j]).view(torch.int8)
            rank[i] += less
            rank[j] -= less
    # If the coordinates do not sum to 0, the point is not in the lattice: move those at one end of the ranking.
    rank += steps.sum(0).long()
    moves = (rank < 0).long() - (rank > d).long()
    rank += (d + 1) * moves
    nearest += (d + 1) * moves

    ranked = torch.empty_like(elevated).scatter_(0, rank, (elevated - nearest) * (1 / (d + 1)))
    weights = torch.cat([ranked[d:] + (1 - ranked[:1]), ranked[:d].flip(0) - ranked[1:].flip(0)])

    # From one remainder to the next, all coordinates increase by 1, and that of the highest remaining rank
    # decreases by d + 1.
    base, strides = _pack(nearest[:d].long())
    axis_steps = [sum(strides) - (d + 1) * stride for stride in [*strides, 0]]
    rank_steps = torch.tensor(axis_steps, device=rank.device)[:, None].expand_as(rank)
    rank_steps = torch.empty_like(rank).scatter_(0, rank, rank_steps)
    return torch.cat([base[None], rank_steps[1:].flip(0)]).cumsum(0), axis_steps, weights


def _elevate(features: torch.Tensor) -> torch.Tensor:
    """Map d features to d + 1 coordinates that sum to 0, scaled to the standard deviation of the blur."""
    d = len(features)
    elevated = features.new_empty(d + 1, features.shape[1])
    total = torch.zeros_like(features[0])
    deviation = float(np.float32(math.sqrt(2 / 3) * (d + 1)))  # float32, as in pydensecrf
    for j in range(d, 0, -1):
        scaled = features[j - 1] * (deviation / math.sqrt(j * (j + 1)))
        elevated[j] = total - j * scaled
        total += scaled
    elevated[0] = total
    return elevated


def _pack(coordinates: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Encode the d coordinates of each point (d x points) in one int64; also returns the d strides."""
    margin = 2 * len(coordinates) + 4  # for the other vertices of the simplex and their neighbours
    low, high = coordinates.amin(1) - margin, coordinates.amax(1) + margin
    strides = [1]
    for extent in (high - low + 1).tolist():
        strides.append(strides[-1] * extent)
    if strides.pop() >= 2**62:
        raise InputError("CRF: the kernel is too narrow for an image of this size: increase sxy or srgb")
    return ((coordinates - low[:, None]) * coordinates.new_tensor(strides)[:, None]).sum(0), strides
