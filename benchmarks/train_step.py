"""Time, memory and numbers of a training iteration of stage 1, against straightforward research code.

    python benchmarks/train_step.py                                    on a GPU: ResNet-101, crop 321, batch 10
    python benchmarks/train_step.py --device cpu --batch-size 2        on a CPU

A mode is `baseline` (benchmarks/baseline.py), or `ours` with any of +channels-last, +onednn, +bf16, +compile. The
modes take turns; a turn is a process of its own, which does one iteration to compare its losses and gradients with
the first mode's, then the warm-up, then the timed iterations, optimisers' steps included. Medians over all turns.

Ratios are of wall-clock time on a GPU, on a CPU of the cores' time, which other programs hardly disturb.
Operations are counted by torch (convolutions and matrix products) in the first mode; their share is of the matrix
rate, measured here in the mode's number format (float32 on a GPU: TF32, as torch's convolutions have it). Peak
memory: tensors on a GPU; on a CPU the resident set, less what it was before the networks. ONF keeps all images unless
--iou-threshold says otherwise: the most work.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Times, alone, make_parser, matrix_rate, peak_bytes, set_up, table, timed
from benchmarks.trainer import CASES, EXTRAS, Setting, Trainer, make_batches, make_mix, moved
from networks.deeplab import ARCHS
from utils.core.cli import positive_int as positive
from utils.core.errors import InputError, run_script


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
    add("--turns", type=positive, default=2, help="processes of each mode, one after the other")
    add("--iterations", type=positive, default=5, help="timed iterations of a turn")
    add("--warm-up", type=int, default=3 if torch.cuda.is_available() else 0,
        help="untimed ones before them, beside that whose numbers are compared")  # fmt: skip
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


def dtype_of(mode: str) -> torch.dtype:
    return torch.bfloat16 if "bf16" in mode.split("+") else torch.float32


class Turn(NamedTuple):
    """What one process measures."""

    times: list[Times]  # of the iterations
    peak: int  # bytes
    operations: int
    losses: dict[str, float]  # of the iteration that is compared


def take_turn(mode: str, case: str, s: Setting, iterations: int, warm_up: int, gradients: Path) -> Turn:
    """A mode's iterations, to be run in a process of its own; leaves the first one's gradients in a file."""
    torch.set_num_threads(s.threads)
    device = torch.device(s.device)
    before = peak_bytes(device)
    batches, mix, trainer = make_batches(s), make_mix(s), Trainer(mode, s)
    if device.type == "cuda":
        batches = moved(batches, Tensor.pin_memory)
    # What is compiled escapes the counter, and does not go well with it.
    counter = None if trainer.compiled else FlopCounterMode(display=False)
    with counter or contextlib.nullcontext():
        losses = trainer.gradients(batches, case, mix)
    torch.save(gradients_of(trainer), gradients)
    for optimizer in trainer.optimizers:
        optimizer.step()
    step = partial(trainer.step, batches, case, mix)
    times = [timed(step, device) for _ in range(warm_up + iterations)][warm_up:]
    losses = {name: float(value) for name, value in losses.items() if name.startswith("loss")}
    return Turn(times, peak_bytes(device) - before, counter.get_total_flops() if counter else 0, losses)


def gradients_of(trainer: Trainer) -> list[Tensor]:
    parameters = [*trainer.G.parameters(), *trainer.D.parameters()]
    return [p.grad.cpu().contiguous() for p in parameters if p.grad is not None]


def loss_difference(losses: dict[str, float], first: dict[str, float]) -> float:
    """The greatest relative difference of a loss."""
    return max(abs(losses[name] - value) / max(abs(value), 1e-12) for name, value in first.items())


def gradient_difference(gradients: list[Tensor], first: list[Tensor]) -> float:
    """Of all gradients, the norm of the difference over the norm."""
    pairs = [(a.double(), b.double()) for a, b in zip(gradients, first)]
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    return (difference / max(sum(float(b.square().sum()) for _, b in pairs), 1e-300)) ** 0.5


def measure(
    case: str, args: argparse.Namespace, s: Setting, rates: dict[torch.dtype, float], folder: Path
) -> list[list]:
    """A row for each mode."""
    turns: dict[str, list[Turn]] = {mode: [] for mode in args.modes}
    for _ in range(args.turns):
        for mode in args.modes:
            options = mode, case, s, args.iterations, args.warm_up, folder / f"{mode}.pt"
            turns[mode].append(alone(take_turn, *options))
    gradients = {mode: torch.load(folder / f"{mode}.pt", weights_only=True) for mode in args.modes}
    first, device = args.modes[0], torch.device(s.device)
    base, rows = None, []
    for mode in args.modes:
        t = Times(*map(statistics.median, zip(*(times for turn in turns[mode] for times in turn.times))))
        base = base or (t.on(device), turns[mode][0].peak)
        operations = turns[first][0].operations / t.on(device)
        rows.append([
            mode, t.wall, t.cpu, base[0] / t.on(device), 4 * s.batch_size / t.on(device),
            f"{100 * operations / rates[dtype_of(mode)]:.0f}",
            turns[mode][0].peak / 2**30, f"{100 * turns[mode][0].peak / max(1, base[1]):.0f}",
            f"{loss_difference(turns[mode][0].losses, turns[first][0].losses):.1e}",
            f"{gradient_difference(gradients[mode], gradients[first]):.1e}",
        ])  # fmt: skip
    print(f"\n{case}, {turns[first][0].operations / 1e12:.3g} TFLOP\n{table(HEAD, rows)}", flush=True)
    return rows


HEAD = [
    "mode",
    "wall s",
    "CPU s",
    "speed-up",
    "images/s",
    "% of rate",
    "peak GiB",
    "% of it",
    "losses",
    "gradients",
]


def main(argv: list[str] | None = None) -> dict[str, list[list]]:
    args = parse_args(argv)
    device = set_up(args)
    s = Setting(args.arch, args.crop, args.batch_size, args.num_classes, args.iou_threshold, args.device,
                args.threads)  # fmt: skip
    print(
        f"{s.arch}, crop {s.crop}, batch {s.batch_size} x 4, {s.num_classes} classes; differences: relative"
    )
    rates = {dtype: matrix_rate(dtype, device) for dtype in dict.fromkeys(map(dtype_of, args.modes))}
    for dtype, rate in rates.items():
        print(f"matrix rate, {dtype}: {rate / 1e12:.3g} TFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        return {case: measure(case, args, s, rates, Path(folder)) for case in args.cases}


if __name__ == "__main__":
    run_script(main)
