"""Create the OpenMoji data set: `python -m datasets.openmoji`."""

import argparse

from datasets.openmoji.dataset import DEFAULT_CLASSES, check_size, make_dataset
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError, run_script


def parse_size(text: str) -> tuple[int, int]:
    """`128` or `HEIGHTxWIDTH` -> (height, width)."""
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        raise InputError(f"--size: expected a side such as 128, or HEIGHTxWIDTH, not {text!r}") from None
    return check_size(sides if len(sides) > 1 else sides[0])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.openmoji",
        description="Create a small data set in VOC's layout from OpenMoji's glyphs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--root", default="dataset/openmoji", help="output directory")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--classes", default=",".join(DEFAULT_CLASSES), help="VOC class names, comma-separated"
    )
    group.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        default=argparse.SUPPRESS,
        help="use the first N of VOC's 20 classes instead",
    )
    add("--simple", type=int, default=600, help="number of training images with one class and a pseudo label")
    add("--complex", type=int, default=300, help="number of training images with two or three classes")
    add("--val", type=int, default=150, help="number of validation images, with one to three classes")
    add("--size", default="128", help="side, or HEIGHTxWIDTH, in pixels")
    add("--seed", type=int, default=0, help="seed of all images")
    text = "fraction (0..1) of the pseudo labels that show a distractor"
    add("--image-noise", type=float, default=0.3, help=text)
    text = "fraction (0..1) of the pseudo labels with a wrong border"
    add("--pixel-noise", type=float, default=0.8, help=text)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    classes = args.classes.split(",")
    if "num_classes" in args:
        if not 1 <= args.num_classes <= len(VOC_CLASSES):
            raise InputError(f"--num-classes: expected 1 to {len(VOC_CLASSES)}, not {args.num_classes}")
        classes = VOC_CLASSES[: args.num_classes]
    record = make_dataset(
        args.root,
        classes,
        args.simple,
        args.complex,
        args.val,
        parse_size(args.size),
        args.seed,
        image_noise=args.image_noise,
        pixel_noise=args.pixel_noise,
    )
    print(f"{args.root}: {record['counts']}, measured noise {record['measured']}")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
