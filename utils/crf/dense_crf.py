"""The fully connected CRF that refines label maps, with two equivalent backends.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.

`torch` needs only torch: the filters of the message passing are built once per image and applied to all classes at
once. `pydensecrf` uses the C++ package of that name; it is slower and kept for comparison.
"""

import functools
import importlib.util
from dataclasses import dataclass

import numpy as np
import torch

from utils.core.errors import InputError
from utils.crf.mean_field import mean_field
from utils.crf.permutohedral import Kernel, make_kernel

BACKENDS = ("auto", "pydensecrf", "torch")
CLIP = 1e-5  # lower bound of the probabilities in the unary potential
PRUNE = 0.05  # changes less than 0.01 % of the labels, see benchmarks/crf.py


@dataclass(frozen=True)
class CRFParams:
    """Parameters, by default the published ones; `sxy` in pixels, `srgb` in grey levels of 0..255.

    Raises:
        InputError: a standard deviation is not positive, or `iterations` is negative.
    """

    iterations: int = 10
    gaussian_weight: float = 3
    gaussian_sxy: float = 1
    bilateral_weight: float = 4
    bilateral_sxy: float = 67
    bilateral_srgb: float = 3

    def __post_init__(self) -> None:
        if not min(self.gaussian_sxy, self.bilateral_sxy, self.bilateral_srgb) > 0 or self.iterations < 0:
            raise InputError(f"CRF: sxy and srgb must be above 0, and iterations at least 0: {self}")


def dense_crf(
    image: np.ndarray,
    probabilities: np.ndarray | torch.Tensor,
    params: CRFParams = CRFParams(),
    backend: str = "auto",
    device: str | torch.device | None = None,
    prune: float | None = PRUNE,
) -> torch.Tensor:
    """Mean-field inference.

    Args:
        image: H x W x 3 uint8, BGR as read by OpenCV for the published results.
        probabilities: C x H x W, as from a softmax.
        params: parameters of the CRF.
        backend: torch, pydensecrf, or auto: torch, which is faster on a CPU as well.
        device: of the result, None: that of `probabilities`. The torch backend computes on it if it is a CUDA
            device, otherwise on the CPU.
        prune: classes whose probability is below this bound in the whole image send no messages, which saves most
            of the time; they keep their share of each pixel. None: all classes send messages.

    Returns:
        Marginals C x H x W, float32; their argmax over the classes is the label map.

    Raises:
        InputError: an argument has the wrong shape, type or value, or pydensecrf is requested but not installed.
    """
    if isinstance(probabilities, np.ndarray):
        probabilities = torch.from_numpy(_contiguous(probabilities))
    device = probabilities.device if device is None else torch.device(device)
    backend = _choose_backend(backend)
    _check(image, probabilities, prune)
    image = _contiguous(image)
    infer = _infer_torch if backend == "torch" else _infer_pydensecrf
    on_gpu = backend == "torch" and device.type == "cuda"
    with torch.no_grad():
        probabilities = probabilities.to(device if on_gpu else "cpu", torch.float32)
        likely = _likely_classes(probabilities, prune)
        probabilities = probabilities.clamp(min=CLIP)
        if likely.all():
            return infer(image, probabilities, params, silent=0).to(device)

        # The unlikely classes are merged into one that sends no messages. Without it, the other classes would
        # receive their probability, and many more labels would change.
        unlikely = probabilities[~likely]
        rest = unlikely.sum(0, keepdim=True)
        found = infer(image, torch.cat([probabilities[likely], rest]), params, silent=1)
        marginals = torch.empty_like(probabilities)
        marginals[likely] = found[:-1]
        marginals[~likely] = unlikely / rest * found[-1]
        return marginals.to(device)


def _contiguous(array: np.ndarray) -> np.ndarray:
    """A contiguous, writable array, as torch and pydensecrf require."""
    return np.require(array, requirements=("C", "W"))


def _choose_backend(name: str) -> str:
    if name not in BACKENDS:
        raise InputError(f"CRF: backend must be one of {', '.join(BACKENDS)}, not {name!r}")
    if name == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise InputError(
            "CRF: pydensecrf is not installed: `pip install pydensecrf2`, or use the backend torch"
        )
    return "torch" if name == "auto" else name


