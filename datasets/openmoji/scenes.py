"""Draws scenes of OpenMoji glyphs with true labels and noisy pseudo labels, as the random generator says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.openmoji.glyphs import DISTRACTORS, GLYPHS, glyph_levels
from datasets.voc import IGNORE_LABEL

IGNORE_BAND_RATE = 0.5  # fraction of the pseudo labels with a band of IGNORE_LABEL along the border
# Longer side of an object, relative to the shorter side of the image.
SIZES = {"single": (0.45, 0.75), "pair": (0.38, 0.50), "complex": (0.35, 0.55), "distractor": (0.25, 0.50)}
MIN_VISIBLE = 0.65  # minimum visible fraction of an object's area


@dataclass
class Item:
    """One glyph of a scene; `label` is class + 1, or 0 for a distractor."""

    label: int
    levels: tuple[np.ndarray, ...]
    size: float  # longer side before rotation, pixels
    angle: float  # rotation, radians
    mirror: bool
    colour: np.ndarray  # (3, 3), applied to premultiplied RGB


@dataclass
class Scene:
    """An image (H, W, 3) uint8 RGB, its true label and an optional pseudo label, both (H, W) uint8."""

    image: np.ndarray
    truth: np.ndarray
    labels: list[int]  # 0-based classes in the image, ascending
    pseudo: np.ndarray | None = None
    image_noise: str | None = None  # "instead", "both" or None
    pixel_noise: str | None = None  # "grow", "shrink", "bend" or None


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int, channels: int) -> np.ndarray:
    """Smooth noise (H, W, channels) float32, about -1..1: a random grid, upsampled bicubically."""
    grid = rng.uniform(-1, 1, (cells, cells, channels)).astype(np.float32)
    field = cv2.resize(grid, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return field.reshape(*size, channels)


def draw_background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Random (H, W, 3) float32 RGB texture: a gradient between two colours plus noise of several scales."""
    start, end = rng.uniform(50, 215, (2, 1)) + rng.uniform(-50, 50, (2, 3))
    angle = rng.uniform(0, 2 * math.pi)
    down, across = np.linspace(-0.5, 0.5, size[0]), np.linspace(-0.5, 0.5, size[1])
    ramp = 0.5 + 0.7 * (math.sin(angle) * down[:, None] + math.cos(angle) * across)[..., None]
    image = (start + (end - start) * ramp).astype(np.float32)
    image += rng.uniform(10, 35) * smooth_noise(rng, size, int(rng.integers(3, 6)), 3)
    image += rng.uniform(5, 35) * smooth_noise(rng, size, int(rng.integers(3, 6)), 1)
    image += rng.uniform(5, 30) * smooth_noise(rng, size, int(rng.integers(8, 20)), 1)
    image += rng.normal(0, rng.uniform(1, 5), (*size, 1)).astype(np.float32)
    return image


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """Random (3, 3) matrix that rotates the hue and scales saturation and brightness; greys stay grey."""
    hue, _ = cv2.Rodrigues(np.full(3, math.radians(rng.uniform(-35, 35)) / math.sqrt(3)))  # about the axis of greys
    saturation = rng.uniform(0.6, 1.2)
    mixed = saturation * hue + (1 - saturation) / 3
    return (rng.uniform(0.7, 1.1) * mixed).astype(np.float32)


def random_item(rng: np.random.Generator, label: int, glyphs: str, share: tuple[float, float], side: int) -> Item:
    """A random glyph of `glyphs` with a random transform; its longer side is in the range `share` times `side`."""
    levels = glyph_levels(glyphs[rng.integers(len(glyphs))])
    limit = 25 if rng.random() < 0.85 else 60
    angle = math.radians(rng.uniform(-limit, limit))
    size = rng.uniform(*share) * side
    return Item(label, levels, size, angle, bool(rng.random() < 0.5), random_colour(rng))


def warp_item(rng: np.random.Generator, item: Item, size: tuple[int, int], shrink: float) -> tuple[np.ndarray, float]:
    """Draw an item at a random position: (H, W, 4) uint8 layer, and its total area in pixels, visible or not."""
    length = item.size * shrink
    # The smallest level that is not enlarged, since shrinking a larger one would alias.
    source = next((level for level in reversed(item.levels) if max(level.shape) >= length), item.levels[0])
    height, width = source.shape[:2]
    scale = length / max(height, width)
    cos, sin = scale * math.cos(item.angle), scale * math.sin(item.angle)
    flip = -1 if item.mirror else 1
    matrix = np.array([[flip * cos, -sin, 0], [flip * sin, cos, 0]])
    half = np.abs(matrix[:, :2]) @ (width / 2, height / 2)
    for axis, extent in enumerate((size[1], size[0])):
        # Up to a tenth of the object's extent may be outside the image.
        low = min(0.8 * half[axis], extent / 2)
        matrix[axis, 2] = rng.uniform(low, extent - low) - matrix[axis, :2] @ (width / 2, height / 2)
    layer = cv2.warpAffine(source, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR)
    return layer, max(1.0, np.count_nonzero(source[..., 3] > 127) * scale**2)


