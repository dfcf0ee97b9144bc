"""Command-line options that several scripts share, and the types of their values."""

import argparse
import os
from collections.abc import Callable

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


def shard(value: str) -> tuple[int, int]:
    """`2/5` -> (2, 5)."""
    part, parts = (positive_int(number) for number in value.split("/"))
    if part > parts:
        raise ValueError
    return part, parts


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


def labels_list(value: str) -> tuple[int, ...]:
    """`11,4` -> (11, 4); `none` -> ()."""
    return () if value == "none" else tuple(label_value(label) for label in value.split(","))
