"""The dense CRF that sharpens label maps (Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected
CRFs with Gaussian Edge Potentials", NIPS 2011), by two backends that give the same result.

`pydensecrf` calls the C++ package of that name, where it is installed. `torch` needs nothing but torch: the
filter of the message passing is the permutohedral lattice (Adams, Baek and Davis, "Fast High-Dimensional
Filtering Using the Permutohedral Lattice", 2010), written as a few sparse matrices that are made once an
image and applied to all classes together.
"""

import functools
import importlib.util
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from utils.files import InputError

BACKENDS = ("auto", "pydensecrf", "torch")
CLIP = 1e-5  # the least probability that the unary potential tells from none
PRUNE = 0.05  # keeps over 99.99 % of the labels: benchmarks/crf.py measures it


@dataclass(frozen=True)
class CRFParams:
    """The published parameters; `sxy` in pixels, `srgb` in grey levels of 0..255.

    Raises InputError for a deviation that is not above 0 and for less than no iterations.
    """

    iterations: int = 10
    gaussian_weight: float = 3
    gaussian_sxy: float = 1
    bilateral_weight: float = 4
    bilateral_sxy: float = 67
    bilateral_srgb: float = 3

    def __post_init__(self) -> None:
        if not min(self.gaussian_sxy, self.bilateral_sxy, self.bilateral_srgb) > 0 or self.iterations < 0:
            raise InputError(f"CRF: sxy and srgb must be above 0, iterations 0 or more: {self}")


def dense_crf(
    image: np.ndarray,
    probabilities: np.ndarray | torch.Tensor,
    params: CRFParams = CRFParams(),
    backend: str = "auto",
    device: str | torch.device | None = None,
    prune: float | None = PRUNE,
) -> torch.Tensor:
    """Marginals CxHxW, float32, after mean-field inference; `.argmax(0)` of them is the label map.

    `image` is HxWx3 uint8, fed as it is (the published results: BGR as cv2 reads it); `probabilities` are
    CxHxW, classes first, as from a softmax. The result is a tensor on `device` (default: where
    `probabilities` are). `backend` "auto" takes pydensecrf for a CPU where it is installed, else torch; torch
    works on `device` if that is a CPU or a CUDA device, for any other on the CPU.

    Classes whose probability stays below `prune` in the whole image send no messages, which saves most of the
    time; they keep their share of each pixel. None: every class takes part.

    Raises InputError for shapes, types and names that do not fit, for probabilities that are not finite, and
    for pydensecrf when it is asked for and not installed.
    """
    given = torch.as_tensor(_plain(probabilities))
    device = given.device if device is None else torch.device(device)
    backend = _choose_backend(backend, device)
    _check(image, given, prune)
    image = _plain(image)
    infer = _infer_torch if backend == "torch" else _infer_pydensecrf
    with torch.no_grad():
        given = given.to(device if backend == "torch" and device.type == "cuda" else "cpu", torch.float32)
        likely = _likely_classes(given, prune)
        given = given.clamp(min=CLIP)
        if likely.all():
            return infer(image, -given.log(), params, silent=0).to(device)

        # The unlikely classes are joined to one that sends no messages. Left out altogether, they would hand
        # their mass to the others, and many more labels would change.
        unlikely = given[~likely]
        rest = unlikely.sum(0, keepdim=True)
        found = infer(image, -torch.cat([given[likely], rest]).log(), params, silent=1)
        marginals = torch.empty_like(given)
        marginals[likely] = found[:-1]
        marginals[~likely] = unlikely / rest * found[-1]
        return marginals.to(device)


def _plain(array: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """An array as torch and pydensecrf take it: contiguous, and writable though neither writes to it."""
    return array if isinstance(array, torch.Tensor) else np.require(array, requirements=("C", "W"))


def _choose_backend(name: str, device: torch.device) -> str:
    if name not in BACKENDS:
        raise InputError(f"CRF: backend must be one of {', '.join(BACKENDS)}, not {name!r}")
    installed = importlib.util.find_spec("pydensecrf") is not None
    if name == "pydensecrf" and not installed:
        raise InputError("CRF: no pydensecrf here: `pip install pydensecrf2`, or take the backend torch")
    if name == "auto":
        return "pydensecrf" if installed and device.type == "cpu" else "torch"
    return name


def _check(image: np.ndarray, probabilities: torch.Tensor, prune: float | None) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{getattr(image, 'dtype', type(image).__name__)} {tuple(np.shape(image))}"
        raise InputError(f"CRF: the image must be a uint8 array HxWx3, not {kind}")
    shape = tuple(probabilities.shape)
    if len(shape) != 3 or shape[1:] != image.shape[:2] or 0 in shape or not probabilities.is_floating_point():
        wanted = "floating point CxHxW of the image's size {}x{}".format(*image.shape[:2])
        raise InputError(f"CRF: the probabilities must be {wanted}, not {probabilities.dtype} {shape}")
    if prune is not None and not 0 <= prune <= 1:
        raise InputError(f"CRF: the bound below which classes are unlikely must lie in 0..1, not {prune}")


def _likely_classes(probabilities: torch.Tensor, bound: float | None) -> torch.Tensor:
    """Mask of the classes that reach `bound` somewhere; all of them where that would spare fewer than two."""
    peaks = probabilities.flatten(1).amax(1)
    if not peaks.isfinite().all():
        raise InputError("CRF: the probabilities are not all finite")
    likely = peaks >= (0 if bound is None else peaks.max().clamp(max=bound))
    return likely if (~likely).sum() > 1 else torch.ones_like(likely)


def _infer_pydensecrf(image: np.ndarray, unary: torch.Tensor, params: CRFParams, silent: int) -> torch.Tensor:
    """Marginals CxHxW from `unary` CxHxW, both on the CPU; the last `silent` classes send no messages."""
    from pydensecrf.densecrf import DenseCRF2D

    classes, height, width = unary.shape
    potts = -np.ones(classes, np.float32)  # the energy of two pixels that agree on a class
    potts[classes - silent :] = 0
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.flatten(1).numpy()))
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=potts * np.float32(params.gaussian_weight))
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=image,
        compat=potts * np.float32(params.bilateral_weight),
    )
    return torch.from_numpy(np.array(crf.inference(params.iterations), np.float32)).view(unary.shape)


