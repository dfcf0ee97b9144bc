"""Loads a checkpoint of either stage and segments single images; for predict.py, and for use in Python."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets import transforms as T
from datasets.images import read_picture
from datasets.lists import read_class_names
from networks.checkpoint import load_strict, read_state
from networks.deeplab import DeepLab, arch_from_state
from step2.libs.datasets.pseudo_labelled import Stage2Config
from step2.libs.datasets.pseudo_labelled import to_network as to_network_stage2
from step2.libs.models import MSC, with_base
from utils.core.device import prepare
from utils.core.errors import InputError
from utils.crf.dense_crf import dense_crf
from utils.crf.run import CRFSettings
from utils.evaluation.inference import full_size, multi_scale_logits

MIN_SIDE = 32  # smaller images are padded, since they would vanish at the smallest scale
RATES = (6, 12, 18, 24)
STAGE1_SCALES = (1.0, 0.75)


class Predictor:
    """A trained network of stage 1 or 2, which labels the pixels of images.

    Args:
        weights: the checkpoint; the stage and the architecture are inferred from its tensors.
        device: where to compute.
        class_names: see `read_class_names`.
        scales: of the input, for stage 1 only (None: 1 and 0.75).
        rates: dilation rates of the ASPP of stage 2, which cannot be inferred.
        channels_last: see `prepare`.
    """

    def __init__(
        self,
        weights: str | Path,
        device: torch.device | str = "cpu",
        class_names: str | Path | None = None,
        scales: Sequence[float] | None = None,
        rates: Sequence[int] = RATES,
        channels_last: bool | None = None,
    ) -> None:
        self.device = torch.device(device)
        network, self.stage, self.num_classes = _load(weights, rates)
        if self.stage == 2 and scales is not None:
            raise InputError(f"--scales is for stage 1, but {weights} is of stage 2: omit it")
        # The network of stage 2 itself computes several scales.
        self.scales = tuple(scales or STAGE1_SCALES) if self.stage == 1 else (1.0,)
        self.names = read_class_names(class_names, self.num_classes)
        self.network = prepare(network, self.device, channels_last).eval()

    @torch.no_grad()
    def __call__(self, image: np.ndarray | str | Path, crf: CRFSettings | None = None) -> np.ndarray:
        """The H x W uint8 labels of an image of any size, 0 is the background.

        Args:
            image: a file, or H x W x 3 uint8, BGR.
            crf: refine the labels with the dense CRF of these settings.
        """
        if not isinstance(image, np.ndarray):
            image, _ = read_picture(image)
        height, width = image.shape[:2]
        if self.stage == 1:
            array = T.to_network(image)
        else:
            array = to_network_stage2(image.astype(np.float32), Stage2Config.mean_bgr)
        padding = (0, max(0, MIN_SIDE - width), 0, max(0, MIN_SIDE - height))
        batch = F.pad(torch.from_numpy(array)[None], padding).to(self.device)  # zeros are the mean colour
        logits = multi_scale_logits(self.network, batch, self.scales)
        logits = full_size(logits, batch.shape[2:], align_corners=self.stage == 1)[0, :, :height, :width]
        if crf is not None:
            logits = dense_crf(image, logits.softmax(0), crf.params, crf.backend, crf.prune)
        return logits.argmax(0).to(torch.uint8).cpu().numpy()


def _load(path: str | Path, rates: Sequence[int]) -> tuple[nn.Module, int, int]:
    """The network in a checkpoint of stage 1 or 2, its stage and number of classes."""
    state = read_state(path)
    if found := arch_from_state(state):
        network: nn.Module = DeepLab(*found)
        num_classes = found[0]
    else:
        state = with_base(state)
        num_classes, network = _build_stage2(state, path, rates)
    load_strict(network, state, path)
    if num_classes > 255:
        raise InputError(f"{path} has {num_classes} classes: a mask can have at most 255")
    return network, 1 if found else 2, num_classes


def _build_stage2(state: Mapping[str, Tensor], path: str | Path, rates: Sequence[int]) -> tuple[int, MSC]:
    stem = state.get("base.layer1.conv1.conv.weight")
    v1, v2 = state.get("base.fc.bias"), state.get("base.aspp.c0.bias")
    head = v1 if v2 is None else v2
    if stem is None or head is None or not stem.ndim or head.ndim != 1:
        raise InputError(
            f"{path} is not a checkpoint of stage 1 or 2: the first convolution or the classifier is missing"
        )
    found = {m.groups() for key in state if (m := re.match(r"base\.layer([2-5])\.block(\d+)\.", key))}
    blocks = [sum(layer == stage for layer, _ in found) for stage in "2345"]
    return len(head), MSC(len(head), blocks, None if v2 is None else rates, len(stem))