def place_items(
    rng: np.random.Generator, items: Sequence[Item], size: tuple[int, int]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Layers of the items, the last on top, and an (H, W) int map of the visible item, -1 for none.

    Positions are drawn until MIN_VISIBLE of every item is visible; the items shrink slightly with each attempt.
    """
    most = -1.0
    best: tuple[list[np.ndarray], np.ndarray] = ([], np.empty(0))
    for attempt in range(60):
        layers, areas = zip(*(warp_item(rng, item, size, 0.98**attempt) for item in items))
        owner = np.full(size, -1)
        for number, layer in enumerate(layers):
            owner[layer[..., 3] > 127] = number
        visible = min(np.count_nonzero(owner == number) / area for number, area in enumerate(areas))
        if visible > most:
            most, best = visible, (list(layers), owner)
        if visible >= MIN_VISIBLE:
            break
    return best


def compose(background: np.ndarray, layers: Sequence[np.ndarray], items: Sequence[Item]) -> np.ndarray:
    """Recolour the premultiplied layers and blend them over a float RGB background: (H, W, 3) uint8."""
    image = background
    for layer, item in zip(layers, items):
        alpha = layer[..., 3:].astype(np.float32)
        colour = cv2.transform(layer[..., :3].astype(np.float32), item.colour)
        image = image * (1 - alpha / 255) + np.clip(colour, 0, alpha)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _disk(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def spoil_mask(rng: np.random.Generator, mask: np.ndarray, how: str) -> np.ndarray:
    """Move the border of an (H, W) uint8 mask of 0 and 1: `how` is grow, shrink or bend. Never empty."""
    area = np.count_nonzero(mask)
    extent = math.sqrt(area)
    radius = max(1, round(rng.uniform(0.04, 0.11) * extent))
    if how == "grow":
        return cv2.dilate(mask, _disk(radius))
    if how == "shrink":  # keeping at least a third of the area, so that thin objects remain
        eroded = (cv2.erode(mask, _disk(smaller)) for smaller in range(radius, 0, -1))
        return next((e for e in eroded if 3 * np.count_nonzero(e) >= area), mask)
    field = rng.uniform(0.12, 0.28) * extent * smooth_noise(rng, mask.shape, 6, 2)  # displacements
    down, across = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    bent = cv2.remap(mask, across + field[..., 0], down + field[..., 1], cv2.INTER_NEAREST)
    return bent if bent.any() else mask


def paint_label(rng: np.random.Generator, mask: np.ndarray, label: int) -> np.ndarray:
    """(H, W) uint8: `label` on the mask and, with probability IGNORE_BAND_RATE, an ignored border."""
    painted = mask * np.uint8(label)
    if rng.random() < IGNORE_BAND_RATE:
        kernel = _disk(max(1, round(rng.uniform(0.004, 0.014) * max(mask.shape))))
        inner, outer = cv2.erode(mask, kernel), cv2.dilate(mask, kernel)
        if not inner.any():
            inner = mask
        painted[outer > inner] = IGNORE_LABEL
    return painted


def _pick_items(
    rng: np.random.Generator, labels: Sequence[int], names: Sequence[str], side: int, need_distractor: bool
) -> list[Item]:
    """Objects of the given classes and 0 to 2 distractors, at least 1 if needed, in random order."""
    pair = len(labels) == 1 and rng.random() < 0.2
    shown = [*labels, *labels] if pair else labels
    share = SIZES["complex" if len(labels) > 1 else "pair" if pair else "single"]
    items = [random_item(rng, c + 1, GLYPHS[names[c]], share, side) for c in shown]
    count = int(rng.choice(3, p=(0.35, 0.45, 0.2) if len(labels) == 1 else (0.5, 0.4, 0.1)))
    for _ in range(max(count, int(need_distractor))):
        items.append(random_item(rng, 0, DISTRACTORS, SIZES["distractor"], side))
    return [items[i] for i in rng.permutation(len(items))]


def draw_scene(
    rng: np.random.Generator,
    labels: Sequence[int],
    names: Sequence[str],
    size: tuple[int, int],
    image_noise: float | None,
    pixel_noise: float,
) -> Scene:
    """Draw one scene of `size`, (height, width), that shows `labels`, 0-based indices into `names`.

    The noises are the probabilities that the pseudo label shows a distractor (None: there is no pseudo label), and
    that its border is wrong.
    """
    wrong = rng.random() < (image_noise or 0)
    kind = ("instead", "both")[rng.integers(2)] if wrong else None
    items = _pick_items(rng, labels, names, min(size), wrong)
    layers, owner = place_items(rng, items, size)
    values = np.array([item.label for item in items] + [0], np.uint8)  # owner -1 is the last: background
    scene = Scene(compose(draw_background(rng, size), layers, items), values[owner], sorted(labels))
    if image_noise is None:
        return scene
    scene.image_noise = kind
    mask = (scene.truth > 0).astype(np.uint8) if kind != "instead" else np.zeros(size, np.uint8)
    if kind:
        mask[owner == next(i for i, item in enumerate(items) if not item.label)] = 1
    if rng.random() < pixel_noise:
        scene.pixel_noise = ("grow", "shrink", "bend")[rng.integers(3)]
        mask = spoil_mask(rng, mask, scene.pixel_noise)
    scene.pseudo = paint_label(rng, mask, labels[0] + 1)
    return scene
