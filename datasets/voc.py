"""What PASCAL VOC 2012 is: its class names, its palette, the label that counts nowhere."""

import numpy as np

IGNORE_LABEL = 255

# In the order of the labels; the background is label 0 and class c (0-based) is label c + 1.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def palette() -> np.ndarray:
    """VOC's colour map, (256, 3) uint8: bit b of a label's three bit groups becomes bit 7 - b of R, G, B."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for group in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * group + channel) & 1) << (7 - group)).astype(np.uint8)
    return colours
