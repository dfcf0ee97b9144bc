"""From the official archives to what training reads: the label folder and the lists.

    python prepare_voc.py --devkit VOCdevkit/VOC2012 --sbd benchmark_RELEASE
    python prepare_voc.py --download

Makes SegmentationClassAug/ID.png under --devkit (or --out): VOC's own masks where VOC has them, SBD's elsewhere, with
255 for VOC's cream-coloured borders. And in --list-dir:

    train_aug.txt    VOC's segmentation training images and SBD's, without VOC's validation images, sorted
    train_cls.txt    the same with their classes: every object of Annotations/ID.xml, difficult ones included
    val.txt          VOC's segmentation validation images
    simple_list.txt  of train_cls, those with one class and a pseudo label with foreground in --sal2gt
    complex_list.txt all others

The last two wait for the pseudo labels: run gen_sal2gt.py, then this script again. Run again, it makes what is
missing and touches no mask that is there; without --sbd, masks that are there already count as SBD's. Reading SBD's
masks needs scipy, --download (3.5 GB) torchvision.

VOC's masks are hard-linked where the file system allows it: replace such a file, never write into it, or VOC's own
mask changes with it. (Every script here replaces.)
"""

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from datasets import voc_sbd
from datasets.labels import save_labels
from datasets.lists import Entry, read_list
from datasets.splits import write_list, write_split
from datasets.voc_sbd import SBD_ARCHIVE, VOC_ARCHIVE
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import atomic_write

PUBLISHED = {"train_cls": 10_582, "simple": 6_681, "complex": 3_901, "val": 1_449}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--devkit", type=Path, default=Path("dataset/VOC2012"), help="folder VOC2012, or VOCdevkit around it")
    add("--sbd", type=Path, help="folder benchmark_RELEASE, its dataset, or the one around it")
    add("--out", type=Path, help="folder of the masks (SegmentationClassAug in --devkit, unless given)")
    add("--list-dir", type=Path, default=Path("dataset/voc_list"), help="folder of the lists")
    add("--sal2gt", type=Path, default=Path("dataset/sal2gt"), help="pseudo labels, ID.png")
    add(
        "--download", action="store_true", help="fetch what is missing to --devkit, and --sbd (SBD beside it)"
    )
    return parser.parse_args(argv)


def first_folder(candidates: Iterable[Path], inside: str) -> Path | None:
    return next((folder for folder in candidates if (folder / inside).is_dir()), None)


def find_devkit(path: Path) -> Path | None:
    """The folder VOC2012 at or below a path; None where it has no lists."""
    return first_folder((path, path / "VOC2012", path / "VOCdevkit" / "VOC2012"), "ImageSets/Segmentation")


def find_sbd(path: Path) -> Path | None:
    """SBD's folder with cls/ at or below a path."""
    return first_folder((path, path / "dataset", path / "benchmark_RELEASE" / "dataset"), "cls")


def download(devkit: Path, sbd: Path) -> None:
    """Fetch VOC 2012 to `devkit` and SBD to `sbd` through torchvision, each unless it is there.

    Raises:
        InputError: torchvision cannot be imported, or a download fails.
    """
    try:
        from torchvision.datasets import SBDataset, VOCSegmentation
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise InputError(
            f"--download needs torchvision, which cannot be imported ({voc_sbd.reason(error)}): install it, or fetch"
            f" {VOC_ARCHIVE} and SBD's {SBD_ARCHIVE} and give --devkit and --sbd"
        ) from None
    if find_sbd(sbd) is None:
        voc_sbd.load_scipy()  # SBDataset wants it too: say so before gigabytes are fetched
    if find_devkit(devkit) is None:
        if devkit.exists():
            raise InputError(
                f"{devkit} holds something other than VOC 2012: name another --devkit to download to"
            )
        fetch(VOC_ARCHIVE, lambda: VOCSegmentation(devkit.parent, "2012", "trainval", download=True))
        if find_devkit(devkit) is None:
            os.rename(devkit.parent / "VOCdevkit" / "VOC2012", devkit)
    if find_sbd(sbd) is None:
        fetch(SBD_ARCHIVE, lambda: SBDataset(sbd, "train", mode="segmentation", download=True))


def fetch(archive: str, start: Callable[[], object]) -> None:
    try:
        start()
    except Exception as error:  # network, disk, archive, checksum: each library has its own
        raise InputError(
            f"{archive} could not be downloaded ({voc_sbd.reason(error)}): fetch and unpack it yourself"
        ) from None


def voc_ids(devkit: Path, name: str) -> list[str]:
    path = devkit / "ImageSets" / "Segmentation" / f"{name}.txt"
    if not path.is_file():
        raise InputError(f"{path} not found: unpack {VOC_ARCHIVE} again")
    return [entry.id for entry in read_list(path, voc_sbd.NUM_CLASSES, labelled=False)]


def sbd_ids(sbd: Path) -> list[str]:
    """All images of SBD: those of its two lists, or, where one is missing, all that have a mask."""
    lists = [sbd / "train.txt", sbd / "val.txt"]
    if all(path.is_file() for path in lists):
        return [entry.id for path in lists for entry in read_list(path, voc_sbd.NUM_CLASSES, labelled=False)]
    return visible(sbd / "cls", ".mat")


def visible(folder: Path, ending: str) -> list[str]:
    return [path.stem for path in folder.glob(f"*{ending}") if not path.name.startswith(".")]


