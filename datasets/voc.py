"""PASCAL VOC 2012: class names, colour map and ignore label."""

import functools

import numpy as np

IGNORE_LABEL = 255

# In label order: class c (0-based) has label c + 1, and label 0 is the background.
_NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow"
    " diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
)
VOC_CLASSES = tuple(_NAMES.split())


@functools.cache
def palette() -> np.ndarray:
    """VOC's colour map as a 256 x 3 uint8 RGB array, which cannot be written to.

    Of each group of three bits in the label, the lowest goes to R, the next to G and the third to B. The first
    group gives the most significant bits of the colour.
    """
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for group in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * group + channel) & 1) << (7 - group)).astype(np.uint8)
    colours.flags.writeable = False
    return colours
