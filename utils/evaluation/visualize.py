"""Overlays of label maps on images, with legends, and contact sheets of both."""

from collections.abc import Sequence
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.voc import palette


def overlay(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Paint labels half-transparently over an H x W x 3 RGB image; the background stays as it is."""
    painted = image * 0.4 + palette()[labels].astype(np.float32) * 0.6
    return np.where(labels[..., None] > 0, painted, image).astype(np.uint8)


def with_legend(image: np.ndarray, entries: Sequence[tuple[str, int | None]]) -> Image.Image:
    """Add a legend below an H x W x 3 RGB image; a narrow image is extended with white.

    `entries`: texts and the labels whose colours they explain (None: no colour).
    """
    height, width = image.shape[:2]
    size = max(13, width // 45)
    font, gap, box = ImageFont.load_default(size), size // 2, size
    lengths = [ceil(font.getlength(text)) + (0 if label is None else box + gap) for text, label in entries]
    full = max(width, max(lengths) + 2 * gap)
    places, x, y = [], gap, height + gap
    for length in lengths:
        if x > gap and x + length + gap > full:
            x, y = gap, y + size + gap
        places.append((x, y))
        x += length + 3 * gap
    sheet = Image.new("RGB", (full, y + size + gap), "white")
    sheet.paste(Image.fromarray(image), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for (text, label), (x, y) in zip(entries, places):
        if label is not None:
            draw.rectangle((x, y, x + box - 1, y + box - 1), tuple(palette()[label].tolist()))
            x += box + gap
        draw.text((x, y + size // 2), text, "black", font, anchor="lm")
    return sheet


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    side: int = 128,
    legend: Sequence[tuple[str, int]] = (),
) -> Image.Image:
    """Arrange pictures (H x W x 3 RGB or H x W labels), scaled to side x side, in a grid.

    `legend`: class names and labels, in whose colours they are shown.
    """
    gap, head = 6, 22
    size = gap + (side + gap) * len(titles), head + (side + gap) * len(rows)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for c, title in enumerate(titles):
        draw.text((gap + (side + gap) * c + side // 2, head // 2), title, "black", font, anchor="mm")
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            picture = Image.fromarray(palette()[cell] if cell.ndim == 2 else cell)
            resample = Image.Resampling.NEAREST if cell.ndim == 2 else Image.Resampling.BILINEAR
            scale = side / max(picture.size)
            width, height = round(picture.width * scale), round(picture.height * scale)
            corner = (gap + (side + gap) * c + (side - width) // 2, head + (side + gap) * r + (side - height) // 2)
            sheet.paste(picture.resize((width, height), resample), corner)
    return with_legend(np.asarray(sheet), legend) if legend else sheet
