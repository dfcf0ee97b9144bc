"""The whole pipeline on a small drawn data set: data, stage 1, CRF, pseudo labels, stage 2, report.

    make demo           the method
    make demo-plain     stage 1 without any part of the method: plain cross-entropy

Every step is one of the project's scripts, and its command line is printed before it runs. Below --out, the results
have the same layout as those of a run in the project's folder. The last step writes report.html.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from datasets.lists import read_class_names
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import save_json
from utils.report.page import check_packages

ROOT = Path(__file__).resolve().parent
CLASSES = "bicycle,bus,cat,horse,pottedplant,tvmonitor"
NUM_CLASSES = 7
PLAIN = ("--no-onf", "--no-pnd", "--no-s2c", "--no-c2s", "--no-cls")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the results")
    parser.add_argument("--plain", action="store_true", help="only stage 1, without the method")
    parser.add_argument("--seed", type=cli.count, default=0, help="seed of the images and of the training")
    parser.add_argument("--num-steps", type=cli.positive_int, default=800, help="iterations of stage 1")
    parser.add_argument("--step2-steps", type=cli.positive_int, default=300, help="iterations of stage 2")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps")
    return parser.parse_args(argv)


class Demo:
    """The steps of the demo, in order."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out, self.data = args, args.out.resolve(), args.out.resolve() / "data"
        self.classes = ["--num-classes", NUM_CLASSES]
        self.images = ["--data-dir", self.data, *self.classes, "--device", args.device]
        self.names = ["--class-names", self.data / "lists/class_names.txt"]
        self.network = ["--restore-from", self.out / "snapshots/VOC_best.pth", "--num-workers", 0]
        self.seconds: dict[str, float] = {}
        self.commands: list[dict[str, object]] = []

    def run(self, *command: object, cwd: Path = ROOT) -> None:
        """Print and run one command of the project; if it fails, the demo exits with its status."""
        words = [os.path.relpath(word, cwd) if isinstance(word, Path) else str(word) for word in command]
        place = "" if cwd == ROOT else f"cd {cwd.relative_to(ROOT)} && "
        line = f"{place}python {shlex.join(words)}"
        print(f"\n$ {line}", flush=True)
        started = time.monotonic()
        status = subprocess.run([sys.executable, *words], cwd=cwd, check=False).returncode
        if status:
            raise SystemExit(status)
        name = " ".join(word for word in words[:2] if not word.startswith("-"))
        seconds = time.monotonic() - started
        self.seconds[name] = self.seconds.get(name, 0) + seconds
        self.commands.append({"command": line, "seconds": seconds})

    def make_data(self) -> None:
        counts = ("--simple", 600, "--complex", 300, "--val", 150)
        options = ("--classes", CLASSES, *counts, "--size", 128, "--seed", self.args.seed)
        self.run("-m", "datasets.openmoji", "--root", self.data, *options)

    def train(self) -> None:
        """Train stage 1. Denoising starts late, as the network is not pre-trained."""
        steps, seed = self.args.num_steps, self.args.seed
        schedule = ("--num-steps", steps, "--learning-rate", 0.005, "--denoise-from", steps * 2 // 5)
        thresholds = ("--high-T", 3, "--low-T", 1.5, "--iou-thresholds", 0.3)
        places = ("--list-dir", self.data / "lists", "--pseudo-label-dir", self.data / "sal2gt")
        network = ("--arch", "mini", "--restore-from", "none", "--input-size", 97, "--batch-size", 8)
        run = ("--save-pred-every", 200, "--random-seed", seed, "--snapshot-dir", self.out / "snapshots")
        method = (*schedule, *thresholds, *(PLAIN if self.args.plain else ()))
        options = (*places, *network, "--random-mirror", *method, *run, "--channels-last", "--num-workers", 0)
        self.run("train.py", *self.images, *self.names, *options)

    def evaluate(self) -> None:
        val = ("--data-list", self.data / "lists/val.txt", "--logit-dir", self.out / "logit_val")
        common = (*self.images, *self.names, *val, "--score-dir", self.out / "scores")
        self.run("evaluate.py", *common, *self.network)
        self.run("evaluate_crf.py", *common, "--prediction-dir", self.out / "crf_val")

    def pseudo_labels(self) -> None:
        """Generate the pseudo labels, and score the labels of each step against the truth.

        Stage 2 uses `pseudo_labels`; the label maps in `labels` are only for the table of scores and the report.
        """
        train_cls = ("--data-list", self.data / "lists/train_cls.txt")
        common = (*self.images, "--logit-dir", self.out / "logit_train_aug", *train_cls)
        self.run("gen_label.py", *common, *self.network, "--overwrite")
        steps = {"raw": ("--crf-iterations", 0), "crf": (), "image_labels": ("--use-image-labels",)}
        for name, options in steps.items():
            folder = ("--pseudo-label-dir", self.out / "labels" / name)
            self.run("gen_label_crf.py", *common, *folder, *options)
        shutil.rmtree(self.out / "pseudo_labels", ignore_errors=True)
        shutil.copytree(self.out / "labels/crf", self.out / "pseudo_labels")
        for name in ("pseudo_labels", "labels/image_labels"):
            folder = ("--pseudo-label-dir", self.out / name)
            self.run("gen_label_mining.py", *self.classes, *train_cls, *folder)
        self.score_labels("simple_list", {"saliency": self.data / "sal2gt"})
        self.score_labels("complex_list", {})

    def score_labels(self, images: str, folders: dict[str, Path]) -> None:
        """Score the labels of every step, and those in `folders`, against the truth."""
        labels = self.out / "labels"
        folders = folders | {
            "network": labels / "raw",
            "+CRF": labels / "crf",
            "+mining": self.out / "pseudo_labels",
            "+image-labels": labels / "image_labels",
        }
        named = [f"{name}={os.path.relpath(folder, ROOT)}" for name, folder in folders.items()]
        truth = ("--truth-dir", self.data / "truth", "--data-list", self.data / f"lists/{images}.txt")
        table = ("--score-path", self.out / f"scores/labels_{images}.json")
        self.run("evaluate_labels.py", *self.classes, *truth, *table, *named)

    def step2(self) -> None:
        """Train and evaluate stage 2. The configuration names the folders of `--out demo`; others override them."""
        paths = {
            "EXP.OUTPUT_DIR": self.out / "step2/data",
            "DATASET.ROOT": self.data,
            "DATASET.PSEUDO_LABELS": self.out / "pseudo_labels",
            "DATASET.LABELS": self.data / "lists/class_names.txt",
            "DATASET.SPLIT.VAL": self.data / "lists/val.txt",
            "DATASET.SPLIT.TRAIN": self.data / "lists/train_aug.txt",
            "MODEL.INIT_MODEL": self.out / "snapshots/VOC_best.pth",
        }
        overrides = [f"SOLVER.ITER_MAX={self.args.step2_steps}"]
        if self.out != ROOT / "demo":
            overrides += [f"{key}={os.path.relpath(path, ROOT / 'step2')}" for key, path in paths.items()]
        options = ("--device", self.args.device, "--channels-last", "--seed", self.args.seed)
        for command in ("train", "test", "crf"):
            config = ("--config-path", "configs/demo.yaml")
            self.run("main.py", command, *config, *options, *overrides, cwd=ROOT / "step2")

    def summary(self) -> dict[str, dict]:
        """Print the scores of all stages on val as a table; returns them by stage."""
        paths = {
            "stage 1": self.out / "scores/scores.json",
            "stage 1 + CRF": self.out / "scores/scores_crf.json",
        }
        if not self.args.plain:
            folder = self.out / "step2/data/scores/demo/deeplabv2_mini_msc/val"
            paths |= {"stage 2": folder / "scores.json", "stage 2 + CRF": folder / "scores_crf.json"}
        scores = {name: json.loads(path.read_text()) for name, path in paths.items()}
        names = read_class_names(self.data / "lists/class_names.txt", NUM_CLASSES)
        rows = {n: [s["Class IoU"][str(c)] or 0 for s in scores.values()] for c, n in enumerate(names)}
        rows["mean"] = [s["Mean IoU"] for s in scores.values()]
        width = max(map(len, names))
        print(f"\n{'val IoU %':<{width}}" + "".join(f"{name:>15}" for name in scores))
        for name, values in rows.items():
            print(f"{name:<{width}}" + "".join(f"{100 * value:15.2f}" for value in values))
        return scores

    def report(self) -> None:
        """Write report.html and gallery.png, unless jinja2 or matplotlib is missing."""
        try:
            check_packages()
        except InputError as error:
            print(f"\nreport skipped: {error}")
            return
        self.run("report.py", "--run", self.out, "--gallery", self.out / "gallery.png")
        print(f"\nopen {self.args.out / 'report.html'}")


def main(args: argparse.Namespace) -> None:
    started, demo = time.monotonic(), Demo(args)
    demo.make_data()
    demo.train()
    demo.evaluate()
    if not args.plain:
        demo.pseudo_labels()
        demo.step2()
    scores = demo.summary()
    summary = {"scores": scores, "seconds": demo.seconds, "commands": demo.commands}
    save_json(args.out / "scores/summary.json", summary)
    demo.report()
    print(f"{time.monotonic() - started:.0f} s in total")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
