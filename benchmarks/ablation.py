"""The method part by part on the embedded data set, whose truth is known.

    python benchmarks/ablation.py             rows of the published ablation, and the full method less each part
    python benchmarks/ablation.py --sweep     cross-entropy against the full method, from clean to heavy noise
    python benchmarks/ablation.py --rows full onf+pnd --options="--high-T 2"    other rows, other constants

A seed is a data set, initial weights and a sampling of its own. Every run trains with train.py, looks at ONF and
PND as it goes (ablation_probe.py) and scores the last iteration's weights on val, raw and + CRF, so that nothing is
chosen on val. A finished run is a line of runs.jsonl in --out and is not run again; a stopped one goes on. Tables
and plots are made anew at the end, of the rows with a finished run.
"""

import argparse
import json
import shlex
import shutil
import statistics
import sys
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.ablation_probe import Probe
from benchmarks.ablation_report import check_matplotlib, report
from benchmarks.ablation_scores import score
from datasets.openmoji.dataset import make_dataset
from datasets.voc import VOC_CLASSES
from train import train
from utils.core import cli
from utils.core.device import pick_device
from utils.core.errors import InputError, run_script
from utils.core.files import atomic_write
from utils.crf.run import add_crf_running_options
from utils.training.options import parse_args as parse_train_args

PARTS = ("cls", "onf", "pnd", "s2c", "c2s")
CUMULATIVE = ("plain", *("+".join(PARTS[:n]) for n in range(1, len(PARTS))), "full")
ROWS = (*CUMULATIVE, *(f"full-{part}" for part in PARTS))
SWEEP_ROWS = ("plain", "full")
NOISE = (0.3, 0.8)  # of the ablation: share of the images with a wrong object, and with a wrong border
SWEEP_NOISE = ((0.0, 0.0), (0.15, 0.4), NOISE, (0.6, 1.0))


@dataclass(frozen=True)
class Setting:
    """A size of the experiment: pictures, and the options of train.py that all rows share."""

    classes: tuple[str, ...]
    simple: int
    complex: int
    val: int
    size: int
    probe_images: int
    options: str


