"""Salient-object detectors in ONNX files, run by onnxruntime."""

import hashlib
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from utils.core.errors import InputError
from utils.core.files import error_reason

CPU = "CPUExecutionProvider"
GPU = ("CUDAExecutionProvider", "ROCMExecutionProvider")
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUTPUTS = ("probability", "logits", "minmax")
TOLERANCE = 0.01  # by which a probability may leave 0..1, as resizing and half precision do


@dataclass(frozen=True)
class Settings:
    """How an image becomes the input of a model, and its output a saliency map."""

    size: tuple[int, int] | None = None  # height, width; None: that of the file
    mean: tuple[float, ...] = IMAGENET_MEAN  # RGB, of values in 0..1
    scale: tuple[float, ...] = IMAGENET_STD
    output: str = "probability"  # one of OUTPUTS


def import_onnxruntime(hint: str = "pip install onnxruntime, or onnxruntime-gpu for a GPU") -> Any:
    """The module onnxruntime.

    Raises:
        InputError: it is not installed; the message ends with `hint`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"the package onnxruntime cannot be imported ({error_reason(error)}): {hint}"
        ) from None
    return onnxruntime


def brief_reason(error: Exception) -> str:
    """The message of an error of another library on one line of limited length."""
    return textwrap.shorten(error_reason(error), 160, placeholder=" ...")


class OnnxModel:
    """An ONNX file as a salient-object detector.

    Args:
        path: the file. It has one input, N x 3 x H x W. The first channel of its first output, N x C x h x w or
            N x h x w, is the saliency.
        settings: preprocessing and kind of output.
        device: cpu, cuda or cuda:N; None: the GPU if onnxruntime has one.
        batch_size: images per batch, where the file does not fix it; None: 8 on a GPU, 1 on a CPU.

    Raises:
        InputError: onnxruntime is missing, the file is missing, damaged or of other shapes, or the device is not
            available.
    """

    def __init__(
        self, path: Path, settings: Settings, device: str | None = None, batch_size: int | None = None
    ) -> None:
        self.path, self.settings = path, settings
        if not path.is_file():
            raise InputError(f"{path} not found: --model needs an ONNX file")
        self.session = _open_session(path, device)
        self.input, self.fixed_batch, self.size = self._check_input()
        on_gpu = self.session.get_providers()[0] in GPU
        self.batch_size = self.fixed_batch or batch_size or (8 if on_gpu else 1)

    def _check_input(self) -> tuple[str, int | None, tuple[int, int]]:
        """Name, batch size if fixed, and (height, width) of the input."""
        inputs = self.session.get_inputs()
        shape = inputs[0].shape if inputs else []
        if len(inputs) != 1 or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            found = ", ".join(" x ".join(map(str, entry.shape)) for entry in inputs)
            raise InputError(
                f"{self.path} has the input {found}, but a detector needs one input N x 3 x H x W"
            )
        if inputs[0].type not in DTYPES:
            raise InputError(
                f"{self.path} has an input of type {inputs[0].type}, but it must be {' or '.join(DTYPES)}"
            )
        self.dtype = DTYPES[inputs[0].type]
        batch, _, *fixed = (side if isinstance(side, int) else None for side in shape)
        height, width = self.settings.size or fixed
        if height is None or width is None:
            hint = "set the size it was trained with by --input-size"
            raise InputError(f"{self.path} accepts inputs of any size: {hint}")
        if fixed[0] not in (None, height) or fixed[1] not in (None, width):
            required = f"{fixed[0] or height},{fixed[1] or width}"
            raise InputError(
                f"{self.path} needs inputs of {required}, not {height},{width}: omit --input-size"
            )
        return inputs[0].name, batch, (height, width)

    def made_by(self) -> dict:
        """What the maps depend on."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        settings = self.settings
        return {
            "weights": digest.hexdigest(),
            "input_size": list(self.size),
            "mean": list(settings.mean),
            "scale": list(settings.scale),
            "output": settings.output,
        }

    def prepare(self) -> "Prepare":
        """The preprocessing, which data loading processes can run."""
        return Prepare(self.size, self.settings.mean, self.settings.scale)

    def __call__(self, inputs: Sequence[np.ndarray], ids: Sequence[str]) -> list[np.ndarray]:
        """Compute the saliency maps of a batch.

        Args:
            inputs: at most `batch_size` prepared images, 3 x H x W float32.
            ids: their IDs, for errors.

        Returns:
            One h x w float32 map in 0..1 per image.

        Raises:
            InputError: the model fails, or its output is not a saliency map.
        """
        batch = np.stack(inputs).astype(self.dtype)
        if self.fixed_batch:  # repeat images to fill the batch
            batch = np.resize(batch, (self.fixed_batch, *batch.shape[1:]))
        try:
            output = self.session.run(None, {self.input: batch})[0]
        except Exception as error:  # onnxruntime's exceptions have no common base class
            shape = " x ".join(map(str, batch.shape))
            raise InputError(
                f"{self.path} failed on an input of {shape} ({brief_reason(error)}): check --input-size, or use"
                " a smaller --batch-size"
            ) from None
        if output.ndim == 4:
            output = output[:, 0]
        if output.ndim != 3 or len(output) != len(batch) or output.dtype.kind != "f":
            found = " x ".join(map(str, output.shape))
            raise InputError(
                f"{self.path} has the output {found}, but a detector's is N x 1 x H x W or N x H x W"
            )
        return [self._to_saliency(values.astype(np.float32), id_) for values, id_ in zip(output, ids)]

    def _to_saliency(self, values: np.ndarray, id_: str) -> np.ndarray:
        if not np.isfinite(values).all():
            raise InputError(
                f"{self.path} computes values that are not finite for {id_}: check --mean and --scale"
            )
        if self.settings.output == "logits":
            return 1 / (1 + np.exp(-np.clip(values, -50, 50)))
        least, most = float(values.min()), float(values.max())
        if self.settings.output == "minmax":
            return (values - least) / max(most - least, 1e-6)
        if least < -TOLERANCE or most > 1 + TOLERANCE:
            raise InputError(
                f"{self.path} computes values from {least:.3g} to {most:.3g} for {id_}, which are no probabilities:"
                " use --output logits or --output minmax"
            )
        return values.clip(0, 1)


