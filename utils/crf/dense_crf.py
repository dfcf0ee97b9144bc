"""The fully connected CRF that refines label maps, with two equivalent backends.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.

`torch` builds the filters of the message passing once per image and applies them to all classes at once. `pydensecrf`
uses the C++ package of that name; it is slower and kept for comparison.
"""

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.core.errors import InputError
from utils.crf.permutohedral import Kernel, make_kernel

BACKENDS = ("auto", "pydensecrf", "torch")
CLIP = 1e-5  # lower bound of the probabilities in the unary potential
PRUNE = 0.05  # changes less than 0.01 % of the labels, see docs/crf.md
CERTAIN = 9.0  # log-odds; the other classes together have a probability of at most 0.012 %

WeightedKernels = Sequence[tuple[float, Kernel]]


@dataclass(frozen=True)
class CRFParams:
    """Parameters, by default the published ones; `sxy` in pixels, `srgb` in grey levels of 0..255."""

    iterations: int = 10
    gaussian_weight: float = 3
    gaussian_sxy: float = 1
    bilateral_weight: float = 4
    bilateral_sxy: float = 67
    bilateral_srgb: float = 3

    def __post_init__(self) -> None:
        if not min(self.gaussian_sxy, self.bilateral_sxy, self.bilateral_srgb) > 0 or self.iterations < 0:
            raise InputError(f"CRF: sxy and srgb must be above 0, and iterations at least 0: {self}")


@torch.no_grad()
def dense_crf(
    image: np.ndarray,
    probabilities: Tensor,
    params: CRFParams = CRFParams(),
    backend: str = "auto",
    prune: float | None = PRUNE,
) -> Tensor:
    """Mean-field inference.

    Args:
        image: H x W x 3 uint8, BGR as read by OpenCV for the published results.
        probabilities: C x H x W, as from a softmax.
        params: parameters of the CRF.
        backend: torch, pydensecrf, or auto: torch.
        prune: classes whose probability is below this bound in the whole image send no messages, which saves a
            quarter to a third of the time on photographs; they keep their share of each pixel. None: all send.

    Returns:
        Marginals C x H x W, float32, on the device of `probabilities`; their argmax is the label map. The torch
        backend computes on that device if it is a CUDA device, otherwise on the CPU.
    """
    if backend == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise InputError("CRF: pydensecrf is not installed: `pip install pydensecrf2`, or use the backend torch")
    infer = _infer_pydensecrf if backend == "pydensecrf" else _infer_torch
    on_gpu = backend != "pydensecrf" and probabilities.is_cuda
    prior = probabilities.to(probabilities.device if on_gpu else "cpu", torch.float32).clamp(min=CLIP)

    # The unlikely classes are merged into one that sends no messages. Without it, the other classes would receive
    # their probability, and many more labels would change.
    likely = _likely_classes(probabilities, prune).to(prior.device)
    unlikely = prior[~likely]
    rest = unlikely.sum(0, keepdim=True)[: len(unlikely)]  # nothing if all are likely
    senders = prior[likely]
    marginals = torch.empty_like(prior)
    result = infer(np.require(image, requirements=("C", "W")), torch.cat([senders, rest]), params, len(senders))
    marginals[likely] = result[: len(senders)]
    marginals[~likely] = unlikely / rest * result[len(senders) :]
    return marginals.to(probabilities.device)


def _likely_classes(probabilities: Tensor, bound: float | None) -> Tensor:
    """Mask of the classes that reach `bound` somewhere, on the CPU; all classes if fewer than two do not."""
    peaks = probabilities.flatten(1).amax(1).cpu()
    if not peaks.isfinite().all():
        raise InputError("CRF: the probabilities are not all finite")
    likely = peaks >= (0 if bound is None else peaks.max().clamp(max=bound))
    return likely if (~likely).sum() > 1 else torch.ones_like(likely)


def _infer_pydensecrf(image: np.ndarray, probabilities: Tensor, params: CRFParams, senders: int) -> Tensor:
    """Marginals C x H x W from C x H x W, both on the CPU; only the first `senders` classes send messages."""
    from pydensecrf.densecrf import DenseCRF2D

    classes, height, width = probabilities.shape
    potts = -np.ones(classes, np.float32)  # energy of two pixels of the same class
    potts[senders:] = 0
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


