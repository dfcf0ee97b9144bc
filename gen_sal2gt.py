"""Create the pseudo labels of the simple images by thresholding saliency maps.

    python gen_sal2gt.py --saliency-dir saliency --list-dir dataset/voc_list

For every image with exactly one class, reads the saliency map ID.png or ID.jpg, of any size: 8-bit or 16-bit grey, or
the alpha channel of an image that has the map there. Resizes it bilinearly to the image and writes ID.png to --out:
class + 1 where the saliency is at least --foreground, 0 where it is below --background, and the ignore label in
between. A map without foreground gives no pseudo label, and its image joins the complex list. Suspicious maps, such
as inverted ones, are reported.

With --list-dir, simple_list.txt and complex_list.txt are written too (for VOC, prepare_voc.py also does this). Where
lists of other contents exist, the new ones are written beside them as NAME.new.txt, unless --overwrite is given.

If interrupted, rerun the command to resume; --overwrite replaces labels made with other settings or from other maps.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.checks import WARNING, check_start, warn
from datasets.images import open_image, read_size
from datasets.labels import save_labels
from datasets.lists import Entry, image_path, read_list, unique, write_split
from datasets.options import add_data_options
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import Results, fingerprint

BORDER = 0.9  # of the border as foreground are suspicious; objects rarely touch more than two sides


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = add_data_options(parser, names=False).add_argument
    default = Path("dataset/voc_list/train_cls.txt")
    add("--data-list", type=Path, default=default, help="image list with classes")
    add("--saliency-dir", type=Path, required=True, help="saliency maps, ID.png or ID.jpg")
    add("--skip-missing", action="store_true", help="skip images without a saliency map")
    add = parser.add_argument_group("labels").add_argument
    add("--foreground", type=cli.positive, default=0.6, help="minimum saliency (0..1) of the foreground")
    add("--background", type=cli.non_negative, default=0.3, help="saliency (0..1) below which is background")
    add("--out", type=Path, default=Path("dataset/sal2gt"), help="directory of the labels")
    add("--overwrite", action="store_true", help="replace labels made with other settings, and lists")
    add("--list-dir", type=Path, help="write simple_list.txt and complex_list.txt there")
    return parser.parse_args(argv)


def find_maps(folder: Path, entries: Sequence[Entry], skip_missing: bool) -> dict[str, Path]:
    """The saliency map of each image that has one, ID.png or ID.jpg; InputError if one has none and may not."""
    candidates = [(e.id, folder / f"{e.id}{suffix}") for e in entries for suffix in (".jpg", ".png")]
    maps = {id_: path for id_, path in candidates if path.exists()}
    missing = [entry.id for entry in entries if entry.id not in maps]
    if missing and not skip_missing:
        raise InputError(
            f"{folder / missing[0]}.png (or .jpg) not found, the first of {len(missing)} missing saliency maps:"
            " create them, or use --skip-missing"
        )
    return maps


def read_saliency(path: Path) -> np.ndarray:
    """Read a saliency map as H x W uint8 or uint16, from the alpha channel if the map is there."""
    with open_image(path, if_damaged=": create it again") as image:
        if image.mode.startswith("I"):  # I or I;16, depending on the version of Pillow
            values = np.array(image)
            if values.min() >= 0 and values.max() < 1 << 16:
                return values.astype(np.uint16)
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{path} has values of 32 bits: saliency maps must be 8-bit or 16-bit grey")
        pixels = np.array(image.convert("RGBA"))
    colour, alpha = pixels[..., :3], pixels[..., 3]
    saliency = colour[..., 0]
    in_colour = np.ptp(colour, axis=2).any()
    # A map with transparent black is still in the grey values. Otherwise alpha that varies is the map, of an object
    # that is cut out or painted in one colour.
    if np.ptp(alpha) and (in_colour or not np.array_equal(alpha, np.where(saliency > 0, 255, 0))):
        return alpha.copy()
    if in_colour:
        raise InputError(f"{path} is in colour: saliency maps must be 8-bit or 16-bit grey")
    return saliency.copy()


def find_problem(saliency: np.ndarray, foreground: np.ndarray) -> str | None:
    """What is suspicious about a map and the foreground found in it; None if nothing is."""
    maximum = int(saliency.max())
    if 0 < maximum <= (1 if saliency.dtype == np.uint8 else 255):
        return "values end at 1 (16 bits: 255) instead of 255 (65535): scale the maps to the full range"
    if not foreground.any():
        return "no pixel reaches --foreground, no label written"
    border = np.concatenate((foreground[0], foreground[-1], foreground[:, 0], foreground[:, -1]))
    if border.mean() >= BORDER:
        return f"foreground fills {BORDER:.0%} of the border or more, as in an inverted map"
    return None


def find_turn(picture: Path, path: Path, saliency: np.ndarray) -> str | None:
    """What is suspicious about a map whose picture EXIF turns; InputError if the map is seen not to be turned."""
    (width, height), orientation = read_size(picture)
    same_side = (saliency.shape[0] - saliency.shape[1]) * (height - width)  # negative: only one is upright
    if orientation > 4 and same_side < 0:
        raise InputError(f"{path} is not rotated, but {picture} is by its EXIF orientation: rotate the map")
    if orientation > 1 and (orientation <= 4 or same_side == 0):
        return "image turned by its EXIF orientation, and the size of the map does not show whether it is, too"
    return None


def make_labels(
    entries: Sequence[Entry], maps: Mapping[str, Path], results: Results, args: argparse.Namespace
) -> int:
    """Write the pseudo labels that have foreground, return their number, and warn about suspicious maps."""
    created, problems = 0, []
    for entry in tqdm(entries, desc="labels", unit="img"):
        path, picture = maps[entry.id], image_path(args.data_dir / "JPEGImages", entry.id)
        saliency, (size, _) = read_saliency(path), read_size(picture)
        resized = cv2.resize(saliency, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
        resized /= np.iinfo(saliency.dtype).max
        labels, label = np.full_like(resized, args.ignore_label, np.uint8), entry.classes[0] + 1
        labels[resized < args.background] = 0
        labels[resized >= args.foreground] = label
        texts = find_problem(saliency, labels == label), find_turn(picture, path, saliency)
        problems += [(WARNING, text, path.name) for text in texts if text is not None]
        if (labels == label).any():
            save_labels(results.path(entry.id), labels, results.note(entry.id))
            created += 1
        else:
            results.path(entry.id).unlink(missing_ok=True)  # with --overwrite, one of other thresholds may exist
    warn(args.saliency_dir, problems)
    return created


def generate(args: argparse.Namespace) -> None:
    if not args.background <= args.foreground <= 1:
        raise InputError(
            f"--background {args.background} and --foreground {args.foreground}: the first must be at most the"
            " second, and the second at most 1"
        )
    listed = read_list(args.data_list, args.num_classes)
    entries = unique(listed)
    single = [entry for entry in entries if len(set(entry.classes)) == 1]
    image_dir = args.data_dir / "JPEGImages"
    check_start(args.data_list, listed, {"image": [image_path(image_dir, entry.id) for entry in single]})
    written = args.data_list.name in ("simple_list.txt", "complex_list.txt")
    if written and args.list_dir and args.data_list.parent.resolve() == args.list_dir.resolve():
        raise InputError(f"{args.data_list} would be replaced by the new lists: choose another --list-dir")
    maps = find_maps(args.saliency_dir, single, args.skip_missing)
    settings = {
        "saliency_dir": str(args.saliency_dir.resolve()),
        "foreground": args.foreground,
        "background": args.background,
        "ignore_label": args.ignore_label,
    }
    made_from = {e.id: settings | {"label": e.classes[0] + 1, "map": None} for e in single}
    for id_, path in maps.items():
        made_from[id_]["map"] = fingerprint(path)
    results = Results(args.out, ".png", "saliency labels", made_from, [image_dir, args.saliency_dir])
    finished = results.finished(args.overwrite)
    unfinished = [entry for entry in single if entry.id not in finished]
    for entry in unfinished:
        if entry.id not in maps:
            results.path(entry.id).unlink(missing_ok=True)  # with --overwrite, that of a map which is gone
    todo, existing = [entry for entry in unfinished if entry.id in maps], len(single) - len(unfinished)
    created = make_labels(todo, maps, results, args)
    labelled = created + existing
    print(
        f"{args.out}: {labelled:,} images labelled ({existing:,} already existed), {len(todo) - created:,} without"
        f" foreground, {len(unfinished) - len(todo):,} without a map, {len(entries) - len(single):,} skipped (several"
        " classes)"
    )
    if not labelled:
        raise InputError(f"{args.out}: no image was labelled: check {args.saliency_dir} and {args.data_list}")
    if args.list_dir is not None:
        write_split(args.list_dir, entries, args.out, args.num_classes, args.ignore_label, overwrite=args.overwrite)
    elif labelled < len(single):
        print(f"{len(single) - labelled:,} one-class images have no label: --list-dir writes lists without them")


if __name__ == "__main__":
    run_script(lambda: generate(parse_args()))
