"""The report's gallery: images with their label maps as pictures inside the page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from datasets.labels import palette_image
from datasets.voc import IGNORE_LABEL, palette
from utils.report.collect import RunOutputs
from utils.report.gallery import Cell, Kind, Row, choose, kinds, sheet, small
from utils.report.markup import Markup, figure, tag
from utils.report.sections import missing

VAL_ROWS, TRAIN_ROWS = (6, 4, 6), (4, 0, 4)  # the best, the middle ones, the worst
SIDE = 240  # pixels of a picture's longer side at most
SHEET_ROWS = (4, 0, 3)


def data_uri(picture: np.ndarray) -> str:
    """A picture of the gallery as an address that holds it: labels as palette PNG, an image as JPEG."""
    file, labels = io.BytesIO(), picture.ndim == 2
    picture = small(picture, SIDE)
    if labels:
        palette_image(picture).save(file, "PNG", optimize=True)
    else:
        Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=82)
    return f"data:image/{'png' if labels else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def contents(labels: np.ndarray, names: Sequence[str], ignore_label: int = IGNORE_LABEL) -> str:
    """What a label map shows, in words: `cat 24 %, ignored 3 %`."""
    pixels = np.bincount(labels.ravel(), minlength=256) / labels.size
    shown = [(names[n], pixels[n]) for n in range(1, len(names)) if pixels[n]]
    shown.sort(key=lambda item: -item[1])
    shown += [("ignored", pixels[ignore_label])] if pixels[ignore_label] else []
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shown) or "background alone"


def _cell(cell: Cell, id_: str, shown: str, names: Sequence[str]) -> Markup:
    """One picture with its caption; `shown` says what the image shows."""
    if cell.picture.ndim == 2:
        shown = contents(cell.picture, names)
    alt = f"{cell.title} of {id_}: {shown}" if shown else f"{cell.title} {id_}"
    height, width = cell.picture.shape[:2]
    picture = tag("img", src=data_uri(cell.picture), alt=alt, width=width, height=height)
    score = None if cell.score is None else tag("span", f" {100 * cell.score:.1f}", class_="time")
    return figure(picture, [cell.title, score])


def _row(row: Row, names: Sequence[str]) -> Markup:
    text: list[object] = [tag("b", row.id)]
    if row.scores is not None:
        by_class = [(name, row.scores["Class IoU"][str(n)]) for n, name in enumerate(names)]
        known = ", ".join(f"{name} {100 * value:.0f}" for name, value in by_class if value is not None)
        text += [f" {row.cells[-1].title}, IoU in %: {known}; mean {100 * row.scores['Mean IoU']:.1f}"]
    shown = next((contents(cell.picture, names) for cell in row.cells if cell.title == "truth"), "")
    cells = tag("div", [_cell(cell, row.id, shown, names) for cell in row.cells], class_="cells",
                style=f"--n:{len(row.cells)}")  # fmt: skip
    return tag("figure", tag("figcaption", text), cells, class_="row")


def _kind(kind: Kind, counts: tuple[int, int, int], run: RunOutputs) -> list[Markup]:
    ranked, lacking = kind.ranked(run.args.max_images)
    ranker = kind.columns[-1].title
    if kind.truth is None:
        text = f"{len(ranked)} of {len(kind.ids)} images, in the list's order: their truth is not known."
    else:
        text = (
            f"{len(ranked)} of {len(kind.ids)} images, ranked by the mean IoU of “{ranker}” over the classes in the"
            " truth. The number under a label map is that mean in %; pixels that it ignores count as missed."
        )
    if lacking:
        text += f" Left out for want of a readable label map: {lacking}."
    parts = [tag("h3", kind.name.capitalize()), tag("p", text)]
    for title, ids in choose(ranked, *counts).items():
        rows = [_row(kind.row(id_), run.names) for id_ in ids]
        parts += [tag("h4", title), tag("div", rows, class_="rows")]
    return parts


def legend(names: Sequence[str], ignore_label: int = IGNORE_LABEL) -> Markup:
    """The colours of the labels."""
    entries = [*enumerate(names), (ignore_label, "ignored")]
    items = []
    for label, name in entries:
        red, green, blue = palette()[label]
        swatch = tag("span", style=f"background:rgb({red}, {green}, {blue})", aria_hidden="true")
        items.append(tag("li", swatch, name))
    return tag("ul", items, class_="legend")


def gallery(run: RunOutputs) -> list[Markup]:
    """All kinds of images that the run has pictures of."""
    found = [kind for kind in kinds(run) if kind.ids]
    parts = [legend(run.names, run.args.ignore_label)] if found else []
    for kind in found:
        parts += _kind(kind, VAL_ROWS if kind.name.startswith("val") else TRAIN_ROWS, run)
    titles = {maps.title for kind in found for maps in kind.columns}
    lacking = [stage for stage in run.stages if stage.maps is None]
    parts += [missing(f"No label maps of {s.name} on the validation images.", s.made_by) for s in lacking]
    if "pseudo label" not in titles:
        parts.append(missing("No pseudo labels for stage 2.", run.hint("python gen_label.py")))
    if not any(kind.name.startswith("val") for kind in found):
        parts.append(missing("No list of the validation images below --run; name it by --data-list.",
                             run.hint("python prepare_voc.py")))  # fmt: skip
    return parts


def gallery_sheet(run: RunOutputs) -> Image.Image | None:
    """A README's picture: training images with their labels beside validation images, the best and the worst."""
    halves = {}
    found = {kind.name.split()[0]: kind for kind in kinds(run)}
    for head, name in (("train", "simple"), ("val", "validation")):
        if name in found:
            chosen = choose(found[name].ranked(run.args.max_images)[0], *SHEET_ROWS)
            halves[head] = [found[name].row(id_) for ids in chosen.values() for id_ in ids]
    return sheet(halves, run.names) if any(halves.values()) else None
