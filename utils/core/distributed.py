"""Training in several processes started by torchrun, one per GPU. In a single process, nothing here has an effect.

Each process computes on its part of the batch. Losses and decisions are those of the whole batch.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.core.errors import InputError


def launched() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group of torchrun, and leave it after the block."""
    if not launched():
        yield
        return
    # CPU tensors (flags, counts) go through gloo, so that exchanging them does not synchronize with the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield
    dist.destroy_process_group()  # not after an error: other processes may be in the middle of an iteration


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, starting at 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    any_process(False)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(all_reduce_sum(torch.tensor(int(flag))))


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient."""
    if world_size() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def batch_mean(total: Tensor, count: Tensor) -> Tensor:
    """The contribution of this process to the mean over the whole batch: `total` of `count` summands are its part.

    The mean of the result over the processes is that over the whole batch (0 if it has no summands), and so are its
    gradients after `average_gradients`.
    """
    return world_size() * total / all_reduce_sum(count).clamp(min=1)


def local_batch_size(batch_size: int) -> int:
    """The size of the part of the whole batch that this process computes."""
    if batch_size % world_size():
        raise InputError(
            f"a batch of {batch_size} does not divide among {world_size()} processes: use a multiple of their number"
        )
    return batch_size // world_size()


def average_gradients(networks: Iterable[nn.Module]) -> None:
    """Replace the gradients of all processes by their mean, after the last backward pass of a step."""
    if world_size() == 1:
        return
    for network in networks:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        if gradients:  # D has none before C2S starts
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            flat /= world_size()
            for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
                gradient.copy_(mean.view_as(gradient))


def broadcast_buffers(network: nn.Module) -> None:
    """Copy the running statistics of the main process, which are the ones saved, to all processes."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