SETTINGS = {
    # For CPUs. The schedule suits a network without pre-training: it must first learn what to filter with.
    "small": Setting(
        ("bus", "cat", "horse", "tvmonitor"), 600, 300, 200, 84, 200,
        "--arch mini --restore-from none --input-size 65 --batch-size 8 --random-mirror --num-steps 400"
        " --learning-rate 0.005 --denoise-from 240 --high-T 3 --low-T 1.5 --iou-thresholds 0.3"
        " --save-pred-every 80 --channels-last --num-workers 0",
    ),
    # For a GPU: the published network, crop and schedule, from torchvision's weights.
    "full": Setting(
        VOC_CLASSES, 6000, 3000, 500, 375, 300,
        "--restore-from imagenet --iou-thresholds auto --long-tail-labels none --save-pred-every 1000",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training: what its result depends on."""

    setting: Setting
    parts: tuple[str, ...]
    seed: int
    noise: tuple[float, float] = NOISE
    options: str = ""  # behind the setting's

    @property
    def key(self) -> str:
        """The same for the same run, whatever the row is called."""
        return f"{zlib.crc32(json.dumps(asdict(self), sort_keys=True).encode()):08x}"

    @property
    def name(self) -> str:
        return (
            f"{'+'.join(self.parts) or 'plain'}, seed {self.seed}, noise {self.noise[0]:g}/{self.noise[1]:g}"
        )

    def train_args(self, out: Path, device: str | None) -> argparse.Namespace:
        """The options of train.py, with the folders of this run."""
        data = out / "data" / f"{zlib.crc32(repr(self.setting).encode()):08x}_{self.seed}_{self.noise}"
        words = [
            "--data-dir", data, "--list-dir", data / "lists", "--pseudo-label-dir", data / "sal2gt",
            "--class-names", data / "lists/class_names.txt", "--num-classes", len(self.setting.classes) + 1,
            "--random-seed", self.seed, "--no-val", "--snapshot-dir", out / "running" / self.key,
            *shlex.split(f"{self.setting.options} {self.options}"),
            *(f"--no-{part}" for part in PARTS if part not in self.parts),
            *(("--device", device) if device else ()),
        ]  # fmt: skip
        return parse_train_args("", [str(word) for word in words])


def parts_of(row: str) -> tuple[str, ...]:
    """The parts that a row trains with: `plain`, `full` or parts joined by +, less what stands behind a `-`."""
    base, *left_out = row.split("-")
    named = {"plain": [], "full": list(PARTS)}.get(base, base.split("+"))
    if not {*named, *left_out} <= {*PARTS}:
        raise InputError(
            f"--rows {row}: give plain, full, parts joined by +, or full-PART; the parts are {', '.join(PARTS)}"
        )
    return tuple(part for part in PARTS if part in named and part not in left_out)


def plan(args: argparse.Namespace) -> dict[tuple[str, tuple[float, float]], list[Run]]:
    """The runs by row and noise, one a seed; rows with the same parts share theirs."""
    setting = SETTINGS[args.setting]
    rows = args.rows or (SWEEP_ROWS if args.sweep else ROWS)
    return {
        (row, noise): [
            Run(setting, parts_of(row), seed, noise, args.options) for seed in dict.fromkeys(args.seeds)
        ]
        for noise in (SWEEP_NOISE if args.sweep else (NOISE,))
        for row in rows
    }


def in_order(planned: dict) -> list[Run]:
    """Each run once; cross-entropy and the full method first, so that an early stop still compares them."""
    runs = dict.fromkeys(run for same_row in planned.values() for run in same_row)
    return sorted(runs, key=lambda run: run.parts not in ((), PARTS))


def read_runs(path: Path) -> dict[str, dict]:
    """The finished runs by key."""
    if not path.exists():
        return {}
    try:
        return {line["key"]: line for line in map(json.loads, path.read_text().splitlines())}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): mend or delete it") from None


def late_means(path: Path) -> dict[str, float]:
    """Means of what train.py logged in the second half of the iterations; loss_D near 0 means that D has won."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    values: dict[str, list[float]] = {}
    for name, value in (item for line in lines[len(lines) // 2 :] for item in line.items()):
        values.setdefault(name, []).append(value)
    return {name: statistics.fmean(found) for name, found in values.items() if name not in ("i", "lr")}


def do_run(run: Run, args: argparse.Namespace) -> dict:
    """Train and score; returns the line of runs.jsonl."""
    train_args = run.train_args(args.out, args.device)
    setting, folder, (image_noise, pixel_noise) = run.setting, train_args.snapshot_dir, run.noise
    data = make_dataset(
        train_args.data_dir, setting.classes, setting.simple, setting.complex, setting.val, setting.size, run.seed,
        image_noise, pixel_noise,
    )  # fmt: skip
    probe = Probe(train_args, setting.probe_images, folder / "probe")
    started = time.monotonic()
    train(train_args, probe)
    seconds = time.monotonic() - started  # of the last part alone, where the run was stopped
    return {
        "key": run.key, "setting": args.setting, "options": run.options, "parts": run.parts, "seed": run.seed,
        "noise": run.noise, "label_iou": data["measured"]["mean_foreground_iou"],
        **score(train_args, args, folder), "probe": probe.seen(), "log": late_means(folder / "log.jsonl"),
        "train_seconds": round(seconds, 1),
        "device": str(pick_device(train_args)), "torch": torch.__version__,
    }  # fmt: skip


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--setting", choices=SETTINGS, default="small", help="small: CPU; full: 20 classes, ResNet-101, GPU")
    add("--seeds", type=cli.count, nargs="+", default=[20, 21, 22], help="one run of every row each")
    add("--rows", nargs="+", metavar="ROW",
        help="plain, full, parts joined by + (cls+onf) or full-PART; the published ones unless given")  # fmt: skip
    add("--sweep", action="store_true", help="the rows plain and full at four levels of noise")
    add("--options", default="", help="options of train.py, behind the setting's; such runs are others")
    add("--out", type=Path, default=Path("runs/ablation"), help="folder of runs.jsonl, table and plots")
    add("--report-only", action="store_true", help="run nothing; table and plots of what is finished")
    add("--keep", action="store_true", help="keep weights, logits and label maps of finished runs")
    add("--device", help="cpu, cuda, cuda:N or mps; the GPU where there is one, unless given")
    add_crf_running_options(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    check_matplotlib()
    planned, path = plan(args), args.out / "runs.jsonl"
    done, runs = read_runs(path), in_order(planned)
    for run in runs:
        run.train_args(args.out, args.device)  # a wrong option is told before the first run, not after it
    for number, run in enumerate(() if args.report_only else runs, 1):
        if run.key in done:
            continue
        print(f"\nrun {number} of {len(runs)}: {run.name}", flush=True)
        done[run.key] = do_run(run, args)
        with atomic_write(path, "w") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in done.values())
        if not args.keep:
            shutil.rmtree(args.out / "running" / run.key)
    finished = {
        row: lines
        for row, same_row in planned.items()
        if (lines := [done[run.key] for run in same_row if run.key in done])
    }
    if not finished:
        raise InputError(f"{path} holds no finished run of these rows: leave out --report-only")
    report(finished, args.out, args.sweep)


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
