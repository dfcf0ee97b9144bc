"""Reads the annotations and masks of the official PASCAL VOC 2012 and SBD archives."""

import functools
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from datasets.images import open_image
from datasets.voc import IGNORE_LABEL, VOC_CLASSES, palette
from utils.core.errors import InputError
from utils.core.files import error_reason

NUM_CLASSES = len(VOC_CLASSES) + 1
VOC_ARCHIVE = "VOCtrainval_11-May-2012.tar"
SBD_ARCHIVE = "benchmark.tgz"
UNPACK_VOC = f": unpack {VOC_ARCHIVE} again"


def image_classes(path: Path) -> tuple[int, ...]:
    """The sorted 0-based classes of the objects in an XML annotation.

    Raises:
        InputError: the file is missing or malformed, or has no object or one of an unknown class.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except FileNotFoundError:
        raise InputError(f"{path} not found{UNPACK_VOC}; every training image needs an annotation") from None
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise InputError(f"{path} cannot be read as XML ({error_reason(error)}){UNPACK_VOC}") from None
    # Direct children only: the parts of an object (head, hand, foot) have names too.
    names = {(thing.findtext("name") or "").strip() for thing in objects}
    if not names:
        raise InputError(f"{path} has no object: a training image needs at least one class")
    if unknown := sorted(names - set(VOC_CLASSES)):
        raise InputError(
            f"{path} has an object of class {unknown[0]!r}, which is not one of VOC's 20 classes"
        )
    return tuple(sorted(VOC_CLASSES.index(name) for name in names))


def labels_from_colours(rgb: np.ndarray, path: Path) -> np.ndarray:
    """Convert an H x W x 3 array in VOC's colours to H x W labels.

    Raises:
        InputError: a colour is not in VOC's colour map; the message names `path`.
    """
    weights = np.array((1 << 16, 1 << 8, 1))
    known = {int(palette()[label] @ weights): label for label in (*range(NUM_CLASSES), IGNORE_LABEL)}
    codes, inverse = np.unique(rgb @ weights, return_inverse=True)
    for code in codes.tolist():
        if code not in known:
            colour = (code >> 16, code >> 8 & 255, code & 255)
            raise InputError(f"{path} contains the colour {colour}, which is not in VOC's colour map")
    return np.array([known[code] for code in codes.tolist()])[inverse].reshape(rgb.shape[:2])


def voc_mask(path: Path) -> tuple[np.ndarray, bool]:
    """Read a mask of VOC.

    Returns:
        H x W labels, and whether the file has VOC's values and palette, so that it can be used unchanged.

    Raises:
        InputError: the file is missing or damaged, or neither its values nor its colours are VOC's.
    """
    with open_image(path, UNPACK_VOC, UNPACK_VOC) as image:
        values, mode = np.array(image), image.mode
        colours = np.array(image.convert("RGB"))
    if mode == "L":
        return values, False
    if mode == "P" and np.array_equal(palette()[values], colours):
        return values, True
    if mode in ("P", "RGB", "RGBA"):  # with a reordered palette, the colours still identify the classes
        return labels_from_colours(colours, path), False
    raise InputError(f"{path} is an image of mode {mode}: masks must be palette, 8-bit grey or RGB images")


@functools.cache
def load_scipy() -> Callable:
    """Import scipy, which only SBD's masks need, and return its `loadmat`; InputError if it is not installed."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError(
            f"SBD's masks need scipy, which cannot be imported ({error_reason(error)}): pip install scipy"
        ) from None
    return loadmat


def sbd_mask(path: Path) -> np.ndarray:
    """H x W labels from a mask of SBD, a .mat file with a struct GTcls.

    Raises:
        InputError: the file is damaged or has no such struct, or scipy is not installed.
    """
    loadmat = load_scipy()
    try:
        labels = loadmat(path, variable_names=("GTcls",))["GTcls"]["Segmentation"][0, 0]
        if labels.dtype.kind not in "iu":
            raise TypeError(f"not integers, but {labels.dtype}")
    except Exception as error:  # loadmat can raise any exception on a damaged file
        raise InputError(
            f"{path}: GTcls.Segmentation cannot be read ({type(error).__name__}: {error_reason(error)}): unpack"
            f" {SBD_ARCHIVE} again"
        ) from None
    return labels
