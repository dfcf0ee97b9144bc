"""Time, memory and numbers of a training iteration of stage 1, against straightforward research code.

    python benchmarks/train_step.py                                    on a GPU: ResNet-101, crop 321, batch 10
    python benchmarks/train_step.py --device cpu --batch-size 2        on a CPU

A mode is `baseline` (benchmarks/baseline.py), or `ours` with any of +channels-last, +onednn, +bf16, +compile. The
modes take turns, iteration by iteration, optimisers' steps included; medians. Before that each does one iteration
from the same weights and inputs, whose losses and gradients are compared with the first mode's.

Ratios are of wall-clock time on a GPU, on a CPU of the cores' time, which other programs hardly disturb.
Operations are counted by torch (convolutions and matrix products); their share is of the matrix rate, measured here
in the mode's number format (float32 on a GPU: TF32, as torch's convolutions have it). Peak memory is that of a
process of the mode's own: tensors on a GPU; on a CPU the resident set, less what it was before the networks. ONF
keeps all images unless --iou-threshold says otherwise: the most work.
"""

import argparse
import contextlib
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    Times,
    alone,
    make_parser,
    matrix_rate,
    peak_bytes,
    positive,
    set_up,
    table,
    take_turns,
)
from benchmarks.trainer import CASES, EXTRAS, Setting, Trainer, make_batches, make_mix, moved
from networks.deeplab import ARCHS
from utils.files import InputError, run_script


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--modes", nargs="+", metavar="MODE", type=mode, help="what is compared, the first with the others",
        default=["baseline", "ours", "ours+channels-last", "ours+channels-last+bf16"])  # fmt: skip
    add("--cases", nargs="+", choices=CASES, default=list(CASES), help="kinds of iteration")
    add("--arch", choices=ARCHS, default="resnet101", help="segmentation network")
    add("--crop", type=positive, default=321, help="side of the images, pixels")
    add("--batch-size", type=positive, default=10, help="images of each of the four batches")
    add("--num-classes", type=positive, default=21, help="labels, background included")
    add("--iou-threshold", type=float, default=0.0, help="T_class of ONF, of all classes")
    add("--iterations", type=positive, default=5, help="timed iterations of each mode")
    add("--warm-up", type=int, default=3 if torch.cuda.is_available() else 0, help="untimed ones before them")
    add("--no-memory", action="store_true", help="leave the processes out that measure memory")
    args = parser.parse_args(argv)
    if args.crop < 32 or args.num_classes < 2:
        raise InputError("--crop must be 32 or more, --num-classes 2 or more")
    return args


def mode(value: str) -> str:
    """`baseline`, or `ours` and extras."""
    first, *extras = value.split("+")
    if (
        first not in ("baseline", "ours")
        or not set(extras) <= set(EXTRAS)
        or (first == "baseline" and extras)
    ):
        raise argparse.ArgumentTypeError(f"{value}: give baseline, or ours with any of +{', +'.join(EXTRAS)}")
    return value


def compare(trainer: Trainer, losses: dict, first: Trainer, first_losses: dict) -> tuple[float, float]:
    """Greatest relative difference of a loss; of all gradients, the norm of the difference over the norm."""
    loss = max(abs(float(losses[k]) - v) / max(abs(v), 1e-12) for k, v in first_losses.items())
    difference = total = 0.0
    for a, b in zip(gradients_of(trainer), gradients_of(first)):
        difference += float((a - b).square().sum())
        total += float(b.square().sum())
    return loss, (difference / max(total, 1e-300)) ** 0.5


def gradients_of(trainer: Trainer) -> list[Tensor]:
    parameters = [*trainer.G.parameters(), *trainer.D.parameters()]
    return [p.grad.detach().double().contiguous() for p in parameters if p.grad is not None]


def peak_of(mode: str, s: Setting, cases: list[str]) -> int:
    """Bytes that the mode needs at most; to be run in a process of its own."""
    torch.set_num_threads(s.threads)
    device = torch.device(s.device)
    before = peak_bytes(device)
    batches, mix, trainer = make_batches(s), make_mix(s), Trainer(mode, s)
    for case in cases:
        trainer.step(batches, case, mix)
    return peak_bytes(device) - before


def measure(
    case: str,
    trainers: dict[str, Trainer],
    rates: dict[torch.dtype, float],
    args: argparse.Namespace,
    s: Setting,
) -> list[list]:
    """A row for each mode."""
    batches, mix = make_batches(s), make_mix(s)
    device = torch.device(s.device)
    if device.type == "cuda":
        batches = moved(batches, Tensor.pin_memory)
    first_name, first = next(iter(trainers.items()))
    reference, operations, agreement = {}, {}, {}
    for name, trainer in trainers.items():
        trainer.restart()
        counter = FlopCounterMode(display=False)
        with contextlib.nullcontext() if trainer.compiled else counter:
            losses = trainer.gradients(batches, case, mix)
        # What is compiled escapes the counter; it does the same operations.
        operations[name] = next(iter(operations.values())) if trainer.compiled else counter.get_total_flops()
        values = {k: float(v) for k, v in losses.items() if k.startswith("loss")}
        reference = reference or values
        agreement[name] = compare(trainer, values, first, reference)
        for optimizer in trainer.optimizers:
            optimizer.step()
    steps = {name: partial(trainer.step, batches, case, mix) for name, trainer in trainers.items()}
    if args.warm_up:
        take_turns(steps, args.warm_up, device)
    times = take_turns(steps, args.iterations, device)
    base = times[first_name]
    return [
        row(name, times[name], base, operations[name], rates[trainers[name].dtype], agreement[name], s)
        for name in trainers
    ]


def row(
    name: str, t: Times, base: Times, operations: int, rate: float, agreement: tuple[float, float], s: Setting
) -> list:
    device = torch.device(s.device)
    seconds = t.on(device)
    return [
        name, t.wall, t.cpu, base.on(device) / seconds, 4 * s.batch_size / seconds, operations / 1e12,
        f"{100 * operations / seconds / rate:.0f}", f"{agreement[0]:.1e}", f"{agreement[1]:.1e}",
    ]  # fmt: skip


HEAD = ["mode", "wall s", "CPU s", "speed-up", "images/s", "TFLOP", "% of rate", "losses", "gradients"]


def main(argv: list[str] | None = None) -> dict[str, list[list]]:
    args = parse_args(argv)
    device = set_up(args)
    s = Setting(args.arch, args.crop, args.batch_size, args.num_classes, args.iou_threshold, args.device,
                args.threads)  # fmt: skip
    print(
        f"{s.arch}, crop {s.crop}, batch {s.batch_size} x 4, {s.num_classes} classes; differences: relative"
    )
    trainers = {name: Trainer(name, s) for name in args.modes}
    rates = {dtype: matrix_rate(dtype, device) for dtype in {t.dtype: None for t in trainers.values()}}
    for dtype, rate in rates.items():
        print(f"matrix rate, {dtype}: {rate / 1e12:.3g} TFLOP/s")
    results = {}
    for case in args.cases:
        results[case] = measure(case, trainers, rates, args, s)
        print(f"\n{case}\n{table(HEAD, results[case])}", flush=True)
    del trainers
    if not args.no_memory:
        peaks = {name: alone(peak_of, name, s, args.cases) for name in args.modes}
        base = peaks[args.modes[0]]
        rows = [[name, peak / 2**30, 100 * peak / base] for name, peak in peaks.items()]
        print(f"\nall of these\n{table(['mode', 'peak GiB', '% of the first'], rows)}")
    return results


if __name__ == "__main__":
    run_script(main)
