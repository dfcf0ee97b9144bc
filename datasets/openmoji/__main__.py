"""Create a small data set in VOC's layout from OpenMoji's glyphs.

python -m datasets.openmoji --root dataset/openmoji --classes cat,dog --size 128
"""

from pathlib import Path

from datasets.openmoji.dataset import DEFAULT_CLASSES, Recipe, make_dataset
from datasets.voc import VOC_CLASSES
from utils.core import cli
from utils.core.errors import run_script


def parse_size(text: str) -> tuple[int, int]:
    """`128` or `HEIGHTxWIDTH` -> (height, width)."""
    sides = [int(side) for side in text.lower().split("x")]
    return sides[0], sides[-1]


def main() -> None:
    parser = cli.make_parser(__doc__)
    parser.prog = "python -m datasets.openmoji"
    add = parser.add_argument
    add("--root", type=Path, default=Path("dataset/openmoji"), help="output directory")
    group = parser.add_mutually_exclusive_group()
    classes = ",".join(DEFAULT_CLASSES)
    group.add_argument("--classes", default=classes, help="VOC class names, comma-separated")
    text = "use the first N of VOC's 20 classes instead"
    group.add_argument("--num-classes", type=int, choices=range(1, 21), metavar="N", help=text)
    add("--simple", type=cli.count, default=Recipe.simple, help="training images with one class and a pseudo label")
    add("--complex", type=cli.count, default=Recipe.complex, help="training images with two or three classes")
    add("--val", type=cli.count, default=Recipe.val, help="validation images, with one to three classes")
    add("--size", type=parse_size, default=Recipe.size, help="side, or HEIGHTxWIDTH, in pixels")
    add("--seed", type=cli.count, default=Recipe.seed, help="seed of all images")
    text = "fraction (0..1) of the pseudo labels that"
    add("--image-noise", type=cli.fraction, default=Recipe.image_noise, help=f"{text} show a distractor")
    add("--pixel-noise", type=cli.fraction, default=Recipe.pixel_noise, help=f"{text} have a wrong border")
    args = parser.parse_args()
    names = VOC_CLASSES[: args.num_classes] if args.num_classes else args.classes.split(",")
    counts, noise = (args.simple, args.complex, args.val), (args.image_noise, args.pixel_noise)
    make_dataset(args.root, Recipe(names, *counts, args.size, args.seed, *noise))
    print(f"{args.root}: {args.simple} simple, {args.complex} complex and {args.val} validation images")


if __name__ == "__main__":
    run_script(main)
