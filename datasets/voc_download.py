"""Locates and downloads the unpacked archives of PASCAL VOC 2012 and SBD."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from datasets.voc_sbd import SBD_ARCHIVE, VOC_ARCHIVE, load_scipy
from utils.core.errors import InputError
from utils.core.files import error_reason, not_found


def _first_folder(candidates: Iterable[Path], inside: str) -> Path | None:
    """The first candidate that has the subdirectory `inside`; None if none has."""
    return next((folder for folder in candidates if (folder / inside).is_dir()), None)


def find_devkit(path: Path) -> Path | None:
    """The directory VOC2012 at or below `path`; None if there is none with lists."""
    return _first_folder((path, path / "VOC2012", path / "VOCdevkit" / "VOC2012"), "ImageSets/Segmentation")


def find_sbd(path: Path) -> Path | None:
    """SBD's directory with cls/ at or below `path`; None if there is none."""
    return _first_folder((path, path / "dataset", path / "benchmark_RELEASE" / "dataset"), "cls")


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
