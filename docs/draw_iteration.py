"""Draw one training iteration of stage 1, in the paper's names.

python docs/draw_iteration.py      writes docs/iteration.svg
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.core.errors import run_script
from utils.core.files import atomic_write
from utils.report.markup import Markup, tag

SIZE = 1120, 640
COLOURS = {"G": "#0b5fb0", "D": "#c2410c", "data": "#6b7280"}  # by who gets the gradient
FILLS = {"batch": "#f3f4f6", "net": "#dbeafe", "disc": "#ffe4d0", "step": "#ffffff", "loss": "#fef3c7"}


def lines_of(
    text: str, x: float, y: float, anchor: str = "middle", size: float = 14, **more: object
) -> Markup:
    """Lines of text around y; `L_{seg}` sets seg lower, a line that starts with * is bold."""
    rows = text.split("\n")
    parts = []
    for n, row in enumerate(rows):
        spans, low = [], False
        for k, part in enumerate(re.split(r"_\{(.*?)\}", row.removeprefix("*"))):
            inner = {"dy": 4 if k % 2 else -4 if low else None, "font_size": size * 0.78 if k % 2 else None}
            spans.append(tag("tspan", part, **inner) if part else "")
            low = k % 2 == 1 if part else low
        at = y + (n - (len(rows) - 1) / 2) * size * 1.25 + size * 0.35
        weight = "600" if row.startswith("*") else None
        parts.append(
            tag("text", spans, x=x, y=at, text_anchor=anchor, font_size=size, font_weight=weight, **more)
        )
    return Markup("".join(parts))


def box(x: float, y: float, width: float, height: float, text: str, fill: str, **more: object) -> Markup:
    """A box around its centre line y."""
    rect = tag("rect", x=x, y=y - height / 2, width=width, height=height, rx=8, fill=FILLS[fill],
               stroke="#374151", stroke_width=1.4, **more)  # fmt: skip
    return Markup(rect + lines_of(text, x + width / 2, y))


def arrow(kind: str, *points: tuple[float, float]) -> Markup:
    """A line through the points with a head at the last; its colour says who gets a gradient back along it."""
    return tag("polyline", points=" ".join(f"{x},{y}" for x, y in points), fill="none", stroke=COLOURS[kind],
               stroke_width=1.6 if kind == "data" else 3, marker_end=f"url(#head-{kind})",
               stroke_dasharray="5 4" if kind == "data" else None, stroke_linejoin="round")  # fmt: skip


def note(text: str, x: float, y: float, kind: str = "data", anchor: str = "middle") -> Markup:
    return lines_of(text, x, y, anchor, 12.5, fill="#374151" if kind == "data" else COLOURS[kind])


def head(kind: str) -> Markup:
    size = 9 if kind == "data" else 12
    return tag("marker", tag("path", d="M0,0 L10,5 L0,10 z", fill=COLOURS[kind]), id=f"head-{kind}",
               viewBox="0 0 10 10", refX=9, refY=5, markerWidth=size, markerHeight=size, orient="auto",
               markerUnits="userSpaceOnUse")  # fmt: skip


def classification(y: float) -> list[Markup]:
    return [
        box(30, y, 170, 54, "*cls\nall training images", "batch"), arrow("data", (200, y), (247, y)),
        arrow("G", (330, y), (387, y)),
        box(390, y, 190, 54, "mean of the logits,\nbackground left out", "step"), arrow("G", (580, y), (917, y)),
        box(920, y, 170, 54, "*L_{cls}\nwith the image labels", "loss"),
    ]  # fmt: skip


def simple(y: float, to_D: float) -> list[Markup]:
    """ONF -> S2C -> PND; `to_D` is the height at which the kept predictions go on to D."""
    return [
        box(30, y, 170, 54, "*simple\nimage, saliency label", "batch"), arrow("data", (200, y), (247, y)),
        arrow("G", (330, y), (387, y)),
        box(390, y, 120, 70, "*ONF\ndrops images:\nIoU ≤ T_{class}", "step"),
        arrow("data", (510, y), (547, y)),
        box(550, y, 110, 70, "*S2C\nCutMix, in half\nof iterations", "step"), arrow("data", (660, y), (697, y)),
        box(700, y, 50, 70, "*G", "net"), arrow("G", (750, y), (777, y)),
        box(780, y, 110, 70, "*PND\ndrops pixels:\nloss > T(i)", "step"), arrow("G", (890, y), (917, y)),
        box(920, y, 170, 54, "*L_{seg}\ncross-entropy", "loss"),
        arrow("G", (450, y - 35), (450, y - 62), (835, y - 62), (835, y - 38)),
        note("without CutMix: the predictions p_{s} themselves", 642, y - 74, "G"),
        arrow("G", (450, y + 35), (450, to_D), (697, to_D)),
        note("p_{s} of the kept images, not mixed", 574, to_D - 11, "G"),
    ]  # fmt: skip


def alignment(adversarial: float, complex_: float, gt: float) -> list[Markup]:
    """C2S: complex images and labels into D, D's two losses; arguments are heights."""
    top, bottom = adversarial - 30, gt + 34
    return [
        box(30, complex_, 170, 54, "*complex\nimage alone", "batch"), arrow("data", (200, complex_), (247, complex_)),
        arrow("G", (330, complex_), (697, complex_)), note("p_{c}", 514, complex_ - 11, "G"),
        box(30, gt, 170, 54, "*gt\nimage, saliency label", "batch"), arrow("data", (200, gt), (247, gt)),
        arrow("data", (330, gt), (387, gt)),
        box(390, gt, 130, 54, "*ONF\ndrops noisy labels", "step"), arrow("data", (520, gt), (547, gt)),
        box(550, gt, 110, 54, "one-hot\nlabels", "step"), arrow("data", (660, gt), (697, gt)),
        box(700, (top + bottom) / 2, 90, bottom - top, "*D\n(C2S)", "disc"),
        arrow("G", (790, adversarial + 12), (857, adversarial + 12)),
        box(860, adversarial + 12, 230, 76,
            "*0.001 · L_{adv}\np_{c}, p_{s} → “label”; D is frozen;\np_{s} without CutMix alone", "loss"),
        arrow("D", (790, gt - 12), (857, gt - 12)),
        box(860, gt - 12, 230, 76,
            "*L_{D}\np_{c}, p_{s} → “prediction”, detached;\none-hot labels → “label”", "loss"),
    ]  # fmt: skip


