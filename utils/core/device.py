"""What makes a training faster, or exactly repeatable: mixed precision, compiling, memory that is kept."""

import argparse
import ctypes
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from utils.core import distributed
from utils.core.errors import InputError

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's malloc (malloc.h)


def add_speed_options(group: argparse._ArgumentGroup, batch_statistics: bool = True) -> None:
    """Beside --channels-last; all off unless given; --sync-bn where batch normalisation uses `batch_statistics`."""
    add = group.add_argument
    add("--amp", choices=AMP, help="networks in mixed precision (fp16 scales the losses); losses in float32")
    add("--compile", action="store_true", help="compile the networks with torch.compile")
    add("--deterministic", action="store_true", help="the same numbers in every run, on a GPU, too; slower")
    if batch_statistics:
        add("--sync-bn", action="store_true",
            help="with torchrun: batch statistics of the whole batch, not of each GPU's part")  # fmt: skip


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; without waiting for the copy where that is safe (not on MPS)."""
    return tensor.to(device, non_blocking=device.type == "cuda")


class Precision:
    """Forwards and backwards in float32, or in mixed precision."""

    def __init__(self, name: str | None = None, device: torch.device | str = "cpu") -> None:
        """Args: name: None, bf16 or fp16."""
        self.dtype = AMP[name] if name else None
        kind = torch.device(device).type
        # Gradients of fp16 vanish below 6e-8: losses are scaled up before the backward, gradients down after it.
        self.scaler = torch.amp.GradScaler(kind, enabled=name == "fp16")

    def forward(self, network: nn.Module, x: Tensor) -> Tensor | list[Tensor]:
        """What the network makes of x, in float32."""
        if self.dtype is None:
            return network(x)
        with torch.autocast(x.device.type, dtype=self.dtype):
            out = network(x)
        return out.float() if isinstance(out, Tensor) else [part.float() for part in out]

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the parameters'."""
        self.scaler.scale(loss).backward()

    def step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Step the optimisers; with fp16 not those with a gradient beyond its range, which lowers the scale."""
        for optimizer in optimizers:
            if self.scaler.is_enabled():
                self.scaler.unscale_(optimizer)  # here, or RepeatedSGD's steps would each do it
            self.scaler.step(optimizer)
        self.scaler.update()


def set_up_device(args: argparse.Namespace, device: torch.device) -> None:
    """Repeatable kernels where --deterministic asks for them; on a CPU, memory that is kept.

    Raises:
        InputError: an option does not go with the device.
    """
    if args.sync_bn and device.type != "cuda":
        raise InputError("--sync-bn needs CUDA GPUs: torch synchronises batch normalisation there alone")
    if args.amp and device.type == "mps":
        raise InputError("--amp works on CPUs and CUDA GPUs, not on MPS")
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    if device.type == "cpu":
        keep_heap()


def keep_heap() -> None:
    """Let the process keep its heap between iterations, where malloc is glibc's; elsewhere nothing happens.

    Otherwise the end of the heap goes back to the kernel whenever tensors are freed there, and the next iteration
    waits for its pages to be cleared again. The largest tensors, above 32 MiB, go back as before: in the heap they
    could leave gaps that never fit again.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS and musl have none, Windows no such library
        return
    # Setting one stops malloc from raising both by itself: 32 MiB, its limit, is what the first would come to.
    mallopt(M_MMAP_THRESHOLD, 32 << 20)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def wrap(network: nn.Module, args: argparse.Namespace) -> nn.Module:
    """A network on its device, made ready for training: synchronised, parallel and compiled as asked for."""
    if args.sync_bn and distributed.world_size() > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = distributed.wrap_ddp(network)
    return torch.compile(network) if args.compile else network


def prepare(network: nn.Module, args: argparse.Namespace, device: torch.device) -> nn.Module:
    """A network on the device, in the memory order that --channels-last asks for."""
    order = torch.channels_last if args.channels_last else torch.contiguous_format
    return network.to(device, memory_format=order)


def pick_device(args: argparse.Namespace) -> torch.device:
    """The device that --device or --gpu asks for, else the best there is.

    Raises:
        InputError: it is not there.
    """
    if args.gpu is not None and args.device is not None:
        raise InputError("--gpu and --device exclude one another: give one of them")
    mps = torch.backends.mps.is_available()
    best = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    name = distributed.local_device(f"cuda:{args.gpu}" if args.gpu is not None else args.device or best)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name} is none that torch knows: use cpu, cuda, cuda:N or mps") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device {name} is not supported: use cpu, cuda, cuda:N or mps")
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}[device.type]
    if (device.index or 0) >= present:
        raise InputError(f"device {name} is not there (torch sees {present}): try --device cpu")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # or the loaders' pinned memory would open a context on the first GPU
    return device
