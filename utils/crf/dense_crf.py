"""The dense CRF that sharpens label maps (Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected
CRFs with Gaussian Edge Potentials", NIPS 2011), by two backends that give the same result.

`pydensecrf` calls the C++ package of that name, where it is installed. `torch` needs nothing but torch: the
filters of the message passing are made once an image and applied to all classes together.
"""

import functools
import importlib.util
from dataclasses import dataclass

import numpy as np
import torch

from utils.core.errors import InputError
from utils.crf.permutohedral import Kernel, make_kernel

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


@functools.lru_cache(maxsize=4)
def _smoothness_kernel(height: int, width: int, sxy: float, device: torch.device) -> Kernel:
    """Kernel over the position: it depends on the size of the image alone, so the last few are kept."""
    return make_kernel(_positions(height, width, sxy, device))


def _appearance_kernel(image: np.ndarray, sxy: float, srgb: float, device: torch.device) -> Kernel:
    """Kernel over the position and the colour of HxWx3 `image`."""
    colours = torch.from_numpy(image).to(device).flatten(0, 1).t()
    # Divided by a tensor: CUDA multiplies by the reciprocal of a number, and a rounding can move a pixel that
    # lies between two simplices to one with other vertices.
    colours = colours / torch.tensor(float(srgb), device=device)
    return make_kernel(torch.cat([_positions(*image.shape[:2], sxy, device), colours]))


def _positions(height: int, width: int, sxy: float, device: torch.device) -> torch.Tensor:
    """x and y of each pixel in units of `sxy`: 2 x pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()]).to(device) / torch.tensor(float(sxy), device=device)
