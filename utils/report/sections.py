"""The report's sections: what was run, time, scores, confusion; curves and gallery have their own files."""

from collections.abc import Sequence

from utils.report.charts import bar_chart, dot_chart, signs
from utils.report.collect import RunOutputs
from utils.report.markup import Markup, figure, table, tag

# What the demo's programs are part of, in the order in which they run.
STEPS = {
    "datasets.openmoji": "data set", "train.py": "stage 1, training", "evaluate.py": "stage 1, evaluation",
    "evaluate_crf.py": "stage 1, CRF", "gen_label.py": "pseudo labels", "gen_label_crf.py": "pseudo labels",
    "gen_label_mining.py": "pseudo labels", "evaluate_labels.py": "pseudo labels",
    "main.py train": "stage 2, training", "main.py test": "stage 2, evaluation", "main.py crf": "stage 2, CRF",
}  # fmt: skip
SUMMARY = ("Mean IoU", "Min IoU", "Mean Accuracy", "Pixel Accuracy", "Frequency Weighted IoU")


def missing(text: str, command: str) -> Markup:
    """Says what is not there, and what makes it."""
    return tag("p", f"{text} This command makes it: ", tag("code", command), class_="missing")


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def duration(seconds: float) -> str:
    """`41.3 s`, `4 min 14 s` or `7 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def facts(values: dict) -> Markup:
    """Names and values beside one another."""
    pairs = [tag("div", tag("dt", key), tag("dd", plain(value))) for key, value in values.items()]
    return tag("dl", pairs, class_="facts")


def plain(value: object) -> str:
    """A value of a JSON file as a reader expects it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list) else str(value)


def what_was_run(run: RunOutputs) -> list[Markup]:
    parts = []
    commands = [(c["command"], duration(c["seconds"])) for c in run.commands()]
    if not commands and isinstance(run.made.get("command"), str):
        commands = [(f"python {run.made['command']}", "")]
    if commands:
        lines = [
            tag("li", tag("code", line), " ", tag("span", took, class_="time")) for line, took in commands
        ]
        parts += [tag("h3", "Command lines"), tag("ol", lines, class_="commands")]
    about = {key: value for key, value in run.made.items() if key not in ("options", "versions", "command")}
    versions = run.made.get("versions")
    if about or versions:
        parts += [
            tag("h3", "Machine and versions"),
            facts(about | (versions if isinstance(versions, dict) else {})),
        ]
    if run.options:
        parts += [tag("h3", "Options of stage 1's training"), facts(run.options)]
    elif not commands:
        parts.append(missing("How the training was run is not noted: there is no snapshots/run.json.",
                             run.hint("python train.py")))  # fmt: skip
    return parts


def time_spent(run: RunOutputs) -> list[Markup]:
    seconds = run.summary.get("seconds")
    if not isinstance(seconds, dict) or not seconds:
        return [tag("p", "Times are recorded by `make demo` alone.")]
    steps: dict[str, float] = {}
    for name, value in seconds.items():
        step = STEPS.get(name, name)
        steps[step] = steps.get(step, 0) + value
    total = sum(steps.values())
    chart = bar_chart("time by step", [(name, value, duration(value)) for name, value in steps.items()])
    rows = [(name, duration(value), f"{100 * value / total:.1f}") for name, value in steps.items()]
    head = ("step", "time", "% of all")
    return [tag("div", figure(chart, f"Time by step; {duration(total)} in all."),
                table("The same as a table.", head, rows), class_="beside")]  # fmt: skip


def scores(run: RunOutputs) -> list[Markup]:
    stages = [stage for stage in run.stages if stage.scores]
    parts = [missing(f"No scores of {s.name}.", s.made_by) for s in run.stages if not s.scores]
    if not stages:
        return parts

    def line(name: str, values: Sequence[float | None]) -> list[object]:
        shown = [percent(value) for value in values]
        best = percent(max((v for v in values if v is not None), default=None))
        differ = len(set(shown)) > 1
        return [
            name,
            *(tag("td", text, class_="best" if differ and text == best else None) for text in shown),
        ]

    by_class = [
        (name, [s.scores["Class IoU"].get(str(label)) for s in stages])
        for label, name in enumerate(run.names)
    ]
    rows = [line(*pair) for pair in by_class]
    rows += [line(key, [s.scores.get(key) for s in stages]) for key in SUMMARY]
    names = [stage.name for stage in stages]
    text = "IoU in % on the validation images, by class and stage, and what follows from it. Bold: the best of a row."
    by_class.append(("mean", [s.scores["Mean IoU"] for s in stages]))
    dots = [f"dot d{n}" for n, stage in enumerate(run.stages) if stage.scores]
    chart = figure(dot_chart("IoU by class and stage", by_class, names, dots),
                   [signs(names, dots), "IoU in %, by class and stage."])  # fmt: skip
    head = ["class", *(name.replace(" ", "\N{NO-BREAK SPACE}", 1) for name in names)]
    return [tag("div", table(text, head, rows, class_="scores"), chart, class_="beside"), *parts]


def label_scores(run: RunOutputs) -> list[Markup]:
    parts = []
    for kind, rows in run.label_scores.items():
        if not rows:
            command = (f"python evaluate_labels.py --truth-dir T --data-list {kind}_list.txt --score-path"
                       f" scores/labels_{kind}_list.json pseudo=pseudo_labels")  # fmt: skip
            parts.append(missing(f"No scores of the {kind} images' labels.", run.hint(command)))
            continue
        head = ("labels", "mIoU %", "labelled %", "error %")
        lines = [(name, *(percent(row.get(key)) for key in ("Mean IoU", "labelled", "error")))
                 for name, row in rows.items()]  # fmt: skip
        text = (f"Labels of the {kind} training images against the truth: mIoU of the pixels that they label, the"
                " share of these pixels, and the share of them that is wrong.")  # fmt: skip
        parts.append(table(text, head, lines))
    return [tag("div", parts, class_="beside")]


def confusion(run: RunOutputs) -> list[Markup]:
    found = [stage for stage in run.stages if stage.confusion]
    if not found:
        return [missing("No confusion matrix beside the scores.", run.stages[0].made_by)]
    shown = found if len(found) == 1 else [found[-1], found[0]]
    return [
        tag("div", [_matrix(stage.name, stage.confusion, run.names) for stage in shown], class_="matrices")
    ]


def _matrix(name: str, rows: list[list[int]], names: Sequence[str]) -> Markup:
    """Counts as percentages of the true labels, shaded."""

    def cell(value: int, total: int, hit: bool) -> Markup:
        share = value / total if total else 0
        text = "" if not value else f"{100 * share:.0f}" if share >= 0.005 else "·"
        return tag("td", text, class_="hit" if hit else "miss", style=f"--v:{share:.3f}")

    lines = []
    for label, row in enumerate(rows):
        total = sum(row)
        lines.append((names[label], *(cell(v, total, label == n) for n, v in enumerate(row)), f"{total:,}"))
    head = ["true label", *(tag("span", shown) for shown in names), "pixels"]
    text = (f"Confusion matrix of {name}: of the pixels of each true label (row), the % that get each label (column)."
            " Blue: right, orange: wrong, a dot: less than half a per cent.")  # fmt: skip
    return table(text, head, lines, class_="matrix")
