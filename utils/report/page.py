"""Fills page.html.j2 with a run's outputs: one HTML file that needs no network and no script."""

from pathlib import Path

from datasets.voc import palette
from utils.evaluation.metrics import COUNTS, class_ious, percent
from utils.report.curves import draw_all
from utils.report.images import Gallery, data_uri
from utils.report.run import Run

FOLDER = Path(__file__).parent
MEANS = ("Mean IoU", "Min IoU", "Mean Accuracy", "Pixel Accuracy", "Frequency Weighted IoU")


def duration(seconds: float) -> str:
    """`41.3 s` or `254:12 min`."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f}:{seconds % 60:02.0f} min"


def score_table(run: Run) -> dict[str, list[str]]:
    """The rows of the table of scores, a column for each stage that has them."""
    scored = [stage for stage in run.stages if stage.scores]
    pixels = [[sum(row) for row in stage.counts.get(COUNTS, [])] for stage in scored]  # of each label in the truth
    ious = [
        class_ious(stage.scores, {label for label, number in enumerate(numbers) if number} if numbers else None)
        for stage, numbers in zip(scored, pixels)
    ]
    rows = {name: [percent(iou) for iou in values] for name, *values in zip(run.names, *ious)}
    rows |= {key: [percent(stage.scores.get(key)) for stage in scored] for key in MEANS}
    return rows | {"scored pixels": [f"{sum(numbers):,}" if numbers else "-" for numbers in pixels]}


def denoising_start(options: dict) -> int | None:
    """The first iteration with ONF and PND, from the options of train.py; None if unknown or never."""
    if "num_steps" not in options or (options.get("no_onf") and options.get("no_pnd")):
        return None
    start = options.get("denoise_from")
    return options["num_steps"] // 12 if start is None else start


def render(run: Run, gallery: Gallery) -> str:
    """The page. Needs jinja2 and matplotlib."""
    import jinja2

    start = denoising_start(run.options)
    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "duration": duration, "data_uri": data_uri}
    return environment.get_template("page.html.j2").render(
        run=run,
        curves=draw_all(run, start),
        gallery=gallery,
        palette=palette().tolist(),
        scores=score_table(run),
        denoising=start,
        style=(FOLDER / "report.css").read_text(encoding="utf-8"),
    )