def _infer_torch(image: np.ndarray, unary: torch.Tensor, params: CRFParams, silent: int) -> torch.Tensor:
    """The same on the device of `unary` (CRF paper, algorithm 1).

    With Potts compatibility the update is Q = softmax(-unary + sum of weight * kernel Q over both kernels),
    where the message of a pixel to itself counts.
    """
    classes, height, width = unary.shape
    smoothness = _smoothness_kernel(height, width, params.gaussian_sxy, unary.device)
    appearance = _appearance_kernel(image, params.bilateral_sxy, params.bilateral_srgb, unary.device)
    unary = unary.flatten(1).t().contiguous()  # a pixel's classes side by side: the filter moves whole rows
    marginals = _softmax_(-unary)
    for _ in range(params.iterations):
        messages = smoothness(marginals).mul_(params.gaussian_weight)
        messages.add_(appearance(marginals), alpha=params.bilateral_weight)
        messages[:, classes - silent :] = 0
        marginals = _softmax_(messages.sub_(unary))
    return marginals.t().reshape(classes, height, width)


def _softmax_(rows: torch.Tensor) -> torch.Tensor:
    """Softmax of each row, in place: with rows this short torch's own takes up to four times as long."""
    rows.sub_(rows.amax(1, keepdim=True)).exp_()
    return rows.div_(rows.sum(1, keepdim=True))


class _SparseRows(NamedTuple):
    """A sparse matrix: the entries from `offsets[i]` to `offsets[i + 1]` are those of row i."""

    indices: torch.Tensor
    offsets: torch.Tensor
    weights: torch.Tensor

    def __matmul__(self, values: torch.Tensor) -> torch.Tensor:
        # On a CPU faster than torch.sparse, the more so the more classes; and its sums have a fixed order.
        indices, offsets, weights = self
        return F.embedding_bag(
            indices, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )


class _Kernel(NamedTuple):
    """D^-1/2 K D^-1/2 of a Gaussian kernel K: splat to the lattice, blur along its axes, slice to pixels."""

    splat: _SparseRows
    blurs: list[_SparseRows]
    slice: _SparseRows

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Filter `values`, pixels x classes."""
        # A few classes at a time where the lattice is large: glibc takes each buffer above 32 MiB anew from
        # the system, which clears it, and that can cost as much as the filter.
        rows = max(len(self.splat.offsets), len(self.slice.offsets))
        most = max(1, 2**25 // (rows * values.element_size()))
        if values.shape[1] > most:
            parts = values.chunk(math.ceil(values.shape[1] / most), dim=1)
            return torch.cat([self(part.contiguous()) for part in parts], dim=1)

        values = self.splat @ values
        for blur in self.blurs:
            values = blur @ values
        return self.slice @ values


@functools.lru_cache(maxsize=4)
def _smoothness_kernel(height: int, width: int, sxy: float, device: torch.device) -> _Kernel:
    """Kernel over the position: it depends on the size of the image alone, so the last few are kept."""
    return _make_kernel(_positions(height, width, sxy, device))


def _appearance_kernel(image: np.ndarray, sxy: float, srgb: float, device: torch.device) -> _Kernel:
    """Kernel over the position and the colour of HxWx3 `image`."""
    colours = torch.from_numpy(image).to(device).flatten(0, 1).t()
    # Divided by a tensor: CUDA multiplies by the reciprocal of a number, and a rounding can move a pixel that
    # lies between two simplices to one with other vertices.
    colours = colours / torch.tensor(float(srgb), device=device)
    return _make_kernel(torch.cat([_positions(*image.shape[:2], sxy, device), colours]))


def _positions(height: int, width: int, sxy: float, device: torch.device) -> torch.Tensor:
    """x and y of each pixel in units of `sxy`: 2 x pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()]).to(device) / torch.tensor(float(sxy), device=device)


