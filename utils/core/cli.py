"""Command-line options shared by several scripts, and their types."""

import argparse
import io
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

# Cores available to this process, which containers and schedulers can limit.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the description as written, and the defaults that need to be shown."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # For None, the help text itself says what the default is; flags need no default.
        obvious = action.default is None or action.default is False
        return action.help if obvious else super()._get_help_string(action)


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help shows the docstring.

    From here on, printing a character that the encoding of stdout lacks, such as one in a file name, escapes it
    instead of raising UnicodeEncodeError.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return argparse.ArgumentParser(description=doc, formatter_class=Formatter, allow_abbrev=False)


def call(script: str, *words: object) -> None:
    """Run `python SCRIPT WORDS` or `python -m MODULE WORDS` in this process, which exits if the script fails."""
    with mock.patch("sys.argv", [script, *map(str, words)]):
        if script.startswith("-m "):
            runpy.run_module(script.removeprefix("-m "), run_name="__main__")
        else:
            runpy.run_path(os.path.abspath(script), run_name="__main__")  # spawned processes load it again


def checked(convert: Callable[[Any], Any], accept: Callable[[Any], bool], text: str) -> Callable[[Any], Any]:
    """A function that converts a value, and raises ValueError if the result is not accepted; `text` is its name."""

    def parse(value: Any) -> Any:
        converted = convert(value)
        if not accept(converted):
            raise ValueError
        return converted

    parse.__name__ = text  # argparse prints "invalid <name> value"
    return parse


positive_int = checked(int, lambda n: n > 0, "positive integer")
count = checked(int, lambda n: n >= 0, "non-negative integer")
positive = checked(float, lambda x: 0 < x < float("inf"), "positive number")
non_negative = checked(float, lambda x: 0 <= x < float("inf"), "non-negative number")
fraction = checked(float, lambda x: 0 <= x <= 1, "number between 0 and 1")
label_value = checked(int, lambda n: 0 <= n <= 255, "label (0..255)")


def image_size(value: str) -> tuple[int, int]:
    """`321` or `H,W` -> (height, width), at least 32: the discriminator halves them five times."""
    sides = [positive_int(side) for side in value.split(",")]
    if len(sides) not in (1, 2) or min(sides) < 32:
        raise ValueError
    return sides[0], sides[-1]


def comma_separated(
    parse: Callable[[str], float], accept: Callable[[tuple], bool], text: str
) -> Callable[[str], Any]:
    """The type of an option with comma-separated values: a tuple. `text` describes it in error messages."""
    return checked(lambda value: tuple(map(parse, value.split(","))), accept, text)


# All logits are resized to the resolution of the first scale, and no side of an image may become 0.
scales = comma_separated(
    float,
    lambda factors: factors[0] == 1 and all(0.1 <= factor <= 4 for factor in factors),
    "list of scales (the first must be 1, the others between 0.1 and 4)",
)


def shard(value: str) -> tuple[int, int]:
    """`2/5` -> (2, 5)."""
    part, parts = (positive_int(number) for number in value.split("/"))
    if part > parts:
        raise ValueError
    return part, parts


def labels_list(value: str) -> tuple[int, ...]:
    """`11,4` -> (11, 4); `none` -> ()."""
    return () if value == "none" else tuple(label_value(label) for label in value.split(","))


def json_path(value: str) -> Path:
    """A path that ends in .json."""
    if not value.endswith(".json"):
        raise argparse.ArgumentTypeError(f"{value}: the name must end in .json")
    return Path(value)


def add_device_options(
    parser: argparse.ArgumentParser, workers: bool = True, network: bool = True
) -> argparse._ArgumentGroup:
    """Add the options of the device, with --num-workers and --channels-last if wanted; returns their group."""
    group = parser.add_argument_group("machine")
    devices = group.add_mutually_exclusive_group()
    devices.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the GPU if there is one, else cpu)")
    devices.add_argument("--gpu", type=count, help="index of the CUDA device, short for --device cuda:N")
    if workers:
        text = "worker processes per data loader"
        group.add_argument("--num-workers", type=count, default=min(4, CORES), help=text)
    if network:
        text = "tensors in NHWC memory format (default: on a CPU, where it is faster)"
        group.add_argument("--channels-last", action=argparse.BooleanOptionalAction, help=text)
    return group
