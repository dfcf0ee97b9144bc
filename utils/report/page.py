"""Fills page.html.j2 with a run's outputs: one HTML file that needs no network and no script."""

import importlib.util
import time
from pathlib import Path

from datasets.voc import palette
from utils.core.errors import InputError
from utils.report import plots
from utils.report.collect import RunOutputs
from utils.report.gallery import choose, contents, data_uri, kinds

FOLDER = Path(__file__).parent
# Steps of a run and the demo's programs that belong to them.
STEPS = {
    "data set": ("datasets.openmoji",),
    "stage 1, training": ("train.py",),
    "stage 1, evaluation": ("evaluate.py",),
    "stage 1, CRF": ("evaluate_crf.py",),
    "pseudo labels": ("gen_label.py", "gen_label_crf.py", "gen_label_mining.py", "evaluate_labels.py"),
    "stage 2, training": ("main.py train",),
    "stage 2, evaluation": ("main.py test",),
    "stage 2, CRF": ("main.py crf",),
}
VAL_ROWS, TRAIN_ROWS = (6, 4, 6), (4, 0, 4)  # images: the best, the middle, the worst


def check_packages() -> None:
    """Raise InputError if a package that only the report needs is missing."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"the report needs {package}: pip install jinja2 matplotlib")


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def duration(seconds: float) -> str:
    """`41.3 s`, `4 min 14 s` or `7 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def render(run: RunOutputs) -> str:
    """The page. InputError if jinja2 or matplotlib is missing."""
    check_packages()
    import jinja2

    seconds = run.summary.get("seconds") or {}
    steps = {step: sum(seconds.get(program, 0) for program in programs) for step, programs in STEPS.items()}
    gallery = []
    for kind in kinds(run):
        ranked = kind.ranked(run.args.max_images)
        groups = choose(ranked, *(VAL_ROWS if kind.name.startswith("val") else TRAIN_ROWS))
        rows = {title: [(id_, kind.cells(id_)) for id_ in ids] for title, ids in groups.items()}
        gallery.append((kind, min(run.args.max_images, len(kind.ids)), len(ranked), rows))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "duration": duration, "data_uri": data_uri}
    environment.globals |= {"plots": plots, "contents": contents, "palette": palette().tolist()}
    return environment.get_template("page.html.j2").render(
        run=run,
        gallery=gallery,
        steps={step: value for step, value in steps.items() if value},
        written=time.strftime("%Y-%m-%d %H:%M", time.localtime(run.newest or None)),
        style=(FOLDER / "report.css").read_text(encoding="utf-8"),
    )
