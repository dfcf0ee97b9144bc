"""Create the pseudo labels of the simple images by thresholding saliency maps.

    python gen_sal2gt.py --saliency-dir saliency --list-dir dataset/voc_list

For every image with exactly one class, reads the saliency map ID.png or ID.jpg (8-bit or 16-bit grey, of any size),
resizes it bilinearly to the image and writes ID.png to --out: class + 1 where the saliency is at least --foreground,
0 where it is below --background, and the ignore label in between. A map without foreground gives no pseudo label, and
its image joins the complex list. With --list-dir, simple_list.txt and complex_list.txt are written too (for VOC,
prepare_voc.py also does this).

If interrupted, rerun the command to resume; --overwrite recreates existing labels.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.checks import check_start
from datasets.images import open_image, read_image
from datasets.labels import save_labels
from datasets.lists import Entry, image_path, read_list
from datasets.options import add_data_options
from datasets.splits import write_split
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import claim_folder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = add_data_options(parser, names=False).add_argument
    add(
        "--data-list",
        type=Path,
        default=Path("dataset/voc_list/train_cls.txt"),
        help="image list with classes",
    )
    add("--saliency-dir", type=Path, required=True, help="saliency maps, ID.png or ID.jpg")
    add("--skip-missing", action="store_true", help="skip images without a saliency map")
    add = parser.add_argument_group("labels").add_argument
    add("--foreground", type=cli.positive, default=0.6, help="minimum saliency (0..1) of the foreground")
    add("--background", type=cli.non_negative, default=0.3, help="saliency (0..1) below which is background")
    add("--out", type=Path, default=Path("dataset/sal2gt"), help="directory of the labels")
    add("--overwrite", action="store_true", help="recreate existing labels")
    add("--list-dir", type=Path, help="write simple_list.txt and complex_list.txt there")
    return parser.parse_args(argv)


def find_maps(folder: Path, entries: Sequence[Entry], skip_missing: bool) -> dict[str, Path | None]:
    """The saliency map of each image, ID.png or ID.jpg.

    Raises:
        InputError: there is none for an image, and `skip_missing` does not replace it by None.
    """
    maps: dict[str, Path | None] = {}
    for entry in entries:
        candidates = (folder / f"{entry.id}{suffix}" for suffix in (".png", ".jpg"))
        maps[entry.id] = next((path for path in candidates if path.exists()), None)
    missing = [id_ for id_, path in maps.items() if path is None]
    if missing and not skip_missing:
        raise InputError(
            f"{folder / missing[0]}.png (or .jpg) not found, the first of {len(missing)} missing saliency maps:"
            " create them, or use --skip-missing"
        )
    return maps


def read_saliency(path: Path) -> np.ndarray:
    """Read a saliency map as H x W uint8 or uint16.

    Raises:
        InputError: the file is damaged or in colour.
    """
    with open_image(path, if_damaged=": create it again") as image:
        is_16_bit = image.mode.startswith("I")  # I or I;16, depending on the version of Pillow
        saliency = np.array(image if is_16_bit or image.mode == "L" else image.convert("RGB"))
    if saliency.ndim == 3:  # grey is often stored as three equal channels
        if np.ptp(saliency, axis=2).any():
            raise InputError(f"{path} is in colour: saliency maps must be 8-bit or 16-bit grey")
        saliency = saliency[..., 0]
    return saliency.astype(np.uint16 if is_16_bit else np.uint8)


def paint(
    saliency: np.ndarray,
    size: tuple[int, int],
    label: int,
    thresholds: tuple[float, float],
    ignore_label: int,
) -> np.ndarray:
    """Threshold a saliency map to the pseudo label of an image.

    Args:
        saliency: uint8 or uint16 of any height and width; the maximum of the type means 1.
        size: (height, width) of the image.
        label: label of the foreground.
        thresholds: background is below the first, foreground at or above the second.
        ignore_label: label of the pixels in between.

    Returns:
        H x W uint8.
    """
    maximum = np.iinfo(saliency.dtype).max
    resized = cv2.resize(saliency, size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32) / maximum
    labels = np.full(size, ignore_label, np.uint8)
    labels[resized < thresholds[0]] = 0
    labels[resized >= thresholds[1]] = label
    return labels


def make_label(entry: Entry, path: Path, args: argparse.Namespace) -> str:
    """Write the pseudo label of an image, if its map has foreground; returns what was done."""
    picture = image_path(args.data_dir / "JPEGImages", entry.id)
    size = read_image(picture).shape[:2]
    label, target = entry.classes[0] + 1, args.out / f"{entry.id}.png"
    saliency = read_saliency(path)
    if saliency.shape == size[::-1] != size:
        with open_image(picture) as image:
            if image.size == size:  # (width, height) before, (height, width) after the EXIF rotation
                raise InputError(
                    f"{path} is not rotated, but {picture} is by its EXIF orientation: rotate the map"
                )
    labels = paint(saliency, size, label, (args.background, args.foreground), args.ignore_label)
    if (labels == label).any():
        save_labels(target, labels)
        return "created"
    target.unlink(missing_ok=True)  # with --overwrite, one of other thresholds may exist
    tqdm.write(f"{path}: no pixel reaches --foreground {args.foreground}, no label written")
    return "without foreground"


def generate(args: argparse.Namespace) -> None:
    if not args.background <= args.foreground <= 1:
        raise InputError(
            f"--background {args.background} and --foreground {args.foreground}: the first must be at most the"
            " second, and the second at most 1"
        )
    entries = read_list(args.data_list, args.num_classes)
    single = [entry for entry in entries if len(set(entry.classes)) == 1]
    image_dir = args.data_dir / "JPEGImages"
    check_start(args.data_list, entries, [image_path(image_dir, entry.id) for entry in single])
    todo = [e for e in single if args.overwrite or not (args.out / f"{e.id}.png").exists()]
    maps = find_maps(args.saliency_dir, todo, args.skip_missing)
    made_by = {
        "saliency_dir": str(args.saliency_dir.resolve()),
        "foreground": args.foreground,
        "background": args.background,
    }
    claim_folder(args.out, made_by, "*.png", args.overwrite)
    counts: Counter[str] = Counter()
    with tqdm(todo, desc="labels", unit="img") as bar:
        for entry in bar:
            path = maps[entry.id]
            counts["without map" if path is None else make_label(entry, path, args)] += 1
    existing = len(single) - len(todo)
    print(
        f"{args.out}: {counts['created'] + existing:,} images labelled ({existing:,} already existed),"
        f" {counts['without foreground']:,} without foreground, {counts['without map']:,} without a map,"
        f" {len(entries) - len(single):,} skipped (several classes)"
    )
    if args.list_dir is not None:
        write_split(args.list_dir, entries, args.out, args.num_classes, args.ignore_label)


if __name__ == "__main__":
    run_script(lambda: generate(parse_args()))
