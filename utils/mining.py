"""Mining of pseudo labels: what contradicts the image-level labels is ignored (paper, section III-D)."""

from collections.abc import Sequence

import numpy as np

from datasets.voc import IGNORE_LABEL

MIN_PIXELS = 20


def mine(
    labels: np.ndarray, classes: Sequence[int], min_pixels: int = MIN_PIXELS, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """Ignore the remains of classes that the image has but the labels hardly show, and the background with them.

    Args:
        labels: H x W uint8 pseudo labels.
        classes: the image's 0-based classes; with a single one the labels stay as they are.
        min_pixels: a class with fewer pixels counts as missing.

    Returns:
        A new H x W map; mining it again changes nothing.
    """
    mined = labels.copy()
    if len(set(classes)) < 2:
        return mined
    missing = [c + 1 for c in classes if np.count_nonzero(labels == c + 1) < min_pixels]
    # Where a class was missed, any background pixel may be its own.
    mined[np.isin(labels, [0, *missing] if missing else [])] = ignore_label
    return mined
