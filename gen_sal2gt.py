"""Pseudo labels of the simple images: saliency maps, painted with the one class that the image has.

    python gen_sal2gt.py --saliency-dir saliency --list-dir dataset/voc_list

Reads ID.png or ID.jpg, 8 or 16 bits of grey and any size, of every image with exactly one class, resizes the map
to the image (bilinear) and writes ID.png to --out: class + 1 where the map reaches --foreground, 0 where it stays
below --background, 255 between. A map that reaches --foreground nowhere gives no label, which leaves its image to the
complex list. With --list-dir, simple_list.txt and complex_list.txt are written too (for VOC, prepare_voc.py does it
as well).

A stopped run goes on where it was; --overwrite makes labels again that are there already.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.checks import check_start
from datasets.labels import save_labels
from datasets.lists import Entry, image_path, read_list
from datasets.options import add_data_options
from datasets.splits import write_split
from datasets.transforms import is_turned, read_image
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import claim_folder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = add_data_options(parser, names=False).add_argument
    add("--data-list", type=Path, default=Path("dataset/voc_list/train_cls.txt"), help="images and classes")
    add("--saliency-dir", type=Path, required=True, help="saliency maps, ID.png or ID.jpg")
    add("--skip-missing", action="store_true", help="go on without the maps that are not there")
    add = parser.add_argument_group("labels").add_argument
    add(
        "--foreground",
        type=cli.positive,
        default=0.6,
        help="saliency, 0..1, from which on it is the class",
    )
    add(
        "--background",
        type=cli.non_negative,
        default=0.3,
        help="saliency, 0..1, below which it is background",
    )
    add("--out", type=Path, default=Path("dataset/sal2gt"), help="folder of the labels")
    add("--overwrite", action="store_true", help="make labels again that are there already")
    add("--list-dir", type=Path, help="write simple_list.txt and complex_list.txt there")
    return parser.parse_args(argv)


def find_map(folder: Path, id_: str) -> Path | None:
    return next((path for path in (folder / f"{id_}.png", folder / f"{id_}.jpg") if path.exists()), None)


def read_saliency(path: Path) -> np.ndarray:
    """H x W, uint8 or uint16.

    Raises:
        InputError: it is no picture, or one in colour.
    """
    try:
        with Image.open(path) as picture:
            deep = picture.mode.startswith("I")  # 16 bits; Pillow's name for them has changed
            saliency = np.array(picture if deep or picture.mode == "L" else picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path} is no picture that can be read ({text}): make it again") from None
    if saliency.ndim == 3:  # grey is often stored as three equal channels
        if np.ptp(saliency, axis=2).any():
            raise InputError(f"{path} is in colour: a saliency map is 8 or 16 bits of grey")
        saliency = saliency[..., 0]
    return saliency.astype(np.uint16 if deep else np.uint8)


def paint(
    saliency: np.ndarray,
    size: tuple[int, int],
    label: int,
    thresholds: tuple[float, float],
    ignore_label: int,
) -> np.ndarray:
    """The pseudo label of one image.

    Args:
        saliency: a map of any height and width; its type's maximum is saliency 1.
        size: the image's (height, width).
        label: what the foreground becomes.
        thresholds: the background lies below the first, the foreground at or above the second.
        ignore_label: what lies between.

    Returns:
        H x W uint8.
    """
    top = np.iinfo(saliency.dtype).max
    share = cv2.resize(saliency, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32) / top
    labels = np.full(size, ignore_label, np.uint8)
    labels[share < thresholds[0]] = 0
    labels[share >= thresholds[1]] = label
    return labels


def make_label(entry: Entry, path: Path, args: argparse.Namespace) -> str:
    """Write one label, or none where the map has no foreground; returns which."""
    picture = image_path(args.data_dir / "JPEGImages", entry.id)
    size = read_image(picture).shape[:2]
    label, target = entry.classes[0] + 1, args.out / f"{entry.id}.png"
    saliency = read_saliency(path)
    if saliency.shape == size[::-1] and size[0] != size[1]:
        with Image.open(picture) as image:
            if is_turned(image):
                raise InputError(f"{path} lies on its side: turn it as the EXIF data of {picture} turn that")
    labels = paint(saliency, size, label, (args.background, args.foreground), args.ignore_label)
    if (labels == label).any():
        save_labels(target, labels)
        return "made"
    target.unlink(missing_ok=True)  # with --overwrite, a label of other thresholds
    tqdm.write(f"{path}: nothing reaches --foreground {args.foreground}, so no label")
    return "without foreground"


def generate(args: argparse.Namespace) -> None:
    if not args.background <= args.foreground <= 1:
        raise InputError(
            f"--background {args.background} and --foreground {args.foreground}: the first must not exceed the"
            " second, nor that 1"
        )
    entries = read_list(args.data_list, args.num_classes)
    single = [entry for entry in entries if len(set(entry.classes)) == 1]
    image_dir = args.data_dir / "JPEGImages"
    check_start(args.data_list, entries, [image_path(image_dir, entry.id) for entry in single])
    todo = [e for e in single if args.overwrite or not (args.out / f"{e.id}.png").exists()]
    maps = {entry.id: find_map(args.saliency_dir, entry.id) for entry in todo}
    missing = [id_ for id_, path in maps.items() if path is None]
    if missing and not args.skip_missing:
        raise InputError(
            f"{args.saliency_dir / missing[0]}.png (or .jpg) not found, first of {len(missing)} saliency maps"
            " missing: make them, or give --skip-missing"
        )
    made_by = {
        "saliency_dir": str(args.saliency_dir.resolve()), "foreground": args.foreground, "background": args.background
    }  # fmt: skip
    claim_folder(args.out, made_by, "*.png", args.overwrite)
    counts = Counter()
    with tqdm(todo, desc="labels", unit="img") as bar:
        for entry in bar:
            path = maps[entry.id]
            counts["without map" if path is None else make_label(entry, path, args)] += 1
    report(args, entries, counts, len(single) - len(todo), len(entries) - len(single))


def report(
    args: argparse.Namespace, entries: Sequence[Entry], counts: Counter, there: int, several: int
) -> None:
    print(
        f"{args.out}: {counts['made'] + there:,} images labelled ({there:,} were there),"
        f" {counts['without foreground']:,} without foreground, {counts['without map']:,} without a map,"
        f" {several:,} skipped (several classes)"
    )
    if args.list_dir is not None:
        write_split(args.list_dir, entries, args.out, args.num_classes, args.ignore_label)


if __name__ == "__main__":
    run_script(lambda: generate(parse_args()))
