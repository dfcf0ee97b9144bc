"""Mean-field inference in the fully connected CRF with Potts compatibility (Kraehenbuehl and Koltun, algorithm 1)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from utils.crf.permutohedral import Kernel

CERTAIN = 9.0  # log-odds; the other classes together have a probability of at most 0.012 %

WeightedKernels = Sequence[tuple[float, Kernel]]


def mean_field(prior: torch.Tensor, kernels: WeightedKernels, iterations: int, senders: int) -> torch.Tensor:
    """Marginals after iterating Q = softmax(log(prior) + sum of weight * kernel Q), which starts from the prior.

    The first two iterations update all pixels. The others update those that are still undecided, on the part of the
    lattice between them; or all, if most are undecided. Messages are linear, so that only the change since the second
    iteration needs filtering.

    Args:
        prior: pixels x classes, above 0.
        kernels: weight and kernel of each term of the pairwise energy.
        iterations: number of updates.
        senders: only this many classes, the first ones, send and receive messages.
    """
    marginals = prior / prior.sum(1, keepdim=True)
    for _ in range(min(iterations, 2)):
        sent = marginals[:, :senders].contiguous()
        messages = _messages(kernels, sent)
        marginals = _update_(prior, messages.clone())
    if iterations <= 2:
        return marginals

    pixels = _undecided(kernels, marginals)
    if len(pixels) == 0:
        return marginals
    rows: torch.Tensor | slice = pixels
    if len(pixels) > len(prior) // 2:
        rows = slice(None)  # restricting the kernels would take longer than it saves
    else:
        kernels = [(weight, kernel.restrict(pixels)) for weight, kernel in kernels]
    prior, sent, messages, current = prior[rows], sent[rows], messages[rows], marginals[rows]
    for _ in range(iterations - 2):
        change = _messages(kernels, current[:, :senders] - sent)
        current = _update_(prior, change.add_(messages))
    marginals[rows] = current
    return marginals


def _messages(kernels: WeightedKernels, values: torch.Tensor) -> torch.Tensor:
    """Sum of weight * kernel `values` over the kernels; `values` are pixels x classes."""
    (weight, kernel), *others = kernels
    messages = kernel(values).mul_(weight)
    for weight, kernel in others:
        messages.add_(kernel(values), alpha=weight)
    return messages


def _update_(prior: torch.Tensor, messages: torch.Tensor) -> torch.Tensor:
    """softmax(log(prior) + messages) of each row, in place; the last columns of `prior` may lack messages."""
    if messages.shape != prior.shape:
        messages = F.pad(messages, (0, prior.shape[1] - messages.shape[1]))
    # Written out, because torch.softmax is up to five times slower with few columns.
    messages.sub_(messages.amax(1, keepdim=True)).exp_().mul_(prior)
    return messages.div_(messages.sum(1, keepdim=True))


def _undecided(kernels: WeightedKernels, marginals: torch.Tensor) -> torch.Tensor:
    """Indices of the pixels whose marginals may still change.

    A pixel is certain if the log-odds of its best class against all others are at least `CERTAIN`. It is decided if
    it would stay certain even if all uncertain pixels moved their whole probability to another class: this changes
    the difference of two messages by at most twice the sum of weight * kernel over the uncertain pixels.
    """
    best, index = marginals.max(1, keepdim=True)
    log_odds = (best / marginals.scatter(1, index, 0).sum(1, keepdim=True)).log()
    reach = _messages(kernels, (log_odds < CERTAIN).float())
    return (log_odds < CERTAIN + 2 * reach)[:, 0].nonzero()[:, 0]
