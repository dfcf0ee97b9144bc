"""Initial weights from torchvision's ResNets trained on ImageNet, an alternative to the COCO checkpoint.

The files are downloaded directly, so torchvision need not be installed. Its networks differ in two ways. They have
the stride of a stage in the 3x3 convolution of its first block, DeepLab here in the 1x1 convolution before it. At
output stride 8 this concerns one block, layer2.0: the shapes match, and training compensates for the difference. And
they expect images in 0..1, normalised with mean and standard deviation, which `fold_normalisation` folds into the
stem.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from datasets.transforms import MEAN_BGR
from utils.core.errors import InputError
from utils.core.files import error_reason

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of images in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)

BASE_URL = "https://download.pytorch.org/models"
# torchvision's IMAGENET1K_V1; a file name ends with the first digits of the file's SHA-256.
FILES = {"resnet50": "resnet50-0676ba61.pth", "resnet101": "resnet101-63fe2227.pth"}


def imagenet_state(arch: str) -> dict[str, Tensor]:
    """The state dict of torchvision's ResNet `arch`, without classifier, for images normalised as in stage 1.

    A file that was downloaded before, also by torchvision, is read from torch.hub's cache.

    Raises:
        InputError: there is no such network, or the file cannot be downloaded or read.
    """
    if arch not in FILES:
        raise InputError(
            f"--restore-from imagenet: there are no ImageNet weights of {arch}: use --arch {' or '.join(FILES)}"
        )
    url, cached = f"{BASE_URL}/{FILES[arch]}", Path(torch.hub.get_dir(), "checkpoints", FILES[arch])
    try:
        state = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except Exception as error:  # urllib and torch.load raise many kinds
        reason = error_reason(error)
        problem = (
            f"{cached} cannot be read ({reason}): delete it to download it again"
            if cached.exists()
            else f"{url} cannot be downloaded ({reason}): download it elsewhere and copy it to {cached}"
        )
        raise InputError(f"--restore-from imagenet: {problem}") from None
    return fold_normalisation({k: v for k, v in state.items() if not k.startswith("fc.")})


def fold_normalisation(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a ResNet for normalised RGB images in 0..1 to one for images in 0..255 minus MEAN_BGR.

    Exact except near the image border, where zero padding means another colour.
    """
    std, mean = torch.tensor(IMAGENET_STD), torch.tensor(IMAGENET_MEAN)
    mean_rgb = torch.from_numpy(MEAN_BGR[::-1].copy())
    weight = state["conv1.weight"]
    offset = (mean_rgb / 255 - mean) / std  # the normalised value of an input of zero
    constant = (weight * offset[:, None, None]).sum((1, 2, 3))
    return {
        **state,
        "conv1.weight": weight / (255 * std)[:, None, None],
        "bn1.running_mean": state["bn1.running_mean"] - constant,
    }
