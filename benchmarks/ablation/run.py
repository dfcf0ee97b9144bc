"""Contribution of each part of the method, on the drawn data set or on photographs whose ground truth is known.

    python -m benchmarks.ablation             the published ablation, and the full method without each part
    python -m benchmarks.ablation --sweep     cross-entropy and the full method, from clean labels to heavy noise
    python -m benchmarks.ablation --rows full onf+pnd --options="--high-T 2"    other rows, other constants
    python -m benchmarks.ablation --setting photos --photos DIR --rows plain cls cls+onf full    photographs

Each seed has its own initial weights, sampling and, if it is drawn, data set. Every run trains with train.py,
measures the quality of ONF and PND during the training, and scores the weights of the last iteration on val, raw and
+ CRF, so that nothing is selected on val. Finished runs are lines of runs.jsonl in --out and are not repeated. If
interrupted, rerun the command to resume. Tables and plots are of all planned rows with a finished run.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path

import torch

from benchmarks.ablation.plan import SETTINGS, Run, in_order, plan
from benchmarks.ablation.probe import Probe
from benchmarks.ablation.scores import score
from benchmarks.common import require_matplotlib
from train import train
from utils.core import cli
from utils.core.device import pick_device
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.crf.run import add_crf_running_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.prog = "python -m benchmarks.ablation"
    add = parser.add_argument
    rows = "plain, full, parts joined by + (cls+onf), or full-PART (default: those of the published ablation)"
    settings = (
        "small: CPU; full: 20 classes, ResNet-101, GPU; photos: photographs on a CPU, scored on every other"
        " validation image; photos-choose: on the rest of them, to choose options"
    )
    photos = (
        "directory for the photos settings, with JPEGImages, SegmentationClassAug, saliency (maps of the one-class"
        " training images) and voc_list (train_cls.txt, val.txt)"
    )
    options = "options of train.py that override those of the setting; results are stored as separate runs"
    add("--setting", choices=SETTINGS, default="small", help=settings)
    add("--photos", type=Path, metavar="DIR", help=photos)
    add("--seeds", type=cli.count, nargs="+", default=[20, 21, 22], help="one run of every row per seed")
    add("--rows", nargs="+", metavar="ROW", help=rows)
    add("--sweep", action="store_true", help="run the rows plain and full at four levels of noise")
    add("--options", default="", help=options)
    out = (
        "folder of runs.jsonl, tables and plots (default: runs/ablation, runs/ablation-SETTING if not small)"
    )
    add("--out", type=Path, help=out)
    add("--report-only", action="store_true", help="run nothing; write tables and plots of the finished runs")
    add("--keep", action="store_true", help="keep the weights, logits and label maps of finished runs")
    add("--device", help="cpu, cuda, cuda:N or mps (default: the GPU if there is one)")
    add_crf_running_options(parser)
    args = parser.parse_args(argv)
    if args.out is None:
        args.out = Path("runs/ablation" if args.setting == "small" else f"runs/ablation-{args.setting}")
    return args


def read_runs(path: Path) -> dict[str, dict]:
    """The finished runs by key."""
    if not path.exists():
        return {}
    try:
        return {line["key"]: line for line in map(json.loads, path.read_text().splitlines())}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): repair or delete it") from None


def late_means(path: Path) -> dict[str, float]:
    """Means of train.py's log over the second half of the lines; loss_D is near 0 if the discriminator wins."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    values: dict[str, list[float]] = {}
    for name, value in (item for line in lines[len(lines) // 2 :] for item in line.items()):
        values.setdefault(name, []).append(value)
    return {name: statistics.fmean(found) for name, found in values.items() if name not in ("i", "lr")}


def do_run(run: Run, args: argparse.Namespace) -> dict:
    """Trains and scores; returns the line of runs.jsonl."""
    train_args, s = run.train_args(args.out, args.device), run.setting
    folder = train_args.snapshot_dir
    label_iou = s.make_data(train_args.data_dir, run.seed, run.noise, args.photos)
    probe = Probe(train_args, s.probe_images, folder / "probe")
    started = time.monotonic()
    train(train_args, probe)
    seconds = time.monotonic() - started  # after a resume: only of the rest
    return {
        "key": run.key,
        **vars(run),
        "setting": args.setting,
        "label_iou": label_iou,
        **score(train_args, args, folder),
        "probe": probe.results(),
        "log": late_means(folder / "log.jsonl"),
        "train_seconds": round(seconds, 1),
        "device": str(pick_device(train_args.device, train_args.gpu)),
        "torch": torch.__version__,
    }


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    require_matplotlib()
    from benchmarks.ablation.report import report  # imports matplotlib

    planned, path = plan(args), args.out / "runs.jsonl"
    done, runs = read_runs(path), in_order(planned)
    for run in runs:
        run.train_args(args.out, args.device)  # reports a wrong option before the first run
    for number, run in enumerate(() if args.report_only else runs, 1):
        if run.key in done:
            continue
        print(f"\nrun {number} of {len(runs)}: {run.name}", flush=True)
        done[run.key] = do_run(run, args)
        with atomic_write(path, "w") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in done.values())
        if not args.keep:
            shutil.rmtree(args.out / "running" / run.key)
    lines = {row: [done[run.key] for run in same if run.key in done] for row, same in planned.items()}
    finished = {row: found for row, found in lines.items() if found}
    if not finished:
        raise InputError(f"{path} has no finished run of these rows: run without --report-only")
    report(finished, args.out, args.sweep)