def legend(y: float) -> list[Markup]:
    parts = []
    for x, kind, text in (
        (30, "G", "gradient flows back to G"), (245, "D", "gradient flows back to D"), (460, "data", "no gradient"),
    ):  # fmt: skip
        parts += [arrow(kind, (x, y), (x + 40, y)), note(text, x + 50, y, anchor="start")]
    return parts


def draw() -> Markup:
    """The whole picture, on a card of its own, so that it can be read on any page."""
    lanes = cls, simple_, adversarial, complex_, gt = 120, 270, 360, 420, 520
    width, height = SIZE
    parts: Sequence[object] = [
        tag("title", "One training iteration of MDBA, stage 1"),
        tag("desc", "Four batches go through the segmentation network G: cls to L_cls; simple through ONF, S2C and"
            " PND to L_seg; complex, the kept simple predictions and one-hot labels of gt to the discriminator D,"
            " with L_adv for G and L_D for D."),
        tag("defs", [head(kind) for kind in COLOURS]),
        tag("rect", x=1, y=1, width=width - 2, height=height - 2, rx=14, fill="#ffffff", stroke="#d1d5db"),
        lines_of("*One training iteration of stage 1", 30, 36, "start", 19),
        note("four batches", 115, 74), note("losses", 1005, 74),
        box(250, (lanes[0] + lanes[-1]) / 2, 80, lanes[-1] - lanes[0] + 74, "*G", "net"),
        *classification(cls), *simple(simple_, adversarial), *alignment(adversarial, complex_, gt),
        *legend(600),
        note("The losses' gradients add up; G (SGD) and D (Adam) step once, at the end.", 1090, 592, anchor="end"),
        note("ONF and PND begin after a warm-up of 1/12 of the iterations.", 1090, 611, anchor="end"),
    ]  # fmt: skip
    return tag("svg", parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}", width=width,
               height=height, role="img", font_family="Helvetica, Arial, 'Liberation Sans', sans-serif",
               fill="#111827")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("iteration.svg"))
    with atomic_write(parser.parse_args().out, "w") as file:
        file.write(draw() + "\n")


if __name__ == "__main__":
    run_script(main)
