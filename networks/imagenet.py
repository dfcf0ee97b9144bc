"""Initial weights from torchvision's ResNets trained on ImageNet, an alternative to the COCO checkpoint.

torchvision's networks differ in two ways. They have the stride of a stage in the 3x3 convolution of its first block,
DeepLab here in the 1x1 convolution before it. At output stride 8 this concerns one block, layer2.0: the shapes match,
and training compensates for the difference. And they expect images in 0..1, normalised with mean and standard
deviation, which `fold_normalisation` folds into the stem.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from datasets.transforms import MEAN_BGR
from utils.core.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of images in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_state(arch: str) -> dict[str, Tensor]:
    """The state dict of torchvision's ResNet `arch`, without classifier, for images normalised as in stage 1.

    Raises:
        InputError: torchvision cannot be imported, has no such network, or the file cannot be downloaded.
    """
    try:
        from torchvision.models import get_model_weights
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--restore-from imagenet needs torchvision, which cannot be imported here ({reason}): install the build"
            " for this version of torch, or pass a file"
        ) from None
    try:
        weights = get_model_weights(arch)["IMAGENET1K_V1"]
        state = weights.get_state_dict(check_hash=True)
    except ValueError:
        raise InputError(
            f"--restore-from imagenet: torchvision has no {arch}: use resnet101 or resnet50"
        ) from None
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"--restore-from imagenet: cannot download the weights ({error}): pass a file"
        ) from None
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