def link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        with atomic_write(target) as file:
            file.write(source.read_bytes())


def make_mask(source: Path, target: Path, image: Path, loadmat: Callable | None) -> None:
    """One mask from VOC's .png or, by scipy's `loadmat`, from SBD's .mat; it must have its image's size."""
    size = voc_sbd.image_size(image)
    if source.suffix == ".mat":
        save_labels(target, voc_sbd.checked(voc_sbd.sbd_mask(source, loadmat), size, source))
        return
    labels, as_it_is = voc_sbd.voc_mask(source)
    labels = voc_sbd.checked(labels, size, source)
    if as_it_is:
        link_or_copy(source, target)
    else:
        save_labels(target, labels)


def make_masks(sources: dict[str, Path], devkit: Path, out: Path) -> None:
    """Make the masks that are missing in `out`, from the file given for each image."""
    todo = {id_: path for id_, path in sources.items() if not (out / f"{id_}.png").exists()}
    missing = [path for path in todo.values() if not path.exists()]
    if missing:
        archive = SBD_ARCHIVE if missing[0].suffix == ".mat" else VOC_ARCHIVE
        raise InputError(f"{missing[0]} not found, first of {len(missing)} missing: unpack {archive} again")
    of_sbd = sum(path.suffix == ".mat" for path in todo.values())
    loadmat = voc_sbd.load_scipy() if of_sbd else None
    with tqdm(todo.items(), desc="masks", unit="img") as bar:
        for id_, source in bar:
            make_mask(source, out / f"{id_}.png", devkit / "JPEGImages" / f"{id_}.jpg", loadmat)
    print(
        f"{out}: {len(todo) - of_sbd:,} masks of VOC and {of_sbd:,} of SBD made,"
        f" {len(sources) - len(todo):,} were there"
    )


def mask_sources(
    images: Sequence[str], segmented: set[str], devkit: Path, sbd: Path | None
) -> dict[str, Path]:
    """The file of each image's mask: VOC's, which every image of its `segmented` has, else SBD's."""
    sources = {id_: devkit / "SegmentationClass" / f"{id_}.png" for id_ in images}
    if sbd is not None:  # without it, the only images of SBD are those whose masks are made
        other = [id_ for id_, path in sources.items() if id_ not in segmented and not path.exists()]
        sources |= {id_: sbd / "cls" / f"{id_}.mat" for id_ in other}
    return sources


def find_folders(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The folders VOC2012, and SBD's with cls/ or None.

    Raises:
        InputError: --devkit or --sbd is not there, or is something else.
    """
    devkit, sbd = find_devkit(args.devkit), None
    if devkit is None:
        wrong = "has no ImageSets/Segmentation" if args.devkit.exists() else "not found"
        raise InputError(
            f"{args.devkit} {wrong}: unpack {VOC_ARCHIVE} and name its VOC2012, or use --download"
        )
    if args.sbd is not None:
        sbd = find_sbd(args.sbd)
        if sbd is None:
            raise InputError(
                f"{args.sbd} has no benchmark_RELEASE/dataset/cls: unpack SBD's {SBD_ARCHIVE} there"
            )
    return devkit, sbd


def prepare(args: argparse.Namespace) -> None:
    if args.download:
        args.sbd = args.sbd or args.devkit.parent / "SBD"
        download(args.devkit, args.sbd)
    devkit, sbd = find_folders(args)
    out = args.out or devkit / "SegmentationClassAug"
    if out.resolve() == (devkit / "SegmentationClass").resolve():
        raise InputError(f"--out {out} holds VOC's own masks: name another folder")
    train, val = voc_ids(devkit, "train"), voc_ids(devkit, "val")
    more = sbd_ids(sbd) if sbd else visible(out, ".png")
    images = sorted({*train, *more} - {*val})
    # `with`: a bar must be closed before an error's line is printed.
    with tqdm(images, desc="classes", unit="img") as bar:
        entries = [Entry(id_, voc_sbd.image_classes(devkit / "Annotations" / f"{id_}.xml")) for id_ in bar]
    make_masks(mask_sources([*images, *val], {*train, *val}, devkit, sbd), devkit, out)
    write_list(args.list_dir / "train_aug.txt", [Entry(id_) for id_ in images])
    write_list(args.list_dir / "train_cls.txt", entries)
    write_list(args.list_dir / "val.txt", [Entry(id_) for id_ in val])
    counts = {"train_cls": len(entries), "val": len(val)}
    if visible(args.sal2gt, ".png"):
        simple, complex_ = write_split(args.list_dir, entries, args.sal2gt, voc_sbd.NUM_CLASSES)
        counts |= {"simple": len(simple), "complex": len(complex_)}
    else:
        print(
            f"{args.sal2gt} has no pseudo labels yet, so simple_list.txt and complex_list.txt are not written: make"
            " them from saliency maps with gen_sal2gt.py, then run prepare_voc.py again"
        )
    print_counts(counts)


def print_counts(counts: dict[str, int]) -> None:
    print(f"{'list':10}{'images':>10}{'published':>12}")
    for name, published in PUBLISHED.items():
        found = f"{counts[name]:,}" if name in counts else "-"
        print(f"{name:10}{found:>10}{published:>12,}")


if __name__ == "__main__":
    run_script(lambda: prepare(parse_args()))
