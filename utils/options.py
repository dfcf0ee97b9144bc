"""Command-line options that several scripts share, and the types of their values."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from datasets.lists import Entry, unique
from datasets.voc import IGNORE_LABEL, VOC_CLASSES
from utils.distributed import local_device
from utils.files import InputError

# The cores that this process may use, fewer than the machine's in a container or under a scheduler.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help shows the script's docstring as written, and every default."""

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str | None:
            # "(default: None)" says nothing; what happens then stands in the text.
            return action.help if action.default is None else super()._get_help_string(action)

    return argparse.ArgumentParser(description=doc, formatter_class=Formatter, allow_abbrev=False)


def _number(convert: Callable, accept: Callable[[float], bool], text: str) -> Callable:
    def parse(value: str) -> float:
        number = convert(value)
        if not accept(number):
            raise ValueError
        return number

    parse.__name__ = text  # argparse: "invalid <name> value"
    return parse


positive_int = _number(int, lambda n: n > 0, "positive whole number")
count = _number(int, lambda n: n >= 0, "whole number")
positive = _number(float, lambda x: 0 < x < float("inf"), "positive number")
non_negative = _number(float, lambda x: 0 <= x < float("inf"), "non-negative number")
label_value = _number(int, lambda n: 0 <= n <= 255, "label (0..255)")


def image_size(value: str) -> tuple[int, int]:
    """`321` or `H,W` -> (height, width), 32 at least: the discriminator halves them five times."""
    sides = [positive_int(side) for side in value.split(",")]
    if len(sides) not in (1, 2) or min(sides) < 32:
        raise ValueError
    return sides[0], sides[-1]


def scales(value: str) -> tuple[float, ...]:
    """`1,0.75` -> (1.0, 0.75), each between 0.1 and 4; the first is 1, for the others are resized to its logits."""
    factors = tuple(float(factor) for factor in value.split(","))
    if factors[0] != 1 or not all(0.1 <= factor <= 4 for factor in factors):  # no side becomes 0
        raise argparse.ArgumentTypeError(f"{value}: the first scale is 1, the others lie between 0.1 and 4")
    return factors


def add_data_options(
    parser: argparse.ArgumentParser,
    images: bool = True,
    names: bool = True,
    ignored: bool = True,
    num_classes: int | None = 21,
    found_in: str = "the checkpoint's",
) -> argparse._ArgumentGroup:
    """Where images lie and which labels there are; returns the group for more of the kind.

    Args:
        images, names, ignored: whether the script has a use for --data-dir, --class-names, --ignore-label.
        num_classes: its default; None: the script finds it out itself.
        found_in: whose number of classes it finds.
    """
    group = parser.add_argument_group("data")
    if images:
        group.add_argument(
            "--data-dir", type=Path, default=Path("dataset/VOC2012"),
            help="folder with JPEGImages/ID.jpg and SegmentationClassAug/ID.png",
        )  # fmt: skip
    told = "" if num_classes else f" ({found_in}, unless given)"
    text = f"labels, background included{told}"
    group.add_argument("--num-classes", type=positive_int, default=num_classes, help=text)
    if ignored:
        text = "label that counts nowhere"
        group.add_argument("--ignore-label", type=label_value, default=IGNORE_LABEL, help=text)
    if names:
        group.add_argument(
            "--class-names", type=Path,
            help="file with a class name a line, background left out (VOC's names for 21 classes)",
        )  # fmt: skip
    return group


def add_stage1_data_options(group: argparse._ArgumentGroup) -> None:
    """Where stage 1's lists and pseudo labels lie."""
    group.add_argument(
        "--list-dir", type=Path, default=Path("dataset/voc_list"),
        help="folder of train_cls.txt, simple_list.txt, complex_list.txt and val.txt",
    )  # fmt: skip
    group.add_argument(
        "--pseudo-label-dir", type=Path, default=Path("dataset/sal2gt"),
        help="saliency pseudo labels of the simple images, ID.png",
    )  # fmt: skip


LABEL_DIR_HELP = "true labels, ID.png (SegmentationClassAug in --data-dir, unless given)"


def add_list_options(group: argparse._ArgumentGroup, default: Path, shards: bool = True) -> None:
    """Which images, and which part of them."""
    group.add_argument("--data-list", type=Path, default=default, help="list of the images")
    if shards:
        text = "do the I-th of N parts of the list alone"
        group.add_argument("--shard", type=shard, metavar="I/N", help=text)


def shard(value: str) -> tuple[int, int]:
    """`2/5` -> (2, 5)."""
    part, parts = (positive_int(number) for number in value.split("/"))
    if part > parts:
        raise ValueError
    return part, parts


def sharded(entries: list[Entry], part: tuple[int, int] | None) -> list[Entry]:
    """The entries of one part, each image once: every N-th, so that the parts are equally hard."""
    entries = unique(entries)
    return entries if part is None else entries[part[0] - 1 :: part[1]]


def add_device_options(
    parser: argparse.ArgumentParser, workers: bool = True, network: bool = True
) -> argparse._ArgumentGroup:
    """What computes; returns the group for more of the kind.

    Args:
        workers, network: whether the script has loading processes, and a network.
    """
    group = parser.add_argument_group("machine")
    group.add_argument("--device", help="cpu, cuda, cuda:N or mps; the GPU where there is one, unless given")
    group.add_argument("--gpu", type=count, help="number of the CUDA device, short for --device cuda:N")
    if workers:
        group.add_argument(
            "--num-workers", type=count, default=min(4, CORES),
            help="loading processes per kind of image",
        )  # fmt: skip
    if network:
        group.add_argument("--channels-last", action="store_true", help="tensors in NHWC order; often faster")
    return group


def add_resume_options(group: argparse._ActionsContainer) -> None:
    """What concerns a run that can go on where it was stopped."""
    group.add_argument("--save-every", type=positive_int, default=100, help="iterations between saved states")
    group.add_argument("--no-resume", action="store_true", help="start over although there is a saved state")


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
    name = local_device(f"cuda:{args.gpu}" if args.gpu is not None else args.device or best)
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


def iou_thresholds(value: str | None, num_classes: int, published: tuple[float, ...]) -> torch.Tensor:
    """T_class of ONF, one per foreground class, from `voc`, one number, one per class or `auto` (measured later).

    Args:
        value: the option, None if not given: VOC's values for 21 classes, else 0.5 for all.
    """
    classes = num_classes - 1
    if value == "auto":
        return torch.full((classes,), float("nan"))  # keeps no image until it is measured
    if value is None:
        value = "voc" if num_classes == len(VOC_CLASSES) + 1 else "0.5"
    try:
        numbers = published if value == "voc" else tuple(non_negative(x) for x in value.split(","))
    except ValueError:
        raise InputError(
            f"--iou-thresholds {value}: give voc, auto, one number, or one per class, by commas"
        ) from None
    numbers = numbers * classes if len(numbers) == 1 else numbers
    if len(numbers) != classes:
        raise InputError(
            f"--iou-thresholds has {len(numbers)} values, but there are {classes} foreground classes"
        )
    return torch.tensor(numbers)


def labels_list(value: str) -> tuple[int, ...]:
    """`11,4` -> (11, 4); `none` -> ()."""
    return () if value == "none" else tuple(label_value(label) for label in value.split(","))