def _infer_torch(image: np.ndarray, probabilities: Tensor, params: CRFParams, senders: int) -> Tensor:
    """The same in torch: Q = softmax(log(prior) + sum of weight * kernel Q), iterated from Q = prior.

    The first two iterations update all pixels. The others update those that are still undecided, on the part of the
    lattice between them; or all, if most are undecided. Messages are linear, so that only the change since the second
    iteration needs filtering.
    """
    # The filter moves whole rows, each with all classes of a pixel.
    prior = probabilities.flatten(1).t().contiguous()
    q = prior / prior.sum(1, keepdim=True)
    kernels = _make_kernels(image, params, prior.device) if params.iterations else []
    for _ in range(min(params.iterations, 2)):
        sent = q[:, :senders].contiguous()
        messages = _messages(kernels, sent)
        q = _update_(prior, messages.clone())
    if params.iterations > 2 and len(pixels := _undecided(kernels, q)):
        rows: Tensor | slice = slice(None)
        if len(pixels) <= len(prior) // 2:  # otherwise restricting the kernels would take longer than it saves
            rows, kernels = pixels, [(weight, kernel.restrict(pixels)) for weight, kernel in kernels]
        prior, sent, messages, current = prior[rows], sent[rows], messages[rows], q[rows]
        for _ in range(params.iterations - 2):
            change = _messages(kernels, current[:, :senders] - sent)
            current = _update_(prior, change.add_(messages))
        q[rows] = current
    return q.t().reshape(probabilities.shape)


def _make_kernels(image: np.ndarray, params: CRFParams, device: torch.device) -> WeightedKernels:
    """The kernels over the position, and over position and colour, with their weights."""
    height, width = image.shape[:2]
    # Divided by a tensor, because CUDA multiplies by the reciprocal of a number, and the rounding error can move a
    # pixel on the border of two simplices to the other one.
    deviation = torch.full((), params.bilateral_srgb, dtype=torch.float32, device=device)
    colours = torch.from_numpy(image).to(device).flatten(0, 1).t() / deviation
    appearance = make_kernel(torch.cat([_positions(height, width, params.bilateral_sxy, device), colours]))
    smoothness = smoothness_kernel(height, width, params.gaussian_sxy, device)
    return [(params.gaussian_weight, smoothness), (params.bilateral_weight, appearance)]


@functools.lru_cache(maxsize=4)
def smoothness_kernel(height: int, width: int, sxy: float, device: torch.device) -> Kernel:
    """Kernel over the position. It only depends on the size of the image, so the last few are cached."""
    return make_kernel(_positions(height, width, sxy, device))


def _positions(height: int, width: int, sxy: float, device: torch.device) -> Tensor:
    """x and y of each pixel in units of `sxy`: 2 x pixels."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    deviation = torch.full((), sxy, dtype=torch.float32, device=device)
    return torch.stack([x.flatten(), y.flatten()]) / deviation


def _messages(kernels: WeightedKernels, values: Tensor) -> Tensor:
    """Sum of weight * kernel `values` over both kernels; `values` are pixels x classes."""
    (weight, kernel), (other_weight, other) = kernels
    return kernel(values).mul_(weight).add_(other(values), alpha=other_weight)


def _update_(prior: Tensor, messages: Tensor) -> Tensor:
    """softmax(log(prior) + messages) of each row, in place; the last columns of `prior` may lack messages."""
    if messages.shape != prior.shape:
        messages = F.pad(messages, (0, prior.shape[1] - messages.shape[1]))
    # Written out, because torch.softmax is up to five times slower with few columns.
    messages.sub_(messages.amax(1, keepdim=True)).exp_().mul_(prior)
    return messages.div_(messages.sum(1, keepdim=True))


def _undecided(kernels: WeightedKernels, q: Tensor) -> Tensor:
    """Indices of the pixels whose marginals may still change.

    A pixel is certain if the log-odds of its best class against all others are at least `CERTAIN`. It is decided if
    it would stay certain even if all uncertain pixels moved their whole probability to another class: this changes
    the difference of two messages by at most twice the sum of weight * kernel over the uncertain pixels.
    """
    best, index = q.max(1, keepdim=True)
    log_odds = (best / q.scatter(1, index, 0).sum(1, keepdim=True)).log()
    reach = _messages(kernels, (log_odds < CERTAIN).float())
    return (log_odds < CERTAIN + 2 * reach)[:, 0].nonzero()[:, 0]
