"""One training in several processes, one a GPU, started by torchrun; without it nothing here changes anything.

Each process computes on its part of the batch; losses and decisions are those of the whole batch.
"""

import contextlib
import inspect
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from utils.core.errors import InputError


def launched() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, and leave them once the work is done."""
    if not launched():
        yield
        return
    # Flags and counts travel by gloo, so that nobody waits for a GPU to learn of them.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield
    dist.destroy_process_group()  # not after an error, when the others may wait in the middle of an iteration


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0 on."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def barrier() -> None:
    """Go on once all processes are here."""
    if world_size() > 1:
        any_process(False)


def any_process(flag: bool) -> bool:
    """Whether the flag is up in any of the processes."""
    return bool(all_reduce_sum(torch.tensor(int(flag)))) if world_size() > 1 else flag


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient."""
    if world_size() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def batch_mean(summed: Tensor, count: Tensor) -> Tensor:
    """The mean of something over the whole batch, as this process's share of it; 0 where nothing counts.

    Args:
        summed: its sum over this process's part, with gradient.
        count: how many it sums.

    Returns:
        A scalar whose mean over the processes, which is what DistributedDataParallel makes of the gradients and
        the log of the figures, is the mean over the whole batch. A process that sums nothing has weight zero.
    """
    return world_size() * summed / all_reduce_sum(count).clamp(min=1)


def part_of_batch(batch_size: int) -> int:
    """This process's share of the whole batch.

    Raises:
        InputError: it does not divide.
    """
    if batch_size % world_size():
        raise InputError(
            f"a batch of {batch_size} does not divide among {world_size()} processes: the batch size is that of the"
            " whole batch, give a multiple"
        )
    return batch_size // world_size()


def wrap_ddp(network: nn.Module) -> nn.Module:
    """A network whose gradients are averaged over the processes."""
    if world_size() == 1:
        return network
    # Buffers are not sent about: in training nothing depends on them, and `share_buffers` comes before whatever does.
    known = inspect.signature(DistributedDataParallel).parameters
    # Before torch 2.13 the option had the second name.
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(network, **{option: False})


def broadcast_buffers(network: nn.Module) -> None:
    """Give all processes the first one's running statistics; they are what is saved, and what inference uses."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, without what `parallel` and torch.compile put around it."""
    network = getattr(network, "_orig_mod", network)
    return network.module if isinstance(network, DistributedDataParallel) else network


def no_sync(network: nn.Module, later: bool = True) -> contextlib.AbstractContextManager:
    """Around a forward and its backward: gradients stay here until a later backward sums up all of them."""
    return network.no_sync() if later and hasattr(network, "no_sync") else contextlib.nullcontext()


def bar(iterations: range, total: int) -> tqdm:
    """The bar of a training's last iterations of `total`; only the first process shows one."""
    initial = total - len(iterations)
    return tqdm(iterations, initial=initial, total=total, unit="it", disable=not is_main())


def local_device(name: str) -> str:
    """The device of this process: torchrun numbers the GPUs."""
    if not launched():
        return name
    if name == "mps":
        raise InputError("--device mps does not work with torchrun: several processes need CPUs or CUDA GPUs")
    if name.startswith("cuda:"):
        raise InputError(
            "torchrun gives each process a GPU of its own: leave out --gpu, or give --device cuda"
        )
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" else name
