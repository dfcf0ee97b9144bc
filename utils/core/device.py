"""Devices, mixed precision, compilation and reproducibility."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from utils.core import distributed
from utils.core.errors import InputError

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
Network = TypeVar("Network", bound=nn.Module)


def pick_device(device: str | None = None, gpu: int | None = None) -> torch.device:
    """The device of --device or --gpu (default: a GPU if there is one); with torchrun, the GPU of this process."""
    present = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    best = next(kind for kind, number in present.items() if number)
    name = f"cuda:{gpu}" if gpu is not None else device or best
    if distributed.launched() and name != "cpu":
        if name != "cuda":
            raise InputError(f"{name} does not work with torchrun, which assigns the GPUs: use --device cuda")
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        picked = torch.device(name)
        number = present[picked.type]
    except (RuntimeError, KeyError):
        raise InputError(f"--device {name} is not supported: use cpu, cuda, cuda:N or mps") from None
    if (picked.index or 0) >= number:
        raise InputError(f"device {name} not found (torch sees {number}): try --device cpu")
    if picked.type == "cuda" and picked.index is not None:
        torch.cuda.set_device(picked)  # otherwise pinned memory would create a context on the first GPU
    return picked


def set_up_device(
    device: torch.device, amp: str | None = None, deterministic: bool = False, sync_bn: bool = False
) -> None:
    """Check that the options suit the device, and make the settings of a training that are global to the process."""
    if sync_bn and device.type != "cuda":
        raise InputError("--sync-bn needs CUDA GPUs: torch synchronizes batch normalization on these only")
    if amp and device.type == "mps":
        raise InputError("--amp works on CPUs and CUDA GPUs, not on MPS")
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


@contextlib.contextmanager
def any_size() -> Iterator[None]:
    """Context or decorator of work on images of many sizes, where cuDNN must not try all algorithms for each."""
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; asynchronous where that is safe (CUDA)."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def prepare(network: Network, device: torch.device, channels_last: bool | None = None) -> Network:
    """The network on the device, in NHWC or NCHW memory format; None: NHWC on a CPU, where it is faster."""
    nhwc = device.type == "cpu" if channels_last is None else channels_last
    memory_format = torch.channels_last if nhwc else torch.contiguous_format
    return network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]


class Precision:
    """Forward and backward passes in full precision (None) or mixed precision (bf16, fp16)."""

    def __init__(self, name: str | None = None, device: torch.device | str = "cpu") -> None:
        self.dtype, self.device_type = AMP[name] if name else None, torch.device(device).type
        # Gradients below 6e-8 vanish in fp16: losses are scaled up before the backward pass, gradients down after it.
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=name == "fp16")

    def forward(self, network: nn.Module, x: Tensor) -> Any:
        """The output or outputs of the network; in float32 if the precision is mixed."""
        if self.dtype is None:
            return network(x)
        with torch.autocast(x.device.type, dtype=self.dtype):
            return tree_map(Tensor.float, network(x))

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss to those of the parameters."""
        self.scaler.scale(loss).backward()

    def step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Step the optimizers that have gradients (that of D has none before C2S starts).

        With fp16, skip one with a non-finite gradient and lower the scale.
        """
        for optimizer in optimizers:
            if all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
                continue  # GradScaler.step raises without gradients
            if self.scaler.is_enabled():
                self.scaler.unscale_(optimizer)  # here, since RepeatedSGD steps several times
            self.scaler.step(optimizer)
        self.scaler.update()
