"""The whole of it on a small data set of drawn pictures: data, training, evaluation, a picture of the results.

    make demo           the method
    make demo-plain     the same run with every part of the method left out: plain cross-entropy

Every step is one of the project's scripts; its command line is printed before it runs.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.lists import read_class_names, read_list
from utils import options
from utils.files import InputError, atomic_write, run_script, save_image
from utils.pictures import contact_sheet

CLASSES = "aeroplane,bicycle,bird,car,cat,person"
NUM_CLASSES = 7
PLAIN = ("--no-onf", "--no-pnd", "--no-s2c", "--no-c2s", "--no-cls")
SHOWN = 8  # rows of the overview


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of everything the demo makes")
    parser.add_argument("--plain", action="store_true", help="leave out every part of the method")
    parser.add_argument(
        "--seed", type=options.count, default=0, help="seed of the pictures and of the training"
    )
    parser.add_argument("--num-steps", type=options.positive_int, default=600, help="training iterations")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps")
    return parser.parse_args(argv)


def run(*command: object) -> None:
    """Print and run one command of the project; its failure ends the demo with its status."""
    words = [str(word) for word in command]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    started = time.monotonic()
    status = subprocess.run([sys.executable, *words], cwd=Path(__file__).parent).returncode
    if status:
        raise SystemExit(status)
    print(f"  ({time.monotonic() - started:.0f} s)", flush=True)


def make_data(root: Path, seed: int) -> None:
    run("-m", "datasets.openmoji", "--root", root, "--classes", CLASSES, "--simple", 600, "--complex", 300,
        "--val", 150, "--size", 128, "--seed", seed)  # fmt: skip


def data_options(data: Path) -> list[object]:
    return ["--data-dir", data, "--num-classes", NUM_CLASSES, "--class-names", data / "lists/class_names.txt"]


def train(args: argparse.Namespace, data: Path) -> None:
    """The recipe of a network without pre-training: warm-up and thresholds found by trial (see the README)."""
    run("train.py", *data_options(data), "--list-dir", data / "lists", "--pseudo-label-dir", data / "sal2gt",
        "--arch", "mini", "--restore-from", "none", "--input-size", 97, "--batch-size", 8, "--random-mirror",
        "--num-steps", args.num_steps, "--learning-rate", 0.003,
        "--denoise-from", args.num_steps * 2 // 5, "--high-T", 4, "--low-T", 2, "--iou-thresholds", 0.3,
        *(PLAIN if args.plain else ()), "--save-pred-every", 200, "--random-seed", args.seed,
        "--snapshot-dir", args.out / "snapshots", "--device", args.device, "--channels-last",
        "--num-workers", 0)  # fmt: skip


def evaluate(args: argparse.Namespace, data: Path) -> None:
    common = (*data_options(data), "--restore-from", args.out / "snapshots/VOC_best.pth",
              "--device", args.device, "--num-workers", 0)  # fmt: skip
    shown = args.out / "shown.txt"
    with atomic_write(shown, "w") as file:
        file.writelines(f"{entry.id}\n" for entry in shown_training_images(data))
    run("evaluate.py", *common, "--data-list", shown, "--label-dir", data / "truth", "--no-logits",
        "--score-dir", args.out / "scores/shown", "--save-predictions", args.out / "predictions")  # fmt: skip
    run("evaluate.py", *common, "--data-list", data / "lists/val.txt", "--logit-dir", args.out / "logit_val",
        "--score-dir", args.out / "scores", "--save-predictions", args.out / "predictions")  # fmt: skip


def shown_training_images(data: Path) -> list:
    return read_list(data / "lists/simple_list.txt", NUM_CLASSES)[:SHOWN]


def save_overview(out: Path, data: Path) -> None:
    """Training images with their truth and pseudo label on the left, validation images on the right."""

    def picture(*parts: str) -> np.ndarray:
        path = Path(*parts)
        try:
            with Image.open(path) as image:
                return np.array(image)
        except OSError as error:
            raise InputError(f"{path}: {error}; delete {out} and run the demo again") from None

    val = read_list(data / "lists/val.txt", NUM_CLASSES, labelled=False)
    rows = []
    for simple, whole in zip(shown_training_images(data), val):
        rows.append([
            picture(data, "JPEGImages", f"{simple.id}.jpg"), picture(data, "truth", f"{simple.id}.png"),
            picture(data, "sal2gt", f"{simple.id}.png"), picture(out, "predictions", f"{simple.id}.png"),
            picture(data, "JPEGImages", f"{whole.id}.jpg"),
            picture(data, "SegmentationClassAug", f"{whole.id}.png"),
            picture(out, "predictions", f"{whole.id}.png"),
        ])  # fmt: skip
    titles = ["train image", "truth", "pseudo label", "prediction", "val image", "truth", "prediction"]
    names = read_class_names(data / "lists/class_names.txt", NUM_CLASSES)
    legend = [*((name, label) for label, name in enumerate(names) if label), ("ignored", 255)]
    save_image(out / "overview.png", contact_sheet(rows, titles, legend=legend))


def main(args: argparse.Namespace) -> None:
    started = time.monotonic()
    data = args.out / "data"
    make_data(data, args.seed)
    train(args, data)
    evaluate(args, data)
    save_overview(args.out, data)
    scores = json.loads((args.out / "scores/scores.json").read_text())
    print(
        f"\nval mIoU {100 * scores['Mean IoU']:.2f} %, {time.monotonic() - started:.0f} s in all;"
        f" pictures: {args.out / 'overview.png'}"
    )


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
