"""The detectors of gen_saliency.py: those of the package rembg by name, and ONNX files."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.core import cli
from utils.core.errors import InputError
from utils.saliency.onnx_model import OUTPUTS, OnnxModel, brief, choose_providers, import_package

DEFAULT = "u2net"
REQUIREMENT = "rembg[cpu]==2.0.69"  # of requirements-optional.txt
NAMES = (
    *("u2net", "u2netp", "silueta", "u2net_human_seg", "isnet-general-use", "bria-rmbg", "birefnet-general"),
    *(f"birefnet-{kind}" for kind in ("general-lite", "portrait", "dis", "hrsod", "cod", "massive")),
)
Detect = Callable[[Sequence[Image.Image]], Sequence[np.ndarray]]  # RGB images -> maps, H x W uint8


class Detector(NamedTuple):
    """A salient-object detector."""

    detect: Detect
    batch_size: int
    made_by: dict  # what the maps depend on


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `make_detector` reads."""
    add = parser.add_argument_group("detector of rembg", f'It needs: pip install "{REQUIREMENT}"').add_argument
    text = f"{', '.join(NAMES)} (default: {DEFAULT})"
    add("--detector", choices=NAMES, metavar="NAME", help=text)
    text = "directory of the weights, NAME.onnx; what is missing is downloaded there (default: rembg's)"
    add("--model-dir", type=Path, metavar="DIR", help=text)
    text = "The input is N x 3 x H x W: RGB, (value / 255 - mean) / scale."
    add = parser.add_argument_group("any other ONNX file", text).add_argument
    add("--model", type=Path, metavar="FILE", help="ONNX file of a detector, instead of --detector")
    text = "its input size, pixels (default: the size that the file requires)"
    add("--input-size", type=cli.image_size, metavar="H,W", help=text)
    text = "one or three numbers (default: ImageNet's, 0.485,0.456,0.406)"
    add("--mean", type=_channels, metavar="R,G,B", help=text)
    text = "divisors, one or three numbers (default: ImageNet's, 0.229,0.224,0.225)"
    add("--scale", "--std", type=_channels, metavar="R,G,B", help=text)
    text = "what the network computes; minmax: any values, stretched to 0..1 in every image (default: probability)"
    add("--output", choices=OUTPUTS, help=text)
    text = "images per batch (default: 1, or the number that the file requires)"
    add("--batch-size", type=cli.positive_int, metavar="N", help=text)


def _channels(value: str) -> tuple[float, ...]:
    """`0.5` -> (0.5, 0.5, 0.5); `0.4,0.5,0.6` -> (0.4, 0.5, 0.6)."""
    numbers = tuple(float(number) for number in value.split(","))
    if len(numbers) not in (1, 3):
        raise ValueError
    return numbers * 3 if len(numbers) == 1 else numbers


_channels.__name__ = "number or three numbers, comma-separated"  # argparse prints "invalid <name> value"


def make_detector(args: argparse.Namespace) -> Detector:
    """The detector that the options describe, with its weights.

    Raises:
        InputError: options contradict each other, a package is missing, or the weights cannot be obtained or used.
    """
    if args.gpu is not None and args.device is not None:
        raise InputError("--gpu and --device exclude each other: use one of them")
    device = args.device if args.gpu is None else f"cuda:{args.gpu}"
    settings = {"size": args.input_size, "mean": args.mean, "scale": args.scale, "output": args.output}
    given = {name: value for name, value in settings.items() if value is not None}
    if args.model is None:
        if given:
            raise InputError("--input-size, --mean, --scale and --output are for --model FILE: omit them")
        name = args.detector or DEFAULT
        return Detector(_rembg(name, args.model_dir, device), 1, {"detector": name})
    if args.detector is not None:
        raise InputError("--detector and --model exclude each other: use one of them")
    model = OnnxModel(args.model, device, **given)
    return Detector(model, model.fixed_batch or args.batch_size or 1, model.made_by)


def _rembg(name: str, model_dir: Path | None, device: str | None) -> Detect:
    """One of rembg's detectors. It downloads the weights if they are missing."""
    hint = f'pip install "{REQUIREMENT}" (for a GPU: [gpu] instead of [cpu])'
    onnxruntime = import_package("onnxruntime", hint)  # without it, importing rembg ends the process
    providers = choose_providers(device, onnxruntime.get_available_providers())
    if model_dir is not None:
        os.environ["U2NET_HOME"] = str(model_dir.resolve())  # where rembg looks
    rembg = import_package("rembg", hint)
    try:
        session = rembg.new_session(name, providers=providers)
    except Exception as error:  # of the connection, the file system, the checksum or the version of rembg
        raise InputError(
            f"rembg has no usable weights of {name} ({brief(error)}): download them elsewhere and save them as"
            f' {name}.onnx in --model-dir, or pip install "{REQUIREMENT}"'
        ) from None
    return lambda images: [np.array(session.predict(image)[0]) for image in images]
