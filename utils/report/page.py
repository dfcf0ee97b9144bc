"""The report as one page: it opens without a server, a network or a script."""

import time
from pathlib import Path

from utils.report.collect import RunOutputs
from utils.report.curves import curves
from utils.report.gallery_page import gallery
from utils.report.markup import Markup, tag
from utils.report.sections import confusion, label_scores, scores, time_spent, what_was_run

STYLE = Path(__file__).with_name("report.css")
SECTIONS = (
    ("run", "What was run", what_was_run),
    ("time", "Time", time_spent),
    ("scores", "Scores", scores),
    ("labels", "Quality of the training labels", label_scores),
    ("curves", "Training", curves),
    ("confusion", "Confusion", confusion),
    ("gallery", "Gallery", gallery),
)


def headline(run: RunOutputs) -> list[Markup]:
    """The mean IoU of every stage, and of when these results are."""
    tiles = [
        tag("li", tag("span", stage.name), tag("strong", f"{100 * stage.scores['Mean IoU']:.1f} %"))
        for stage in run.stages
        if stage.scores
    ]
    text = "Weakly supervised segmentation from image-level labels and saliency maps."
    if tiles:
        text += " Mean IoU on the validation images:"
    parts = [tag("p", text)]
    return [*parts, tag("ul", tiles, class_="tiles")] if tiles else parts


def page(run: RunOutputs) -> Markup:
    """The whole document."""
    title = f"MDBA report: {run.root.resolve().name}"
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.newest()))
    sections = [tag("section", tag("h2", name), build(run), id=id_) for id_, name, build in SECTIONS]
    links = [tag("li", tag("a", name, href=f"#{id_}")) for id_, name, _ in SECTIONS]
    problems = [tag("p", problem, class_="missing") for problem in run.problems]
    body = tag(
        "body",
        tag("header", tag("h1", title), headline(run), problems),
        tag("nav", tag("ul", links), aria_label="Contents"),
        tag("main", sections),
        tag("footer", tag("p", f"Results in {run.root}, the last of them written {written}. Made by ",
                          tag("code", f"python report.py --run {run.root}"), ".")),
    )  # fmt: skip
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    return Markup(f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n")
