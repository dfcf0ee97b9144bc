"""Time, memory and numerical differences of a training iteration of stage 1, compared with a plain implementation.

    python benchmarks/train_step.py                                    GPU: ResNet-101, crop 321, batch 10
    python benchmarks/train_step.py --device cpu --batch-size 2        CPU

A mode is `baseline` (benchmarks/baseline.py), or `ours` with any of +channels-last, +onednn, +bf16, +autotune
(cudnn.benchmark), +compile; both take +float32, which disables TF32 on a GPU. The modes take turns. Each turn is a
new process: one iteration whose losses and gradients are compared with those of the first mode, then the warm-up,
then the timed iterations, including the optimizers' steps. Reported are medians over all turns.

Ratios are of wall-clock time on a GPU, and of CPU time, which other programs hardly affect, on a CPU. torch counts
the operations (convolutions and matrix products) of the first mode; their share is of the matrix rate, measured in
the mode's number format: bf16, TF32 (torch's default for convolutions on a GPU) or float32. Peak memory is that of
the tensors on a GPU; on a CPU it is the resident set, minus its size before the networks. By default ONF keeps all
images, which is the most work: see --iou-threshold.
"""

import argparse
import contextlib
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Times, alone, make_parser, matrix_rate, median, peak_bytes, set_up, table, timed
from benchmarks.trainer import CASES, EXTRAS, Setting, Trainer, make_batches, make_mix, moved, number_format
from networks.deeplab import ARCHS
from utils.core.cli import count
from utils.core.cli import positive_int as positive
from utils.core.errors import InputError, run_script

MODES = ["baseline", "ours", "ours+channels-last", "ours+channels-last+bf16"]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add, warm_up = parser.add_argument, 3 if torch.cuda.is_available() else 0
    add("--modes", nargs="+", metavar="MODE", type=mode, default=MODES, help="compared with the first one")
    add("--cases", nargs="+", choices=CASES, default=list(CASES), help="kinds of iteration")
    add("--arch", choices=ARCHS, default="resnet101", help="segmentation network")
    add("--crop", type=positive, default=321, help="side of the images, pixels")
    add("--batch-size", type=positive, default=10, help="images in each of the four batches")
    add("--num-classes", type=positive, default=21, help="number of labels, including the background")
    add("--iou-threshold", type=float, default=0.0, help="T_class of ONF, the same for all classes")
    add("--turns", type=positive, default=2, help="processes of each mode")
    add("--iterations", type=positive, default=5, help="timed iterations of a turn")
    add("--warm-up", type=count, default=warm_up, help="iterations between the compared and the timed ones")
    args = parser.parse_args(argv)
    if args.crop < 32 or args.num_classes < 2:
        raise InputError("--crop must be 32 or more, --num-classes 2 or more")
    return args


def mode(value: str) -> str:
    """`baseline` with or without float32, or `ours` and extras."""
    first, *extras = value.split("+")
    possible = {"baseline": ("float32",), "ours": EXTRAS}
    if not set(extras) <= set(possible.get(first, ())) or first not in possible:
        text = f"{value}: use baseline, baseline+float32, or ours with any of +{', +'.join(EXTRAS)}"
        raise argparse.ArgumentTypeError(text)
    return value


class Turn(NamedTuple):
    """What one process measures."""

    times: list[Times]  # of the iterations
    peak: int  # bytes
    operations: int
    losses: dict[str, float]  # of the compared iteration


def take_turn(mode: str, case: str, s: Setting, iterations: int, warm_up: int, gradients: Path) -> Turn:
    """Runs a mode in a process of its own; writes the gradients of the compared iteration to a file."""
    device = torch.device(s.device)
    before = peak_bytes(device)
    batches, mix, trainer = make_batches(s), make_mix(s), Trainer(mode, s)
    if device.type == "cuda":
        batches = moved(batches, Tensor.pin_memory)
    # The counter does not see compiled code, and may break it.
    counter = None if trainer.compiled else FlopCounterMode(display=False)
    with counter or contextlib.nullcontext():
        losses = trainer.gradients(batches, case, mix)
    torch.save(gradients_of(trainer), gradients)
    for optimizer in trainer.optimizers:
        optimizer.step()
    step = partial(trainer.step, batches, case, mix)
    times = [timed(step, device)[1] for _ in range(warm_up + iterations)][warm_up:]
    numbers = {name: float(value) for name, value in losses.items() if name.startswith("loss")}
    return Turn(times, peak_bytes(device) - before, counter.get_total_flops() if counter else 0, numbers)


