"""Operations and bytes moved by a training iteration of stage 1, counted on a CPU.

    python benchmarks/operations.py                                   ResNet-101, crop 321, four batches of 10, bf16
    python benchmarks/operations.py --batch-size 2 --modes ours       less work; the operations are the same

On a GPU, about one kernel is launched per operation, and an operation other than a convolution takes as long as
moving its bytes. Counted are the operations that torch dispatches in one iteration, optimizers included, without
views: their number, and the sizes of all tensors that they read or write, by kind. Caches of the device are ignored,
and so is fusion, which `+compile` would bring.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import table
from benchmarks.trainer import CASES, EXTRAS, Setting, Trainer, make_batches, make_mix
from networks.deeplab import ARCHS
from utils.core import cli
from utils.core.errors import run_script

KINDS = {  # by words in the operation's name, the first that fits
    "convolution": ("convolution",),
    "normalization": ("batch_norm",),
    "ReLU": ("relu", "threshold"),
    "resizing": ("upsample", "mm", "bmm"),
    "casts and copies": ("_to_copy", "copy_", "clone", "contiguous"),
    "optimizers": ("_fused", "_foreach"),
}


class Count(TorchDispatchMode):
    """Counts operations and bytes by kind while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        read, written = tensors_in((args, kwargs)), tensors_in(out)
        if func._schema.is_mutable:
            written = written or read  # fused and foreach operations return nothing
        else:
            storages = {t.untyped_storage().data_ptr() for t in read}
            written = [t for t in written if t.untyped_storage().data_ptr() not in storages]
        if written and name != "empty":  # else a view or nothing computed
            kind = next((k for k, words in KINDS.items() if any(word in name for word in words)), "other")
            self.operations[kind] += 1
            self.bytes[kind] += sum(t.numel() * t.element_size() for t in read + written)
        return out


def tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def count(mode: str, case: str, setting: Setting) -> Count:
    """The operations of one iteration."""
    trainer, batches, mix = Trainer(mode, setting), make_batches(setting), make_mix(setting)
    with Count() as found:
        trainer.step(batches, case, mix)
    return found


def main(argv: list[str] | None = None) -> list[dict]:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add(
        "--modes",
        nargs="+",
        default=["baseline", "ours+channels-last+bf16"],
        help=f"extras: {', '.join(EXTRAS)}",
    )
    add("--cases", nargs="+", choices=CASES, default=list(CASES), help="kinds of iteration")
    add("--arch", choices=ARCHS, default="resnet101", help="segmentation network")
    add("--crop", type=cli.positive_int, default=321, help="side of the images, pixels")
    add("--batch-size", type=cli.positive_int, default=10, help="images in each of the four batches")
    args: argparse.Namespace = parser.parse_args(argv)
    setting = Setting(args.arch, args.crop, args.batch_size)
    rows = []
    for case in args.cases:
        for mode in args.modes:
            found = count(mode, case, setting)
            row: dict = {"case": case, "mode": mode, "operations": found.operations.total()}
            row["GB"] = f"{found.bytes.total() / 1e9:.1f}"
            row |= {f"GB, {kind}": f"{found.bytes[kind] / 1e9:.1f}" for kind in (*KINDS, "other")}
            rows.append(row)
            print(f"{case}, {mode}: {found.operations.total()} operations", flush=True)
    print(table(rows))
    return rows


if __name__ == "__main__":
    run_script(main)
