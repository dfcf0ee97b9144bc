"""Salient-object detectors in ONNX files, run by onnxruntime."""

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from networks.imagenet import IMAGENET_MEAN, IMAGENET_STD
from utils.core.errors import InputError

CPU = "CPUExecutionProvider"
GPU = ("CUDAExecutionProvider", "ROCMExecutionProvider")
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
OUTPUTS = ("probability", "logits", "minmax")
TOLERANCE = 0.01  # by which a probability may leave 0..1, as resizing and half precision do
WIDTH = 160  # of messages of other packages, characters


class OnnxModel:
    """An ONNX file as a salient-object detector.

    Args:
        path: the file. It has one input, N x 3 x H x W. The first channel of its first output, N x C x h x w or
            N x h x w, is the saliency.
        device: cpu, cuda or cuda:N; None: the GPU if onnxruntime has one.
        size: height and width of the input; None: those of the file.
        mean, scale: the input is (value / 255 - mean) / scale, RGB.
        output: one of OUTPUTS.

    Raises:
        InputError: onnxruntime is missing, the file is missing, damaged or of other shapes, or the device is not
            available.
    """

    def __init__(
        self,
        path: Path,
        device: str | None = None,
        size: tuple[int, int] | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        scale: tuple[float, ...] = IMAGENET_STD,
        output: str = "probability",
    ) -> None:
        if not path.is_file():
            raise InputError(f"{path} not found: --model needs an ONNX file")
        onnxruntime = import_package("onnxruntime", "pip install onnxruntime, or onnxruntime-gpu for a GPU")
        providers = choose_providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise InputError(
                f"{path} cannot be loaded as an ONNX model ({brief(error)}): download or export it again"
            ) from None
        self.path, self.output = path, output
        self.mean, self.scale = np.array(mean, np.float32), np.array(scale, np.float32)
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in DTYPES:
            found = ", ".join(f"{' x '.join(map(str, entry.shape))} {entry.type}" for entry in inputs)
            needed = f"one input N x 3 x H x W of {' or '.join(DTYPES)}"
            raise InputError(f"{path} has the input {found}, but a detector needs {needed}")
        self.input, self.dtype = inputs[0].name, DTYPES[inputs[0].type]
        self.fixed_batch, _, *fixed = (n if isinstance(n, int) else None for n in inputs[0].shape)
        height, width = size or fixed
        if height is None or width is None:
            hint = "set the size it was trained with by --input-size"
            raise InputError(f"{path} accepts inputs of any size: {hint}")
        self.size = height, width
        self.made_by = {
            "weights": hashlib.sha256(path.read_bytes()).hexdigest(),
            "input_size": [height, width],
            "mean": list(mean),
            "scale": list(scale),
            "output": output,
        }  # what the maps depend on

    def __call__(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Compute the saliency maps of RGB images, in a batch: H x W uint8 each.

        Raises:
            InputError: the model fails, or its output is not a saliency map.
        """
        batch = np.stack([self._prepare(image) for image in images]).astype(self.dtype)
        if self.fixed_batch:  # repeat images to fill it
            batch = np.resize(batch, (self.fixed_batch, *batch.shape[1:]))
        try:
            output = self.session.run(None, {self.input: batch})[0]
        except Exception as error:
            shape = " x ".join(map(str, batch.shape))
            hint = "it must accept N x 3 x H x W; check --input-size, or use a smaller --batch-size"
            raise InputError(f"{self.path} failed on an input of {shape} ({brief(error)}): {hint}") from None
        if output.ndim == 4:
            output = output[:, 0]
        if output.ndim != 3 or len(output) != len(batch) or output.dtype.kind != "f":
            found = " x ".join(map(str, output.shape))
            raise InputError(f"{self.path} has the output {found}, but a detector's is N x 1 x H x W or N x H x W")
        maps = [self._to_saliency(values.astype(np.float32)) for values in output[: len(images)]]
        resized = [cv2.resize(saliency, image.size) for saliency, image in zip(maps, images)]
        return [(saliency.clip(0, 1) * 255 + 0.5).astype(np.uint8) for saliency in resized]

    def _prepare(self, image: Image.Image) -> np.ndarray:
        """The input for an image: 3 x h x w float32."""
        resized = np.asarray(image.resize(self.size[::-1], Image.Resampling.LANCZOS), np.float32)
        return ((resized / 255 - self.mean) / self.scale).transpose(2, 0, 1)

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


def brief(error: Exception) -> str:
    """The message of another package's error on one line of limited length."""
    return shorten(str(error) or type(error).__name__, WIDTH)


def import_package(name: str, hint: str) -> Any:
    """Import an optional package; if that fails, raise an InputError that ends with the hint."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"the package {name} cannot be imported ({brief(error)}): {hint}") from None


def choose_providers(device: str | None, available: Sequence[str]) -> list:
    """onnxruntime's providers for cpu, cuda or cuda:N; None: the GPU if there is one."""
    gpu = next((name for name in GPU if name in available), None)
    kind, _, index = (device or ("cuda" if gpu else "cpu")).partition(":")
    if kind == "cpu" and not index:
        return [CPU]
    if kind != "cuda" or (index and not index.isdecimal()):
        raise InputError(f"--device {device} is not supported by onnxruntime: use cpu, cuda or cuda:N")
    if gpu is None:
        raise InputError(f"--device {device}: this onnxruntime has no GPU support: pip install onnxruntime-gpu")
    return [(gpu, {"device_id": int(index or 0)}), CPU]
