"""Finds, downloads and reads the unpacked archives of PASCAL VOC 2012 and SBD."""

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError, error_reason, import_optional

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


def download(devkit: Path, sbd: Path) -> None:
    """Download VOC 2012 to `devkit` and SBD to `sbd` with torchvision, unless they exist."""
    by_hand = f"download {VOC_ARCHIVE} and SBD's {SBD_ARCHIVE} and use --devkit and --sbd"
    torchvision_datasets = import_optional("torchvision.datasets", f"install it for --download, or {by_hand}")
    if find_devkit(devkit) is None and devkit.exists():
        raise InputError(f"{devkit} contains something other than VOC 2012: choose another --devkit to download to")
    archive = VOC_ARCHIVE
    try:
        if find_devkit(devkit) is None:
            torchvision_datasets.VOCSegmentation(devkit.parent, "2012", "trainval", download=True)
        if find_devkit(devkit) is None:
            os.rename(devkit.parent / "VOCdevkit" / "VOC2012", devkit)
        archive = SBD_ARCHIVE
        if find_sbd(sbd) is None:
            torchvision_datasets.SBDataset(sbd, "train", mode="segmentation", download=True)
    except Exception as error:  # network, disk, archive or checksum: many types of exception
        reason = error_reason(error)
        raise InputError(f"{archive} could not be downloaded ({reason}): download and unpack it manually") from None


def image_classes(path: Path) -> tuple[int, ...]:
    """The sorted 0-based classes of the objects in an XML annotation."""
    numbers = {name: c for c, name in enumerate(VOC_CLASSES)}
    try:
        # Direct children only: the parts of an object (head, hand, foot) have names too.
        objects = ElementTree.parse(path).getroot().findall("object")
        return tuple(sorted({numbers[str(thing.findtext("name")).strip()] for thing in objects}))
    except FileNotFoundError:
        raise InputError(f"{path} not found{UNPACK_VOC}; every training image needs an annotation") from None
    except (OSError, ValueError, KeyError, ElementTree.ParseError) as error:
        raise InputError(f"{path} is no annotation of VOC's classes ({error_reason(error)}){UNPACK_VOC}") from None


def sbd_mask(path: Path) -> np.ndarray:
    """H x W labels from a mask of SBD, a .mat file with a struct GTcls."""
    scipy_io = import_optional("scipy.io", "SBD's masks need it: pip install scipy")
    try:
        labels = scipy_io.loadmat(path, variable_names=("GTcls",))["GTcls"]["Segmentation"][0, 0]
        if labels.dtype.kind not in "iu":
            raise TypeError(f"not integers, but {labels.dtype}")
    except Exception as error:  # loadmat can raise any exception on a damaged file
        raise InputError(
            f"{path}: GTcls.Segmentation cannot be read ({type(error).__name__}: {error_reason(error)}): unpack"
            f" {SBD_ARCHIVE} again"
        ) from None
    return labels
