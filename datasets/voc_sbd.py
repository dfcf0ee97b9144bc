"""The official files of VOC 2012 and of SBD: annotations, masks, and the sizes of their images."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from datasets.voc import IGNORE_LABEL, VOC_CLASSES, palette
from utils.core.errors import InputError

NUM_CLASSES = len(VOC_CLASSES) + 1
VOC_ARCHIVE = "VOCtrainval_11-May-2012.tar"
SBD_ARCHIVE = "benchmark.tgz"


def reason(error: Exception) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def image_classes(path: Path) -> tuple[int, ...]:
    """The 0-based classes of an image, sorted, from its XML annotation.

    Raises:
        InputError: the file is missing or broken, names no object or an unknown class.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except FileNotFoundError:
        raise InputError(
            f"{path} not found: every training image needs one; unpack {VOC_ARCHIVE} again"
        ) from None
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise InputError(
            f"{path} is no XML that can be read ({reason(error)}): unpack {VOC_ARCHIVE} again"
        ) from None
    # Of the object itself: its parts (head, hand, foot) have names too.
    names = {(thing.findtext("name") or "").strip() for thing in objects}
    if not names:
        raise InputError(f"{path} has no object: an image for training needs a class")
    if unknown := sorted(names - set(VOC_CLASSES)):
        raise InputError(f"{path} has an object of class {unknown[0]!r}, which is none of VOC's 20")
    return tuple(sorted(VOC_CLASSES.index(name) for name in names))


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the header alone."""
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except FileNotFoundError:
        raise InputError(f"{path} not found: unpack {VOC_ARCHIVE} again") from None
    except OSError as error:
        raise InputError(f"{path} is no picture that can be read ({reason(error)})") from None


def checked(labels: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    """The labels as uint8, if they are a label map of VOC of the image's (height, width)."""
    if labels.shape != size:
        shape = "x".join(map(str, labels.shape[::-1]))
        raise InputError(f"{path} is {shape}, but its image is {size[1]}x{size[0]} pixels (width x height)")
    wrong = (labels < 0) | (labels >= NUM_CLASSES) & (labels != IGNORE_LABEL)
    if wrong.any():
        raise InputError(
            f"{path} holds the label {labels[wrong][0]}: only 0..{NUM_CLASSES - 1} and 255 are VOC's"
        )
    return labels.astype(np.uint8)


def labels_of_colours(rgb: np.ndarray, path: Path) -> np.ndarray:
    """H x W x 3 in VOC's colours -> H x W labels.

    Raises:
        InputError: a colour is not VOC's.
    """
    weights = np.array((1 << 16, 1 << 8, 1))
    known = {int(palette()[label] @ weights): label for label in (*range(NUM_CLASSES), IGNORE_LABEL)}
    codes, where = np.unique(rgb @ weights, return_inverse=True)
    for code in codes.tolist():
        if code not in known:
            colour = (code >> 16, code >> 8 & 255, code & 255)
            raise InputError(f"{path} holds the colour {colour}, which is none of VOC's 21 or its border's")
    return np.array([known[code] for code in codes.tolist()])[where].reshape(rgb.shape[:2])


def voc_mask(path: Path) -> tuple[np.ndarray, bool]:
    """H x W labels of one of VOC's masks, and whether the file can stay as it is: values and colours are VOC's."""
    try:
        with Image.open(path) as picture:
            values, mode = np.array(picture), picture.mode
            colours = np.array(picture.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path} not found: unpack {VOC_ARCHIVE} again") from None
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path} is no picture that can be read ({reason(error)})") from None
    if mode == "L":
        return values, False
    if mode == "P" and np.array_equal(palette()[values], colours):
        return values, True
    if mode in ("P", "RGB", "RGBA"):  # in a palette of another order the colours still tell the class
        return labels_of_colours(colours, path), False
    raise InputError(f"{path} is a {mode} picture: a mask has a palette, 8 bits of grey, or VOC's colours")


def load_scipy() -> Callable:
    """scipy's loadmat; InputError where scipy is not installed, for nothing else here needs it."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError(
            f"SBD's masks need scipy, which cannot be imported ({error}): pip install scipy"
        ) from None
    return loadmat


def sbd_mask(path: Path, loadmat: Callable) -> np.ndarray:
    """H x W labels of one of SBD's masks, a .mat file with a struct GTcls; `loadmat` is `load_scipy`'s."""
    try:
        labels = loadmat(path, variable_names=("GTcls",))["GTcls"]["Segmentation"][0, 0]
        if labels.dtype.kind not in "iu":
            raise TypeError(f"not whole numbers, but {labels.dtype}")
    except Exception as error:  # a damaged file makes loadmat raise anything
        raise InputError(
            f"{path} has no GTcls.Segmentation that can be read ({type(error).__name__}: {reason(error)}): unpack"
            f" {SBD_ARCHIVE} again"
        ) from None
    return labels
