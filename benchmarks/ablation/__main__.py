"""Contribution of each part of the method, on photographs or drawn images whose true masks are known.

    python -m benchmarks.ablation                                       drawn images
    python -m benchmarks.ablation --setting photos --photos DIR         photographs, with MobileNetV2
    python -m benchmarks.ablation --rows full onf+pnd --options="--high-T 2"    other rows, other constants

Every run is a training by train.py; the weights of its last iteration are scored on val, raw and + CRF, so nothing is
selected on val. A seed determines the initial weights, the sampling and, if it is drawn, the data set. Results are in
--out: the tables, ablation.md, and a folder of each run with its weights, logs and result.json. Finished runs are not
repeated. If interrupted, rerun the command to resume. To use several cores, start it several times with
OMP_NUM_THREADS=1: each process takes runs that no other works on.
"""

import argparse
import contextlib
import fcntl
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks.ablation.plan import ROWS, SETTINGS, Run, plan
from benchmarks.ablation.report import report
from benchmarks.ablation.run import do_run
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import atomic_write, save_json
from utils.training.resume import lock_folder

SETTING_HELP = (
    "small: drawn images; photos: photographs, scored on every other validation image; photos-choose: scored on the"
    " rest of them, to choose options"
)
KEPT = ("result.json", "log.jsonl", "val.jsonl", "run.json", "final.pth")  # of a finished run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.prog = "python -m benchmarks.ablation"
    add = parser.add_argument
    add("--setting", choices=SETTINGS, default="small", help=SETTING_HELP)
    add("--photos", type=Path, metavar="DIR", help="folder of the photographs, see benchmarks/RESULTS.md")
    add("--seeds", type=cli.count, nargs="+", default=[20, 21, 22], help="one run of every row per seed")
    text = "plain, full, truth, parts joined by + (cls+onf), or full-PART (default: those of the tables, and truth)"
    add("--rows", nargs="+", metavar="ROW", help=text)
    text = "shares of the drawn images whose label has a wrong object, and a wrong border"
    add("--noise", type=cli.fraction, nargs=2, default=[0.3, 0.8], metavar=("OBJECT", "BORDER"), help=text)
    add("--options", help="options of train.py that override those of the setting (default: none)")
    add("--labels", action="store_true", help="also make and score the pseudo labels for stage 2")
    add("--out", type=Path, help="results (default: runs/ablation-SETTING)")
    add("--report-only", action="store_true", help="run nothing; write the tables of the finished runs")
    add("--keep", action="store_true", help="keep everything that a finished run has written")
    add("--n-jobs", type=cli.positive_int, default=1, help="processes of the CRF")
    add("--device", help="cpu, cuda, cuda:N or mps (default: the GPU if there is one)")
    args = parser.parse_args(argv)
    args.rows, args.options = args.rows or list(ROWS), args.options or ""
    args.out = args.out or Path(f"runs/ablation-{args.setting}")
    return args


def finish(run: Run, args: argparse.Namespace) -> None:
    """Do a run, unless it is finished or another process works on it."""
    folder = args.out / run.key
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(lock_folder(args.out / "running" / run.key))
        except InputError:
            print(f"in progress in another process: {run.name}")
            return
        if (folder / "result.json").exists():
            return
        print(f"\n{run.name}", flush=True)
        with (args.out / "data.lock").open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)  # wait while another process makes the data
            data = run.setting.make_data(args.out / "data", run.seed, run.noise, args.photos)
        options = run.train_options(data, args.photos)
        result = do_run(options, folder, args.n_jobs, args.device, args.labels)
        save_json(folder / "result.json", {**asdict(run), "setting": args.setting, **result})
        for path in () if args.keep else folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in KEPT:
                path.unlink()


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    planned = plan(args.setting, args.rows, args.seeds, tuple(args.noise), args.options)
    for run in dict.fromkeys(run for same in planned.values() for run in same):
        if not args.report_only:
            finish(run, args)
    paths = {row: [args.out / run.key / "result.json" for run in same] for row, same in planned.items()}
    found = {row: [json.loads(p.read_text()) for p in same if p.exists()] for row, same in paths.items()}
    finished = {row: results for row, results in found.items() if results}
    if finished:
        text = report(finished)
        with atomic_write(args.out / "ablation.md", "w") as file:
            file.write(text)
        print(f"\n{text}\ntables: {args.out / 'ablation.md'}")
    elif args.report_only:
        raise InputError(f"{args.out} has no finished run of these rows: run without --report-only")


if __name__ == "__main__":
    run_script(main)