@dataclass(frozen=True)
class Prepare:
    """Converts H x W x 3 uint8 BGR images to resized RGB, (value / 255 - mean) / scale: 3 x h x w float32."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        rgb = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
        resized = np.asarray(rgb.resize(self.size[::-1], Image.Resampling.LANCZOS), np.float32)
        mean, scale = np.array(self.mean, np.float32), np.array(self.scale, np.float32)
        values = (resized / 255 - mean) / scale
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def _open_session(path: Path, device: str | None) -> Any:
    onnxruntime = import_onnxruntime()
    providers = choose_providers(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        reason = brief_reason(error)
        raise InputError(
            f"{path} cannot be loaded as an ONNX model ({reason}): download or export it again"
        ) from None
    if len(providers) > 1 and session.get_providers()[0] == CPU:
        text = "onnxruntime could not use the GPU: its version must match the installed CUDA and cuDNN"
        if device is not None:
            raise InputError(f"{text}; or use --device cpu")
        print(f"warning: {text}; running on the CPU", file=sys.stderr)
    return session


def choose_providers(device: str | None, available: Sequence[str]) -> list:
    """onnxruntime's providers for cpu, cuda or cuda:N; None: the GPU if there is one."""
    gpu = next((name for name in GPU if name in available), None)
    kind, _, index = (device or ("cuda" if gpu else "cpu")).partition(":")
    if kind == "cpu" and not index:
        return [CPU]
    if kind != "cuda" or (index and not index.isdecimal()):
        raise InputError(f"--device {device} is not supported by onnxruntime: use cpu, cuda or cuda:N")
    if gpu is None:
        raise InputError(
            f"--device {device}: this onnxruntime has no GPU support: pip install onnxruntime-gpu"
        )
    return [(gpu, {"device_id": int(index or 0)}), CPU]
