"""Salient-object detectors by name, and the weights that rembg downloads for them."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.core import cli
from utils.core.errors import InputError
from utils.core.files import error_reason
from utils.saliency.classical import classical_saliency
from utils.saliency.onnx_model import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OUTPUTS,
    OnnxModel,
    Settings,
    brief_reason,
    import_onnxruntime,
)

DEFAULT, CLASSICAL = "u2net", "classical"
U2NET = Settings((320, 320), output="minmax")
ISNET = Settings((1024, 1024), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), "minmax")
BRIA = Settings((1024, 1024), output="minmax")
# rembg stretches the probabilities of BiRefNet, too. Without that, a picture without an object stays empty.
BIREFNET = Settings((1024, 1024), output="logits")
BIREFNET_NAMES = ("general", "general-lite", "portrait", "dis", "hrsod", "cod", "massive")
# rembg's names, and the preprocessing that the weights were trained with.
REMBG = {
    **dict.fromkeys(("u2net", "u2netp", "silueta", "u2net_human_seg"), U2NET),
    "isnet-general-use": ISNET,
    "bria-rmbg": BRIA,
    **dict.fromkeys((f"birefnet-{name}" for name in BIREFNET_NAMES), BIREFNET),
}
NAMES = (*REMBG, CLASSICAL)


class Detector(NamedTuple):
    """A salient-object detector in two steps, the first of which data loading processes can run."""

    # H x W x 3 uint8 BGR -> the input of `detect`
    prepare: Callable[[np.ndarray], np.ndarray]
    # inputs and IDs of a batch -> h x w float32 maps in 0..1
    detect: Callable[[Sequence[np.ndarray], Sequence[str]], Sequence[np.ndarray]]
    batch_size: int
    made_by: dict  # what the maps depend on


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `make_detector` reads."""
    add = parser.add_argument_group("detector").add_argument
    add("--detector", metavar="NAME", help=f"{', '.join(NAMES)} (default: {DEFAULT})")
    text = "directory of the weights, NAME.onnx; what is missing is downloaded there (default: rembg's)"
    add("--model-dir", type=Path, metavar="DIR", help=text)
    text = "images per batch (default: 8 on a GPU, else 1)"
    add("--batch-size", type=cli.positive_int, metavar="N", help=text)
    text = "The input is N x 3 x H x W: RGB, (value / 255 - mean) / scale."
    add = parser.add_argument_group("any other ONNX file", text).add_argument
    add("--model", type=Path, metavar="FILE", help="ONNX file of a detector, instead of --detector")
    text = "its input size, pixels (default: the size that the file requires)"
    add("--input-size", type=cli.image_size, metavar="H,W", help=text)
    text = f"one or three numbers (default: {_text(IMAGENET_MEAN)})"
    add("--mean", type=_channels, metavar="R,G,B", help=text)
    text = f"divisors, one or three numbers (default: {_text(IMAGENET_STD)})"
    add("--scale", "--std", type=_divisors, metavar="R,G,B", help=text)
    text = "what the network computes; minmax: any values, stretched to 0..1 in every image (default: probability)"
    add("--output", choices=OUTPUTS, help=text)


def make_detector(args: argparse.Namespace) -> Detector:
    """The detector that the options describe, with its weights.

    Raises:
        InputError: options contradict each other, a package is missing, or the weights cannot be obtained or used.
    """
    given = {"size": args.input_size, "mean": args.mean, "scale": args.scale, "output": args.output}
    given = {name: value for name, value in given.items() if value is not None}
    if args.model is None and given:
        option = "input-size" if "size" in given else next(iter(given))
        raise InputError(f"--{option} is for --model FILE: omit it, since --detector has its own")
    if args.model is not None and args.detector is not None:
        raise InputError("--detector and --model exclude each other: use one of them")
    name = args.detector or DEFAULT
    if args.model is None and name not in NAMES:
        raise InputError(f"--detector {name} is not known: use {', '.join(NAMES)}, or --model FILE")
    device = args.device if args.gpu is None else f"cuda:{args.gpu}"
    if args.gpu is not None and args.device is not None:
        raise InputError("--gpu and --device exclude each other: use one of them")
    if args.model is None and name == CLASSICAL:
        if device not in (None, "cpu"):
            raise InputError(f"--detector {CLASSICAL} runs on the CPU only: omit --device and --gpu")
        return Detector(classical_saliency, lambda maps, _: maps, 1, {"detector": CLASSICAL})
    path = args.model or find_weights(name, args.model_dir)
    settings = REMBG[name] if args.model is None else Settings(**given)
    model = OnnxModel(path, settings, device, args.batch_size)
    return Detector(model.prepare(), model, model.batch_size, model.made_by())


def find_weights(name: str, model_dir: Path | None) -> Path:
    """The ONNX file of one of rembg's detectors, downloaded by rembg if it is missing.

    Args:
        name: a key of REMBG.
        model_dir: directory of the weights; None: rembg's own.

    Raises:
        InputError: a package is missing, or the download fails.
    """
    hint = f"pip install rembg[cpu] or rembg[gpu], or put {name}.onnx into --model-dir"
    import_onnxruntime("pip install rembg[cpu] or rembg[gpu]")  # without it, importing rembg ends the process
    if model_dir is not None:
        if (model_dir / f"{name}.onnx").is_file():
            return model_dir / f"{name}.onnx"
        os.environ["U2NET_HOME"] = str(model_dir.resolve())  # where rembg looks
    try:
        from rembg.sessions import sessions_class
    except ImportError as error:
        raise InputError(f"the package rembg cannot be imported ({error_reason(error)}): {hint}") from None
    session = next((session for session in sessions_class if session.name() == name), None)
    if session is None:
        raise InputError(
            f"--detector {name} is not known to the installed rembg: pip install --upgrade rembg"
        )
    try:
        return Path(session.download_models())
    except Exception as error:  # of the connection, the file system or the checksum, by several libraries
        raise InputError(
            f"the weights of {name} could not be downloaded ({brief_reason(error)}): download them elsewhere"
            f" and save them as {name}.onnx in --model-dir"
        ) from None


def _text(numbers: Sequence[float]) -> str:
    return ",".join(map(str, numbers))


def _channels(value: str) -> tuple[float, ...]:
    """`0.5` -> (0.5, 0.5, 0.5); `0.4,0.5,0.6` -> (0.4, 0.5, 0.6)."""
    numbers = tuple(float(number) for number in value.split(","))
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{value}: one or three numbers are needed, comma-separated")
    return numbers * 3 if len(numbers) == 1 else numbers


def _divisors(value: str) -> tuple[float, ...]:
    """As `_channels`, but positive."""
    numbers = _channels(value)
    if min(numbers) <= 0:
        raise argparse.ArgumentTypeError(f"{value}: divisors must be positive")
    return numbers
