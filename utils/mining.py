"""Mining of pseudo labels: ignore what contradicts the image-level labels (paper, section III-D)."""

from collections.abc import Sequence

import numpy as np

from datasets.voc import IGNORE_LABEL

MIN_PIXELS = 20


def mine(
    labels: np.ndarray, classes: Sequence[int], min_pixels: int = MIN_PIXELS, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """Ignore the pixels of classes that are nearly missing from H x W uint8 labels, and then the background too.

    `classes` are those of the image, 0-based; the labels of an image of one class are not changed.
    """
    mined = labels.copy()
    if len(set(classes)) < 2:
        return mined
    missing = [c + 1 for c in classes if np.count_nonzero(labels == c + 1) < min_pixels]
    # If a class is missing, any background pixel may belong to it.
    mined[np.isin(labels, [0, *missing] if missing else [])] = ignore_label
    return mined
