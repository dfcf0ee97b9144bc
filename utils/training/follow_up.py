"""The commands that continue after a training of stage 1."""

import argparse
import shlex
from pathlib import Path

DEFAULTS = {"data_dir": Path("dataset/VOC2012"), "class_names": None, "ignore_label": 255, "num_classes": 21}


def next_commands(args: argparse.Namespace) -> list[str]:
    """Evaluation, CRF, prediction and report, with the paths and the options of the run."""
    folder = args.snapshot_dir
    changed = {name: getattr(args, name) for name, default in DEFAULTS.items() if getattr(args, name) != default}
    names = {"class_names": args.class_names} if args.class_names else {}
    weights = {"restore_from": folder / "VOC_best.pth"}
    logits, maps, predictions, run = {}, {}, {}, "."
    if folder != Path("snapshots"):  # with the default, the defaults of the other scripts
        logits = {"logit_dir": folder / "logit_val", "score_dir": folder / "scores"}
        maps, predictions, run = ({"prediction_dir": folder / "crf_val"}, {"out": folder / "predictions"}, folder)
    val = {"data_list": args.list_dir / "val.txt"} | changed
    commands = [
        command("evaluate.py", **weights, **val, **logits),
        command("evaluate_crf.py", **val, **logits, **maps),
        command("predict.py", **weights, **names, **predictions) + " photo.jpg",
        command("report.py", run=run),
    ]
    return commands[2:] if args.no_val else commands


def command(script: str, **options: object) -> str:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return shlex.join(["python", script, *words])
