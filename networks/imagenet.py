"""Initial weights from torchvision's networks trained on ImageNet, an alternative to the COCO checkpoint.

The files are downloaded directly, without torchvision. Its networks expect images in 0..1,
normalized with mean and standard deviation, which `fold_normalization` folds into the stem. And its ResNets have the
stride of a stage in the 3x3 convolution of its first block, DeepLab here in the 1x1 convolution before it. At output
stride 8 this concerns one block, layer2.0: the shapes match, and training compensates for the difference.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from datasets.transforms import MEAN_BGR
from networks.checkpoint import read_state
from utils.core.distributed import is_main
from utils.core.errors import InputError, error_reason

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of images in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)

BASE_URL = "https://download.pytorch.org/models"
# torchvision's IMAGENET1K_V1; a file name ends with the first digits of the file's SHA-256.
FILES = {
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
}
CLASSIFIERS = ("fc.weight", "classifier.1.weight")  # of ResNets, of MobileNetV2


def imagenet_state(arch: str) -> dict[str, Tensor]:
    """The state dict of torchvision's network `arch`, without classifier, for images normalized as in stage 1.

    A file that was downloaded before, also by torchvision, is read from torch.hub's cache.
    """
    if arch not in FILES:
        raise InputError(
            f"--restore-from imagenet: there are no ImageNet weights of {arch}: use --arch {', '.join(FILES)}"
        )
    url, cached = f"{BASE_URL}/{FILES[arch]}", Path(torch.hub.get_dir(), "checkpoints", FILES[arch])
    try:
        state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:  # urllib and torch.load raise many kinds
        problem = f"{url} cannot be downloaded ({error_reason(error)}): download it elsewhere and copy it to {cached}"
        if cached.exists():
            problem = f"{cached} cannot be read ({error_reason(error)}): delete it to download it again"
        raise InputError(f"--restore-from imagenet: {problem}") from None
    return from_torchvision(state)


def read_initial(path: str | Path) -> dict[str, Tensor]:
    """As `read_state`, for initial weights: a file of torchvision's, told by its 1,000 classes, is converted."""
    state = read_state(path)
    if not any(key in state and len(state[key]) == 1000 for key in CLASSIFIERS):
        return state
    if is_main():
        print(f"{path}: a classifier of torchvision's, whose normalization of images is folded into its weights")
    return from_torchvision(state)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the layers after DeepLab's features, normalization folded in."""
    after = ("fc.", "classifier.", "features.18.")
    return fold_normalization({key: value for key, value in state.items() if not key.startswith(after)})


def fold_normalization(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a network for normalized RGB images in 0..1 to one for images in 0..255 minus MEAN_BGR.

    Exact except near the image border, where zero padding means another colour.
    """
    std, mean = torch.tensor(IMAGENET_STD), torch.tensor(IMAGENET_MEAN)
    mean_rgb = torch.from_numpy(MEAN_BGR[::-1].copy())
    conv, bn = ("conv1", "bn1") if "conv1.weight" in state else ("features.0.0", "features.0.1")
    weight = state[f"{conv}.weight"]
    offset = (mean_rgb / 255 - mean) / std  # the normalized value of an input of zero
    constant = (weight * offset[:, None, None]).sum((1, 2, 3))
    return {
        **state,
        f"{conv}.weight": weight / (255 * std)[:, None, None],
        f"{bn}.running_mean": state[f"{bn}.running_mean"] - constant,
    }
