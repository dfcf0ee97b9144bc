"""Gaussian filtering on the permutohedral lattice, as a few sparse matrices, without a compiled extension.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.core.errors import InputError


class SparseRows(NamedTuple):
    """A sparse matrix in CSR format: row i has the entries from `offsets[i]` to `offsets[i + 1]`."""

    indices: Tensor
    offsets: Tensor
    weights: Tensor

    def __matmul__(self, values: Tensor) -> Tensor:
        # Faster on a CPU than torch.sparse, especially with many classes, and with a fixed order of summation.
        indices, offsets, weights = self
        return F.embedding_bag(
            indices, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )


class Kernel(NamedTuple):
    """The normalized Gaussian kernel D^-1/2 K D^-1/2: splat to the lattice, blur along its axes, slice to pixels.

    The lattice has one row per vertex, and a last one that is always 0 and replaces missing neighbours. `splat` and
    `slice` have d + 1 entries per pixel. `blurs` have 3 entries per vertex: the previous vertex, itself, the next.
    """

    splat: SparseRows
    blurs: list[SparseRows]
    slice: SparseRows

    def __call__(self, values: Tensor) -> Tensor:
        """Filter `values`, pixels x classes."""
        values = self.splat @ values
        for blur in self.blurs:
            values = blur @ values
        return self.slice @ values

    def restrict(self, pixels: Tensor) -> "Kernel":
        """The kernel between the pixels with these indices, on the part of the lattice that it needs."""
        corners, count = len(self.blurs), len(self.splat.offsets) - 1
        vertices = self.slice.indices.view(-1, corners)[pixels].long()
        # The blur must reach a vertex from one of `vertices` and another one from it.
        ends = self.splat.weights.new_zeros(count, 1)
        ends[vertices.flatten()] = 1
        forward = backward = ends
        for blur, reverse in zip(self.blurs, reversed(self.blurs)):
            forward, backward = blur @ forward, reverse @ backward
        kept = (forward * backward)[:, 0].nonzero()[:, 0]
        row = vertices.new_full((count,), len(kept), dtype=torch.int32)
        row[kept] = _arange(len(kept), like=row)
        neighbours = [row[blur.indices.view(-1, 3)[kept].long()] for blur in self.blurs]
        vertices, weights = row[vertices].flatten(), self.slice.weights.view(-1, corners)[pixels].flatten()
        return _assemble(vertices, weights, vertices.argsort(stable=True), neighbours)


def make_kernel(features: Tensor) -> Kernel:
    """Build the kernel exp(-|f_i - f_j|^2 / 2) between pixels with features d x pixels, normalized symmetrically.

    The constant factors of Adams' blur and slice are omitted, because they cancel in the normalization.
    """
    keys, axis_steps, weights = _embed(features)
    keys, order = keys.t().flatten().sort(stable=True)
    first = F.pad(keys[1:] != keys[:-1], (1, 0), value=True)
    vertices = torch.empty_like(order, dtype=torch.int32)
    vertices.scatter_(0, order, first.cumsum(0, dtype=torch.int32) - 1)
    keys = keys[first]
    kernel = _assemble(vertices, weights.t().flatten(), order, [_find_neighbours(keys, step) for step in axis_steps])
    scale = (kernel(features.new_ones(features.shape[1], 1)) + 1e-20).rsqrt()
    kernel.slice.weights.view(len(scale), -1).mul_(scale)
    kernel.splat.weights.copy_(kernel.slice.weights.take(order))
    return kernel


def _assemble(vertices: Tensor, weights: Tensor, order: Tensor, neighbours: list[Tensor]) -> Kernel:
    """Kernel from the d + 1 vertices of each pixel and their weights, both flat, and the order of the vertices."""
    corners, count = len(neighbours), len(neighbours[0])
    entries = torch.bincount(vertices, minlength=count + 1)
    offsets = F.pad(entries.cumsum(0, dtype=torch.int32), (1, 0))
    splat = SparseRows(order.int() // corners, offsets, weights.take(order))

    offsets = 3 * _arange(count + 2, like=vertices).clamp_(max=count)  # the last row has no entries
    blur_weights = weights.new_ones(count, 3)
    blur_weights[:, ::2].fill_(0.5)
    blurs = [SparseRows(rows.flatten(), offsets, blur_weights.flatten()) for rows in neighbours]

    offsets = corners * _arange(len(vertices) // corners + 1, like=vertices)
    return Kernel(splat, blurs, SparseRows(vertices, offsets, weights))


def _arange(end: int, like: Tensor) -> Tensor:
    return torch.arange(end, dtype=torch.int32, device=like.device)


def _find_neighbours(keys: Tensor, step: int) -> Tensor:
    """Previous vertex, itself and next vertex along one axis: vertices x 3, int32, the number of vertices if missing.

    `keys` are those of all vertices, sorted. Those of neighbours differ by `step`.
    """
    count = len(keys)
    if keys.device.type == "cpu":
        # A stable sort merges two sorted sequences in linear time, and equal keys end up side by side.
        both = torch.cat([keys, keys + step]).numpy()
        order = both.argsort(kind="stable")
        both = both[order]
        equal = (both[1:] == both[:-1]).nonzero()[0]
        ahead, here = torch.from_numpy(order[equal]), torch.from_numpy(order[equal + 1] - count)
    else:
        position = torch.searchsorted(keys, keys + step).clamp_(max=count - 1)
        here = (keys[position] == keys + step).nonzero()[:, 0]
        ahead = position[here]
    rows = keys.new_full((count, 3), count, dtype=torch.int32)
    rows[:, 1] = _arange(count, like=keys)
    rows[here, 2], rows[ahead, 0] = ahead.int(), here.int()
    return rows


def _embed(features: Tensor) -> tuple[Tensor, list[int], Tensor]:
    """Embed pixels with d features in the permutohedral lattice (Adams 2010, section 3).

    Returns:
        The keys of the d + 1 vertices around each pixel ((d + 1) x pixels, row = remainder), the differences between
        the keys of neighbours along each of the d + 1 axes, and the vertices' barycentric weights.
    """
    d = len(features)
    elevated = _elevate(features)

    # The nearest point of remainder 0, and the rank of each coordinate by its difference to it, 0 the greatest.
    steps = (elevated * (1 / (d + 1))).round_()
    nearest = steps * (d + 1)
    difference = elevated - nearest
    rank = torch.arange(d + 1, dtype=torch.int8, device=features.device)[:, None].repeat(1, features.shape[1])
    for i in range(d):
        for j in range(i + 1, d + 1):
            less = (difference[i] < difference[j]).view(torch.int8)
            rank[i] += less
            rank[j] -= less
    # If the coordinates do not sum to 0, the point is not in the lattice: move those at one end of the ranking.
    rank += steps.sum(0).to(torch.int8)
    moves = (rank < 0).to(torch.int8) - (rank > d).to(torch.int8)
    rank += (d + 1) * moves
    nearest += (d + 1) * moves
    rank = rank.long()

    ranked = torch.empty_like(elevated).scatter_(0, rank, (elevated - nearest) * (1 / (d + 1)))
    weights = torch.cat([ranked[d:] + (1 - ranked[:1]), ranked[:d].flip(0) - ranked[1:].flip(0)])

    # From one remainder to the next, all coordinates increase by 1, and that of the highest remaining rank
    # decreases by d + 1.
    base, strides = _pack(nearest[:d].long())
    axis_steps = [sum(strides) - (d + 1) * stride for stride in [*strides, 0]]
    rank_steps = torch.empty_like(rank)
    for ranks, step in zip(rank, axis_steps):
        rank_steps.scatter_(0, ranks[None], step)
    return torch.cat([base[None], rank_steps[1:].flip(0)]).cumsum(0), axis_steps, weights


def _elevate(features: Tensor) -> Tensor:
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


def _pack(coordinates: Tensor) -> tuple[Tensor, list[int]]:
    """Encode the d coordinates of each point (d x points) in one int64; also returns the d strides."""
    margin = 2 * len(coordinates) + 4  # for the other vertices of the simplex and their neighbours
    low, high = coordinates.amin(1) - margin, coordinates.amax(1) + margin
    strides = [1]
    for extent in (high - low + 1).tolist():
        strides.append(strides[-1] * extent)
    if strides.pop() >= 2**62:
        raise InputError("CRF: the kernel is too narrow for an image of this size: increase sxy or srgb")
    keys = coordinates[0] - low[0]
    for row, lowest, stride in zip(coordinates[1:], low[1:], strides[1:]):
        keys.add_(row - lowest, alpha=stride)
    return keys, strides
