"""Prepare PASCAL VOC 2012 and SBD for training: create the label directory and the image lists.

    python prepare_voc.py --devkit VOCdevkit/VOC2012 --sbd benchmark_RELEASE
    python prepare_voc.py --download

Creates SegmentationClassAug/ID.png in --devkit (or --out), with VOC's masks where available and SBD's otherwise.
VOC's cream-coloured borders have the label 255. Also writes to --list-dir:

    train_aug.txt     segmentation training images of VOC and of SBD, without VOC's validation images, sorted
    train_cls.txt     the same with their classes: all objects in Annotations/ID.xml, difficult ones included
    val.txt           VOC's segmentation validation images
    test.txt          VOC's segmentation test images, if VOC2012test.tar is unpacked in --devkit as well
    simple_list.txt   images of train_cls with one class, and a pseudo label with foreground in --sal2gt
    complex_list.txt  all other images of train_cls

The last two need the pseudo labels: run gen_sal2gt.py, then this script again. When rerun, the script creates what is
missing and leaves existing masks unchanged; without --sbd, existing masks count as SBD's. Where a list of
other contents exists, the new one is written beside it as NAME.new.txt, unless --overwrite is given. SBD's masks need
scipy, and --download (3.5 GB) needs torchvision.

VOC's masks are hard-linked if the file system supports it. Replace such files instead of modifying them in place, or
the originals change too. (All scripts here replace files.)
"""

import argparse
import contextlib
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets import voc_archives as archives
from datasets.checks import require_files
from datasets.images import open_image, read_size
from datasets.labels import read_label, save_labels, validate_labels
from datasets.lists import Entry, read_list, write_list, write_split
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import not_found

PUBLISHED = {"train_cls": 10_582, "simple": 6_681, "complex": 3_901, "val": 1_449, "test": 1_456}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--devkit", type=Path, default=Path("dataset/VOC2012"), help="directory VOC2012, or its parent VOCdevkit")
    add("--sbd", type=Path, help="directory benchmark_RELEASE, its parent or its subdirectory dataset")
    add("--out", type=Path, help="directory of the masks (default: SegmentationClassAug in --devkit)")
    add("--list-dir", type=Path, default=Path("dataset/voc_list"), help="directory of the lists")
    add("--sal2gt", type=Path, default=Path("dataset/sal2gt"), help="pseudo labels, ID.png")
    add("--overwrite", action="store_true", help="replace existing lists that have other contents")
    add("--download", action="store_true", help="download missing data to --devkit and --sbd (or SBD next to it)")
    return parser.parse_args(argv)


def read_ids(path: Path) -> list[str]:
    """The images of one of the lists in the archives."""
    if not path.is_file():
        raise InputError(f"{path} not found{archives.UNPACK_VOC}")
    return [entry.id for entry in read_list(path, archives.NUM_CLASSES, labelled=False)]


def sbd_ids(sbd: Path) -> list[str]:
    """All images of SBD: those in its two lists or, if one is missing, those with a mask."""
    lists = [sbd / "train.txt", sbd / "val.txt"]
    if all(path.is_file() for path in lists):
        return [id_ for path in lists for id_ in read_ids(path)]
    return visible(sbd / "cls", ".mat")


def visible(folder: Path, suffix: str) -> list[str]:
    """Stems of the files in a directory that have the suffix and are not hidden."""
    return [path.stem for path in folder.glob(f"*{suffix}") if not path.name.startswith(".")]


def make_mask(source: Path, target: Path, image: Path) -> None:
    """Create one mask from VOC's .png or SBD's .mat, which must have the size of its image."""
    (width, height), _ = read_size(image, archives.UNPACK_VOC)
    size = height, width
    if source.suffix == ".mat":
        save_labels(target, validate_labels(archives.sbd_mask(source), source, archives.NUM_CLASSES, size))
        return
    labels = read_label(source, archives.NUM_CLASSES, size)
    with open_image(source) as mask:
        as_stored = np.array_equal(np.array(mask), labels)
    if as_stored:
        with contextlib.suppress(OSError):  # on another file system, or links are not supported
            os.link(source.resolve(), target)
            return
    save_labels(target, labels)