def gradients_of(trainer: Trainer) -> list[Tensor]:
    parameters = [*trainer.G.parameters(), *trainer.D.parameters()]
    return [p.grad.cpu().contiguous() for p in parameters if p.grad is not None]


def loss_difference(losses: dict[str, float], first: dict[str, float]) -> float:
    """The greatest relative difference of a loss."""
    return max(abs(losses[name] - value) / max(abs(value), 1e-12) for name, value in first.items())


def gradient_difference(gradients: list[Tensor], first: list[Tensor]) -> float:
    """Norm of the difference of all gradients, relative to the norm of the first."""
    pairs = [(a.double(), b.double()) for a, b in zip(gradients, first)]
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    return (difference / max(sum(float(b.square().sum()) for _, b in pairs), 1e-300)) ** 0.5


def run_turns(case: str, args: argparse.Namespace, s: Setting, folder: Path) -> dict[str, Turn]:
    """The turns of each mode as one: all times, and the rest of the first."""
    turns: dict[str, list[Turn]] = {mode: [] for mode in args.modes}
    for _ in range(args.turns):
        for mode, found in turns.items():
            options = mode, case, s, args.iterations, args.warm_up, folder / f"{mode}.pt"
            found.append(alone(take_turn, *options))
    return {
        mode: found[0]._replace(times=[t for turn in found for t in turn.times])
        for mode, found in turns.items()
    }


def measure(
    case: str, args: argparse.Namespace, s: Setting, rates: dict[str, float], folder: Path
) -> list[dict]:
    """One row per mode."""
    turns, rows, first = run_turns(case, args, s, folder), [], args.modes[0]
    device = torch.device(s.device)
    gradients = {mode: torch.load(folder / f"{mode}.pt", weights_only=True) for mode in turns}
    seconds = {mode: median(turn.times).on(device) for mode, turn in turns.items()}
    for mode, turn in turns.items():
        times = median(turn.times)
        share = turns[first].operations / seconds[mode] / rates[number_format(mode, device)]
        row = {"mode": mode, "wall s": times.wall, "CPU s": times.cpu}
        row |= {"speed-up": seconds[first] / seconds[mode], "images/s": 4 * s.batch_size / seconds[mode]}
        row |= {"% of rate": f"{100 * share:.0f}", "peak GiB": turn.peak / 2**30}
        row["% of first"] = f"{100 * turn.peak / max(1, turns[first].peak):.0f}"
        row["losses"] = f"{loss_difference(turn.losses, turns[first].losses):.1e}"
        row["gradients"] = f"{gradient_difference(gradients[mode], gradients[first]):.1e}"
        rows.append(row)
    print(f"\n{case}, {turns[first].operations / 1e12:.3g} TFLOP\n{table(rows)}", flush=True)
    return rows


def main(argv: list[str] | None = None) -> dict[str, list[dict]]:
    args = parse_args(argv)
    device = set_up(args)
    s = Setting(args.arch, args.crop, args.batch_size, args.num_classes, args.iou_threshold, args.device)
    print(f"{s.arch}, crop {s.crop}, batch {s.batch_size} x 4, {s.num_classes} classes; relative differences")
    formats = dict.fromkeys(number_format(mode, device) for mode in args.modes)
    rates = {name: matrix_rate(name, device) for name in formats}
    for name, rate in rates.items():
        print(f"matrix rate, {name}: {rate / 1e12:.3g} TFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        return {case: measure(case, args, s, rates, Path(folder)) for case in args.cases}


if __name__ == "__main__":
    run_script(main)
