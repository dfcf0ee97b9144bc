"""ImageNet weights of torchvision's ResNets as initial weights, where the COCO file is not at hand.

Two differences to the network here. torchvision puts the stride of a stage into the 3x3 convolution of its first
block, DeepLab here into the 1x1 before it: at output stride 8 that is one block, layer2.0, whose 3x3 convolution now
sees every other pixel of its input; the shapes fit, but training has to make up for the difference. And torchvision's
images are scaled to 0..1 and divided by a deviation: that is folded into the stem, so that the network sees the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from datasets.transforms import MEAN_BGR
from utils.core.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of images in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_state(arch: str) -> dict[str, Tensor]:
    """torchvision's ResNet for `arch`, its classifier left out, for images as stage 1 feeds them.

    Raises:
        InputError: torchvision cannot be imported, has no such network, or its file cannot be fetched.
    """
    try:
        from torchvision.models import get_model_weights
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--restore-from imagenet needs torchvision, which cannot be imported here ({reason}): install the build"
            " that belongs to this torch, or name a file"
        ) from None
    try:
        weights = get_model_weights(arch)["IMAGENET1K_V1"]
        state = weights.get_state_dict(check_hash=True)
    except ValueError:
        raise InputError(
            f"--restore-from imagenet: torchvision has no {arch}; take resnet101 or resnet50"
        ) from None
    except (OSError, RuntimeError) as error:
        raise InputError(f"--restore-from imagenet: the weights cannot be fetched ({error})") from None
    return fold_normalisation({k: v for k, v in state.items() if not k.startswith("fc.")})


def fold_normalisation(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet for RGB images in 0..1, less IMAGENET_MEAN, over IMAGENET_STD -> for 0..255 less our mean.

    Exact but for the pixels whose 7x7 window hangs over the border, where zero padding means another colour.
    """
    std, mean = torch.tensor(IMAGENET_STD), torch.tensor(IMAGENET_MEAN)
    own_mean = torch.from_numpy(MEAN_BGR[::-1].copy())
    weight = state["conv1.weight"]
    offset = (own_mean / 255 - mean) / std  # what an input of zero here is there
    constant = (weight * offset[:, None, None]).sum((1, 2, 3))
    return {
        **state,
        "conv1.weight": weight / (255 * std)[:, None, None],
        "bn1.running_mean": state["bn1.running_mean"] - constant,
    }