def _make_kernel(features: torch.Tensor) -> _Kernel:
    """Kernel exp(-|f_i - f_j|^2 / 2) between the pixels, normalised symmetrically; `features` are d x pixels.

    Constant factors cancel in the normalisation, so that those of Adams' blur and slice are left out.
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
    kernel = _Kernel(splat, [_axis_blur(keys, step) for step in axis_steps], to_pixels)

    scale = (kernel(features.new_ones(pixels, 1))[:, 0] + 1e-20).rsqrt()
    splat.weights.mul_(scale[splat.indices])
    to_pixels.weights.view(pixels, -1).mul_(scale[:, None])
    return kernel


def _axis_blur(keys: torch.Tensor, step: int) -> _SparseRows:
    """Blur by (1/2, 1, 1/2) along one axis, where `step` parts a vertex from the next; `keys` are sorted."""
    count = len(keys)
    vertices = torch.arange(count, dtype=torch.int32, device=keys.device)
    position = torch.searchsorted(keys, keys + step, out_int32=True).clamp_(max=count - 1)
    found = keys[position] == keys + step
    # A neighbour that is not there: the vertex itself, at weight 0. Entry `count` takes what leads nowhere.
    ahead = torch.where(found, position, vertices)
    behind = torch.cat([vertices, vertices[:1]])
    behind = behind.scatter_(0, torch.where(found, position, count).long(), vertices)[:count]
    indices = torch.stack([behind, vertices, ahead], 1)
    weights = torch.where(indices == vertices[:, None], 0.0, 0.5)
    weights[:, 1] = 1
    offsets = torch.arange(0, 3 * count + 1, 3, dtype=torch.int32, device=keys.device)
    return _SparseRows(indices.flatten(), offsets, weights.flatten())


def _embed(features: torch.Tensor) -> tuple[torch.Tensor, list[int], torch.Tensor]:
    """Place the pixels in the permutohedral lattice (Adams 2010, section 3; d = number of features).

    Returns the keys of the d + 1 vertices around each pixel (int64, (d + 1) x pixels, row = remainder), what
    to add to a key for the next vertex along each of the d + 1 axes, and the vertices' barycentric weights.
    """
    d = len(features)
    elevated = _elevate(features)

    # The nearest point of remainder 0, and each coordinate's rank by its difference to it, 0 the greatest.
    steps = (elevated * (1 / (d + 1))).round_()
    nearest = steps * (d + 1)
    difference = elevated - nearest
    rank = torch.arange(d + 1, device=features.device)[:, None].repeat(1, features.shape[1])
    for i in range(d):
        for j in range(i + 1, d + 1):
            less = (difference[i] < difference[j]).view(torch.int8)
            rank[i] += less
            rank[j] -= less
    # The point lies in the lattice if its coordinates sum to 0: else those at one end of the ranking move on.
    rank += steps.sum(0).long()
    moves = (rank < 0).long() - (rank > d).long()
    rank += (d + 1) * moves
    nearest += (d + 1) * moves

    ranked = torch.empty_like(elevated).scatter_(0, rank, (elevated - nearest) * (1 / (d + 1)))
    weights = torch.cat([ranked[d:] + (1 - ranked[:1]), ranked[:d].flip(0) - ranked[1:].flip(0)])

    # From one remainder to the next all coordinates gain 1, and the one of the last rank left loses d + 1.
    base, strides = _pack(nearest[:d].long())
    axis_steps = [sum(strides) - (d + 1) * stride for stride in [*strides, 0]]
    rank_steps = torch.tensor(axis_steps, device=rank.device)[:, None].expand_as(rank)
    rank_steps = torch.empty_like(rank).scatter_(0, rank, rank_steps)
    return torch.cat([base[None], rank_steps[1:].flip(0)]).cumsum(0), axis_steps, weights


def _elevate(features: torch.Tensor) -> torch.Tensor:
    """Map d features to the plane of d + 1 coordinates that sum to 0, scaled to the deviation of the blur."""
    d = len(features)
    elevated = features.new_empty(d + 1, features.shape[1])
    total = torch.zeros_like(features[0])
    deviation = float(np.float32(math.sqrt(2 / 3) * (d + 1)))  # rounded where pydensecrf rounds it
    for j in range(d, 0, -1):
        scaled = features[j - 1] * (deviation / math.sqrt(j * (j + 1)))
        elevated[j] = total - j * scaled
        total += scaled
    elevated[0] = total
    return elevated


def _pack(coordinates: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """One int64 for the d coordinates of each point (d x points), and what a step of 1 in each adds to it."""
    margin = 2 * len(coordinates) + 4  # room for the other vertices of the simplex and their neighbours
    low, high = coordinates.amin(1) - margin, coordinates.amax(1) + margin
    strides = [1]
    for extent in (high - low + 1).tolist():
        strides.append(strides[-1] * extent)
    if strides.pop() >= 2**62:
        raise InputError("CRF: the kernel is too narrow for an image of this size; enlarge sxy or srgb")
    return ((coordinates - low[:, None]) * coordinates.new_tensor(strides)[:, None]).sum(0), strides
