"""The detectors of gen_saliency.py: those of the package rembg by name, and ONNX files."""

import argparse
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from networks.imagenet import IMAGENET_MEAN, IMAGENET_STD
from utils.core import cli
from utils.core.errors import InputError, error_reason, import_optional

DEFAULT = "u2net"
REQUIREMENT = "rembg[cpu]==2.0.69"  # of requirements-optional.txt
NAMES = (
    *("u2net", "u2netp", "silueta", "u2net_human_seg", "isnet-general-use", "bria-rmbg", "birefnet-general"),
    *(f"birefnet-{kind}" for kind in ("general-lite", "portrait", "dis", "hrsod", "cod", "massive")),
)
CPU = "CPUExecutionProvider"
GPU = ("CUDAExecutionProvider", "ROCMExecutionProvider")
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
Detector = Callable[[Image.Image], np.ndarray]  # RGB image -> saliency map, H x W uint8
TOLERANCE = 0.01  # by which a probability may leave 0..1, as resizing and half precision do
channels = cli.comma_separated(
    float, lambda numbers: len(numbers) in (1, 3), "number or three numbers, comma-separated"
)


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
    add("--mean", type=channels, metavar="R,G,B", help=text)
    text = "divisors, one or three numbers (default: ImageNet's, 0.229,0.224,0.225)"
    add("--scale", "--std", type=channels, metavar="R,G,B", help=text)
    text = "what the network computes; minmax: any values, stretched to 0..1 in every image (default: probability)"
    add("--output", choices=("probability", "logits", "minmax"), help=text)


def make_detector(args: argparse.Namespace) -> tuple[Detector, dict]:
    """The detector that the options describe, with its weights, and what its maps depend on."""
    if args.detector is not None and args.model is not None:
        raise InputError("--detector and --model exclude each other: use one of them")
    device = args.device if args.gpu is None else f"cuda:{args.gpu}"
    if args.model is not None:
        model = OnnxModel(args, device)
        return model, model.made_by
    if any(value is not None for value in (args.input_size, args.mean, args.scale, args.output)):
        raise InputError("--input-size, --mean, --scale and --output are for --model FILE: omit them")
    name = args.detector or DEFAULT
    return _rembg(name, args.model_dir, device), {"detector": name}


def _rembg(name: str, model_dir: Path | None, device: str | None) -> Detector:
    """One of rembg's detectors. It downloads the weights if they are missing."""
    hint = f'pip install "{REQUIREMENT}" (for a GPU: [gpu] instead of [cpu])'
    onnxruntime = import_optional("onnxruntime", hint)  # without it, importing rembg ends the process
    providers = choose_providers(device, onnxruntime.get_available_providers())
    rembg = import_optional("rembg", hint)
    if model_dir is not None:
        os.environ["U2NET_HOME"] = str(model_dir.resolve())  # where rembg looks
    try:
        session = rembg.new_session(name, providers=providers)
    except Exception as error:  # of the connection, the file system, the checksum or the version of rembg
        raise InputError(
            f"rembg has no usable weights of {name} ({error_reason(error)}): download them elsewhere and save them as"
            f' {name}.onnx in --model-dir, or pip install "{REQUIREMENT}"'
        ) from None
    return lambda image: np.array(session.predict(image)[0])


class OnnxModel:
    """An ONNX file as a salient-object detector, by the options of `add_detector_options`.

    Its input is N x 3 x H x W. The first channel of its first output, N x C x h x w or N x h x w, is the saliency.
    """

    def __init__(self, args: argparse.Namespace, device: str | None) -> None:
        """Args: device: cpu, cuda or cuda:N; None: the GPU if onnxruntime has one."""
        self.path, self.output = args.model, args.output or "probability"
        given = args.mean or IMAGENET_MEAN, args.scale or IMAGENET_STD
        mean, scale = (values * (3 // len(values)) for values in given)  # one number counts for all channels
        self.mean, self.scale = np.array(mean, np.float32), np.array(scale, np.float32)
        if not self.path.is_file():
            raise InputError(f"{self.path} not found: --model needs an ONNX file")
        onnxruntime = import_optional("onnxruntime", "pip install onnxruntime, or onnxruntime-gpu for a GPU")
        providers = choose_providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            problem = f"cannot be loaded as an ONNX model ({error_reason(error)})"
            raise InputError(f"{self.path} {problem}: download or export it again") from None
        self.input = self.session.get_inputs()[0]
        if len(self.input.shape) != 4 or self.input.type not in DTYPES:
            found = f"{' x '.join(map(str, self.input.shape))} {self.input.type}"
            needed = f"N x 3 x H x W of {' or '.join(DTYPES)}"
            raise InputError(f"{self.path} has the input {found}, but a detector needs {needed}")
        self.size = args.input_size or tuple(self.input.shape[2:])
        if not all(isinstance(side, int) for side in self.size):
            raise InputError(f"{self.path} accepts inputs of any size: set the one of its training by --input-size")
        self.made_by = {
            "weights": hashlib.sha256(self.path.read_bytes()).hexdigest(),
            "input_size": list(self.size),
            "mean": list(mean),
            "scale": list(scale),
            "output": self.output,
        }

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The saliency map of an RGB image: H x W uint8."""
        resized = np.asarray(image.resize(self.size[::-1], Image.Resampling.LANCZOS), np.float32)
        values = ((resized / 255 - self.mean) / self.scale).transpose(2, 0, 1)[None]
        try:
            result = self.session.run(None, {self.input.name: values.astype(DTYPES[self.input.type])})[0]
        except Exception as error:
            shape, reason = " x ".join(map(str, values.shape)), error_reason(error)
            hint = "it must accept N x 3 x H x W; check --input-size"
            raise InputError(f"{self.path} failed on an input of {shape} ({reason}): {hint}") from None
        if result.ndim not in (3, 4) or len(result) != 1 or result.dtype.kind != "f":
            found = " x ".join(map(str, result.shape))
            raise InputError(f"{self.path} has the output {found}, but a detector's is N x 1 x H x W or N x H x W")
        saliency = self._to_saliency(result.reshape(-1, *result.shape[-2:])[0].astype(np.float32))
        return (cv2.resize(saliency, image.size).clip(0, 1) * 255 + 0.5).astype(np.uint8)

    def _to_saliency(self, values: np.ndarray) -> np.ndarray:
        if not np.isfinite(values).all():
            raise InputError(f"{self.path} computes values that are not finite: check --mean and --scale")
        if self.output == "logits":
            return 1 / (1 + np.exp(-np.clip(values, -50, 50)))
        least, most = float(values.min()), float(values.max())
        if self.output == "minmax":
            return (values - least) / max(most - least, 1e-6)
        if least < -TOLERANCE or most > 1 + TOLERANCE:
            problem = f"values from {least:.3g} to {most:.3g}, which are no probabilities"
            raise InputError(f"{self.path} computes {problem}: use --output logits or --output minmax")
        return values


def choose_providers(device: str | None, available: Sequence[str]) -> list:
    """onnxruntime's providers for cpu, cuda or cuda:N; None: the GPU if there is one."""
    gpu = next((name for name in GPU if name in available), None)
    device = device or ("cuda" if gpu else "cpu")
    if device == "cpu":
        return [CPU]
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise InputError(f"--device {device} is not supported by onnxruntime: use cpu, cuda or cuda:N")
    if gpu is None:
        raise InputError(f"--device {device}: this onnxruntime has no GPU support: pip install onnxruntime-gpu")
    return [(gpu, {"device_id": int(device.partition(":")[2] or 0)}), CPU]