def _check(image: np.ndarray, probabilities: torch.Tensor, prune: float | None) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{getattr(image, 'dtype', type(image).__name__)} {tuple(np.shape(image))}"
        raise InputError(f"CRF: the image must be a uint8 array H x W x 3, not {kind}")
    shape = tuple(probabilities.shape)
    if len(shape) != 3 or shape[1:] != image.shape[:2] or 0 in shape or not probabilities.is_floating_point():
        wanted = f"floating point C x {image.shape[0]} x {image.shape[1]}, the size of the image"
        raise InputError(f"CRF: the probabilities must be {wanted}, not {probabilities.dtype} {shape}")
    if prune is not None and not 0 <= prune <= 1:
        raise InputError(f"CRF: prune must be between 0 and 1, not {prune}")


def _likely_classes(probabilities: torch.Tensor, bound: float | None) -> torch.Tensor:
    """Mask of the classes that reach `bound` somewhere; all classes if fewer than two do not."""
    peaks = probabilities.flatten(1).amax(1)
    if not peaks.isfinite().all():
        raise InputError("CRF: the probabilities are not all finite")
    likely = peaks >= (0 if bound is None else peaks.max().clamp(max=bound))
    return likely if (~likely).sum() > 1 else torch.ones_like(likely)


def _infer_pydensecrf(
    image: np.ndarray, probabilities: torch.Tensor, params: CRFParams, silent: int
) -> torch.Tensor:
    """Marginals C x H x W from C x H x W, both on the CPU; the last `silent` classes send no messages."""
    from pydensecrf.densecrf import DenseCRF2D

    classes, height, width = probabilities.shape
    potts = -np.ones(classes, np.float32)  # energy of two pixels of the same class
    potts[classes - silent :] = 0
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(-probabilities.flatten(1).log().numpy()))
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=potts * np.float32(params.gaussian_weight))
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=image,
        compat=potts * np.float32(params.bilateral_weight),
    )
    return torch.from_numpy(np.array(crf.inference(params.iterations), np.float32)).view(probabilities.shape)


def _infer_torch(
    image: np.ndarray, probabilities: torch.Tensor, params: CRFParams, silent: int
) -> torch.Tensor:
    """The same in torch, on the device of `probabilities`."""
    classes, height, width = probabilities.shape
    smoothness = smoothness_kernel(height, width, params.gaussian_sxy, probabilities.device)
    appearance = _appearance_kernel(image, params, probabilities.device)
    kernels = [(params.gaussian_weight, smoothness), (params.bilateral_weight, appearance)]
    # The filter moves whole rows, each with all classes of a pixel.
    prior = probabilities.flatten(1).t().contiguous()
    marginals = mean_field(prior, kernels, params.iterations, senders=classes - silent)
    return marginals.t().reshape(classes, height, width)


@functools.lru_cache(maxsize=4)
def smoothness_kernel(height: int, width: int, sxy: float, device: torch.device) -> Kernel:
    """Kernel over the position. It only depends on the size of the image, so the last few are cached."""
    return make_kernel(_positions(height, width, sxy, device))


def _appearance_kernel(image: np.ndarray, params: CRFParams, device: torch.device) -> Kernel:
    """Kernel over the position and the colour of an H x W x 3 image."""
    colours = torch.from_numpy(image).to(device).flatten(0, 1).t()
    # Divided by a tensor, because CUDA multiplies by the reciprocal of a number, and the rounding error can move a
    # pixel on the border of two simplices to the other one.
    colours = colours / torch.tensor(float(params.bilateral_srgb), device=device)
    positions = _positions(image.shape[0], image.shape[1], params.bilateral_sxy, device)
    return make_kernel(torch.cat([positions, colours]))


def _positions(height: int, width: int, sxy: float, device: torch.device) -> torch.Tensor:
    """x and y of each pixel in units of `sxy`: 2 x pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()]).to(device) / torch.tensor(float(sxy), device=device)
