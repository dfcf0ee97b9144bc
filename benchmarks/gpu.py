"""Everything about speed on one GPU, in at most nine minutes: `make gpu`.

    python benchmarks/gpu.py                              on a GPU
    python benchmarks/gpu.py --device cpu --arch mini     small sizes on a CPU, to see that everything runs

Each part runs in a process of its own with a time limit, so that one that fails or takes too long does not stop the
others. What it has measured by then is kept. After each part, gpu.json (all results) and gpu.md (tables for
benchmarks/RESULTS.md, and the aims on an H100) in --out are rewritten; PART.log has the part's output.

tests        the tests marked `cuda`, such as a whole iteration on the GPU against the CPU, and the reference numbers
iteration    time, host time, launches and peak memory of all modes of train_step.py, in all four kinds of iteration
kernels      the 20 most expensive kernels
loading      the loaders on all cores with pinned copies
evaluation   evaluate.py
crf          the dense CRF against pydensecrf, or the torch backend on the CPU
training     500 iterations of a ResNet-50 with train.py
compiled     as `iteration`, with torch.compile; has the time that the other parts leave

Exit status: 1 if a part did not finish or a test failed.
"""

import argparse
import contextlib
import datetime
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import make_parser, set_threads, set_up, table
from benchmarks.gpu_parts import iteration, profiling, scripts, summary, training
from benchmarks.gpu_parts.preset import Context, Record, record_path
from networks.deeplab import ARCHS
from utils.core.cli import positive
from utils.core.errors import run_script
from utils.core.files import atomic_write, save_json
from utils.core.provenance import device_name, git_revision, versions

BUDGET = 530  # seconds of all parts together


class Part(NamedTuple):
    """A part and its time limit in seconds."""

    run: Callable[[Context], None]
    limit: float


PARTS = {
    "tests": Part(scripts.tests, 80),
    "iteration": Part(iteration.iteration, 165),
    "kernels": Part(profiling.kernels, 35),
    "loading": Part(scripts.loading, 45),
    "evaluation": Part(scripts.evaluation, 45),
    "crf": Part(scripts.crf, 30),
    "training": Part(training.training, 65),
    "compiled": Part(iteration.compiled, 65),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--arch", choices=ARCHS, default="resnet101", help="segmentation network")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--limits", nargs="+", type=limit, default=[], metavar="PART=SECONDS", help="other time limits")
    add("--out", type=Path, default=Path("runs/gpu"), help="directory of the results")
    add("--run-part", choices=PARTS, help=argparse.SUPPRESS)  # in the process of the part
    parser.set_defaults(device="cuda")
    args = parser.parse_args(argv)
    args.out = args.out.resolve()
    return args


def limit(value: str) -> tuple[str, float]:
    """`crf=20` -> (crf, 20)."""
    name, _, seconds = value.partition("=")
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name} is not one of {', '.join(PARTS)}")
    return name, positive(seconds)


def run_part(name: str, seconds: float, args: argparse.Namespace) -> dict:
    """Runs a part in a process of its own; returns its results, how it ended and the time it took."""
    record, log = record_path(args.out, name), args.out / f"{name}.log"
    record.unlink(missing_ok=True)
    options = ["--run-part", name, "--out", args.out, "--arch", args.arch, "--device", args.device]
    command = [sys.executable, __file__, *options, "--threads", args.threads]
    start = time.monotonic()
    # A killed process does not delete its files.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, open(log, "wb") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"TMPDIR": folder},
        )
        try:
            status = process.wait(seconds)
            state = "finished" if status == 0 else f"failed with exit status {status}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            state = f"stopped at its limit of {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            process.wait()
    used = round(time.monotonic() - start, 1)
    return {"status": state, "seconds_used": used, "limit": seconds, **Record(record).read()}


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def write(results: dict, out: Path) -> None:
    """Writes gpu.json and gpu.md. An error in the tables must not stop the parts that are still to come."""
    save_json(out / "gpu.json", results)
    try:
        results["aims"] = summary.aims(results["parts"])
        text = summary.markdown(results)
    except Exception:
        traceback.print_exc()
        return
    save_json(out / "gpu.json", results)
    with atomic_write(out / "gpu.md", "w") as file:
        file.write(text)


def measure(args: argparse.Namespace) -> dict:
    """Runs the parts one after the other; the last one may take the time that the others left."""
    device = set_up(args)
    results: dict = {
        "command": shlex.join(sys.argv),
        "date": str(datetime.date.today()),
        "device": device_name(device),
        "versions": versions(),
        "git": git_revision(),
        "parts": {},
        "aims": [],
    }
    start, limits = time.monotonic(), dict(args.limits)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.parts:
        seconds = PARTS[name].limit
        if name == args.parts[-1]:
            seconds = max(seconds, BUDGET - (time.monotonic() - start))
        part = run_part(name, limits.get(name, seconds), args)
        results["parts"][name] = part
        write(results, args.out)
        print(f"{name:10}  {part['seconds_used']:6.1f} s  {part['status']}", flush=True)
    return results


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.run_part:
        set_threads(args.threads)
        PARTS[args.run_part].run(Context.of(args, args.run_part))
        return
    results = measure(args)
    if results["aims"]:
        print(f"\n{table(results['aims'])}")
    print(f"\n{args.out / 'gpu.json'}, {args.out / 'gpu.md'}")
    unfinished = [name for name, part in results["parts"].items() if part["status"] != "finished"]
    if unfinished or results["parts"].get("tests", {}).get("failed"):
        raise SystemExit(1)


if __name__ == "__main__":
    run_script(main)
