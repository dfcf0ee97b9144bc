"""Finds, downloads and reads the unpacked archives of PASCAL VOC 2012 and SBD."""

import os
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import error_reason, not_found

NUM_CLASSES = len(VOC_CLASSES) + 1
VOC_ARCHIVE = "VOCtrainval_11-May-2012.tar"
SBD_ARCHIVE = "benchmark.tgz"
UNPACK_VOC = f": unpack {VOC_ARCHIVE} again"


def find_devkit(path: Path) -> Path | None:
    """The directory VOC2012 at or below `path`; None if there is none with lists."""
    candidates = (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012")
    return next((folder for folder in candidates if (folder / "ImageSets/Segmentation").is_dir()), None)


def find_sbd(path: Path) -> Path | None:
    """SBD's directory with cls/ at or below `path`; None if there is none."""
    candidates = (path, path / "dataset", path / "benchmark_RELEASE" / "dataset")
    return next((folder for folder in candidates if (folder / "cls").is_dir()), None)


def find_folders(devkit: Path, sbd: Path | None) -> tuple[Path, Path | None]:
    """The directories of VOC 2012 and, unless it is None, of SBD, at or below the given ones.

    Raises:
        InputError: one does not exist or has other contents.
    """
    voc_dir = find_devkit(devkit)
    if voc_dir is None:
        problem = f"{devkit} has no ImageSets/Segmentation" if devkit.exists() else not_found(devkit)
        raise InputError(f"{problem}: unpack {VOC_ARCHIVE} and pass its VOC2012, or use --download")
    sbd_dir = None if sbd is None else find_sbd(sbd)
    if sbd is not None and sbd_dir is None:
        raise InputError(f"{sbd} has no benchmark_RELEASE/dataset/cls: unpack SBD's {SBD_ARCHIVE} there")
    return voc_dir, sbd_dir


def download(devkit: Path, sbd: Path) -> None:
    """Download VOC 2012 to `devkit` and SBD to `sbd` with torchvision, unless they exist.

    Raises:
        InputError: torchvision cannot be imported, or a download fails.
    """
    try:
        from torchvision.datasets import SBDataset, VOCSegmentation
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another version of torch
        raise InputError(
            f"--download needs torchvision, which cannot be imported ({error_reason(error)}): install it, or"
            f" download {VOC_ARCHIVE} and SBD's {SBD_ARCHIVE} and use --devkit and --sbd"
        ) from None
    if find_sbd(sbd) is None:
        load_scipy()  # SBDataset needs it: fail before downloading gigabytes
    if find_devkit(devkit) is None:
        if devkit.exists():
            raise InputError(
                f"{devkit} contains something other than VOC 2012: choose another --devkit to download to"
            )
        _fetch(VOC_ARCHIVE, lambda: VOCSegmentation(devkit.parent, "2012", "trainval", download=True))
        if find_devkit(devkit) is None:
            os.rename(devkit.parent / "VOCdevkit" / "VOC2012", devkit)
    if find_sbd(sbd) is None:
        _fetch(SBD_ARCHIVE, lambda: SBDataset(sbd, "train", mode="segmentation", download=True))


def _fetch(archive: str, start: Callable[[], object]) -> None:
    """Run a download; any failure becomes an InputError."""
    try:
        start()
    except Exception as error:  # network, disk, archive or checksum: many types of exception
        raise InputError(
            f"{archive} could not be downloaded ({error_reason(error)}): download and unpack it manually"
        ) from None


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
        raise InputError(f"{path} has an object of class {unknown[0]!r}, which is not one of VOC's 20 classes")
    return tuple(sorted(VOC_CLASSES.index(name) for name in names))


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
