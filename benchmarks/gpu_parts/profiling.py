"""What one iteration launches, by torch's profiler, and its most expensive kernels."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import alone, synchronize
from benchmarks.gpu_parts.preset import BF16, MOST_FREQUENT_FIRST, Context
from benchmarks.trainer import Setting, Trainer, make_batches, make_mix, moved

LAUNCH = re.compile(r"(cuda|cu)(Graph)?Launch(Kernel|CooperativeKernel|\b)")
WAIT = re.compile(r"cuda(Stream|Event)Synchronize")  # of which each .item() and .cpu() does one
MOST = 20


class Kernel(NamedTuple):
    """All calls of a kernel in an iteration; on a CPU, of an operation of torch."""

    name: str
    calls: int
    seconds: float


class Profile(NamedTuple):
    """One iteration."""

    kernels: list[Kernel]  # the most expensive one first; includes copies
    launches: int  # on a CPU: operations of torch
    waits: int  # how often the host waited for the device


def profile_call(function: Callable[[], object], device: torch.device) -> Profile:
    """Profiles one call."""
    gpu = device.type == "cuda"
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiler:
        function()
        synchronize(device)
    return summarize(list(profiler.key_averages()), gpu)


def summarize(events: list[Any], gpu: bool) -> Profile:
    """The profile from the profiler's averages by name."""
    if not gpu:
        operations = [event for event in events if event.key.startswith("aten::")]
        kernels = [Kernel(e.key, e.count, e.self_cpu_time_total / 1e6) for e in operations]
        return Profile(by_time(kernels), sum(e.count for e in operations), 0)
    on_device = [e for e in events if e.device_type == DeviceType.CUDA and not is_annotation(e)]
    kernels = [Kernel(e.key, e.count, e.self_device_time_total / 1e6) for e in on_device]
    launches, waits = (sum(e.count for e in events if what.match(e.key)) for what in (LAUNCH, WAIT))
    # Without records of the runtime's calls, count the kernels.
    launched = sum(k.calls for k in kernels if not k.name.startswith(("Memcpy", "Memset")))
    return Profile(by_time(kernels), launches or launched, waits)


def is_annotation(event: Any) -> bool:
    """Whether the event is a range on the device's time line, such as an optimizer's step."""
    return getattr(event, "is_user_annotation", False) or event.key.startswith(("Optimizer.", "ProfilerStep"))


def by_time(kernels: list[Kernel]) -> list[Kernel]:
    return sorted(kernels, key=lambda kernel: kernel.seconds, reverse=True)


def profile_mode(mode: str, case: str, s: Setting, warm_up: int) -> Profile:
    """Profiles an iteration of a mode, which must run in a new process."""
    device = torch.device(s.device)
    batches, mix, trainer = make_batches(s), make_mix(s), Trainer(mode, s)
    if device.type == "cuda":
        batches = moved(batches, torch.Tensor.pin_memory)
    step = partial(trainer.step, batches, case, mix)
    for _ in range(warm_up):
        step()
    return profile_call(step, device)


def kernels(context: Context) -> None:
    """The most expensive kernels of an iteration with denoising and CutMix, in bf16 and of the baseline."""
    for mode in (BF16, "baseline"):
        case = MOST_FREQUENT_FIRST[0]
        found = alone(profile_mode, mode, case, context.setting, context.preset.warm_up + 1)
        total = sum(kernel.seconds for kernel in found.kernels)
        rows = [kernel._asdict() | {"share": kernel.seconds / total} for kernel in found.kernels[:MOST]]
        row = {"mode": mode, "case": case, "seconds": total, "kinds": len(found.kernels), "kernels": rows}
        context.record.append("profiles", row)