def make_masks(images: list[str], segmented: set[str], devkit: Path, sbd: Path | None, out: Path) -> None:
    """Create the masks that are missing in `out`: VOC's where there is one or should be (`segmented`), else SBD's."""
    sources = {}
    for id_ in images:
        of_voc = devkit / "SegmentationClass" / f"{id_}.png"
        if (out / of_voc.name).exists():
            continue
        if sbd is None or id_ in segmented or of_voc.exists():  # without SBD, the masks of its images exist
            sources[id_] = of_voc
        else:
            sources[id_] = sbd / "cls" / f"{id_}.mat"
    of_sbd = [path for path in sources.values() if path.suffix == ".mat"]
    require_files({"VOC mask": [path for path in sources.values() if path.suffix == ".png"]}, archives.UNPACK_VOC)
    require_files({"SBD mask": of_sbd}, f": unpack {archives.SBD_ARCHIVE} again")
    out.mkdir(parents=True, exist_ok=True)
    for id_, source in tqdm(sources.items(), desc="masks", unit="img"):
        make_mask(source, out / f"{id_}.png", devkit / "JPEGImages" / f"{id_}.jpg")
    print(
        f"{out}: {len(sources) - len(of_sbd):,} masks of VOC and {len(of_sbd):,} of SBD created,"
        f" {len(images) - len(sources):,} already existed"
    )


def prepare(args: argparse.Namespace) -> None:
    if args.download:
        args.sbd = args.sbd or args.devkit.parent / "SBD"
        archives.download(args.devkit, args.sbd)
    devkit, sbd = archives.find_devkit(args.devkit), args.sbd and archives.find_sbd(args.sbd)
    if devkit is None:
        problem = f"{args.devkit} has no ImageSets/Segmentation" if args.devkit.exists() else not_found(args.devkit)
        raise InputError(f"{problem}: unpack {archives.VOC_ARCHIVE} and pass its VOC2012, or use --download")
    if args.sbd and sbd is None:
        raise InputError(
            f"{args.sbd} has no benchmark_RELEASE/dataset/cls: unpack SBD's {archives.SBD_ARCHIVE} there"
        )
    out = args.out or devkit / "SegmentationClassAug"
    if out.resolve() == (devkit / "SegmentationClass").resolve():
        raise InputError(f"--out {out} contains VOC's own masks: choose another directory")
    official = devkit / "ImageSets" / "Segmentation"
    train, val = read_ids(official / "train.txt"), read_ids(official / "val.txt")
    images = sorted({*train, *(sbd_ids(sbd) if sbd else visible(out, ".png"))} - {*val})
    annotations = {id_: devkit / "Annotations" / f"{id_}.xml" for id_ in images}
    bar = tqdm(annotations.items(), desc="classes", unit="img")
    train_cls = [Entry(id_, archives.image_classes(path)) for id_, path in bar]
    make_masks([*images, *val], {*train, *val}, devkit, sbd, out)
    lists = {"train_aug": [Entry(id_) for id_ in images], "train_cls": train_cls, "val": [Entry(id_) for id_ in val]}
    if (official / "test.txt").exists():
        test = read_ids(official / "test.txt")
        lists["test"] = [Entry(id_) for id_ in test]
        pictures = [devkit / "JPEGImages" / f"{id_}.jpg" for id_ in test]
        require_files({"test image": pictures}, ": unpack VOC2012test.tar again")
    for name, listed in lists.items():
        write_list(args.list_dir / f"{name}.txt", listed, args.overwrite)
    counts = {name: len(listed) for name, listed in lists.items()}
    if visible(args.sal2gt, ".png"):
        parts = write_split(args.list_dir, train_cls, args.sal2gt, archives.NUM_CLASSES, overwrite=args.overwrite)
        counts |= zip(("simple", "complex"), map(len, parts))
    else:
        print(
            f"{args.sal2gt} has no pseudo labels yet, so simple_list.txt and complex_list.txt are not written: create"
            " pseudo labels from saliency maps with gen_sal2gt.py, then run prepare_voc.py again"
        )
    print(f"{'list':10}{'images':>10}{'published':>12}")
    for name, published in PUBLISHED.items():
        found = f"{counts[name]:,}" if name in counts else "-"
        print(f"{name:10}{found:>10}{published:>12,}")


if __name__ == "__main__":
    run_script(lambda: prepare(parse_args()))
