"""The whole of it on a small data set of drawn pictures: data, stage 1, CRF, pseudo labels, stage 2, report.

    make demo           the method
    make demo-plain     stage 1 with every part of the method left out: plain cross-entropy

Every step is one of the project's scripts; its command line is printed before it runs. It ends with report.html.
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
from utils.core.errors import run_script
from utils.core.files import save_json

ROOT = Path(__file__).resolve().parent
CLASSES = "bicycle,bus,cat,horse,pottedplant,tvmonitor"
NUM_CLASSES = 7
PLAIN = ("--no-onf", "--no-pnd", "--no-s2c", "--no-c2s", "--no-cls")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of everything the demo makes")
    parser.add_argument("--plain", action="store_true", help="stage 1 alone, without the method")
    parser.add_argument("--seed", type=cli.count, default=0, help="seed of the pictures and of the training")
    parser.add_argument("--num-steps", type=cli.positive_int, default=800, help="iterations of stage 1")
    parser.add_argument("--step2-steps", type=cli.positive_int, default=300, help="iterations of stage 2")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps")
    return parser.parse_args(argv)


class Demo:
    """The demo's steps, in the order in which they run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out, self.data = args, args.out.resolve(), args.out.resolve() / "data"
        self.labels = ["--num-classes", NUM_CLASSES]
        self.images = ["--data-dir", self.data, *self.labels, "--device", args.device]
        self.names = ["--class-names", self.data / "lists/class_names.txt"]
        self.seconds: dict[str, float] = {}
        self.commands: list[dict[str, object]] = []

    def run(self, *command: object, cwd: Path = ROOT) -> None:
        """Print and run one command of the project; its failure ends the demo with its status."""
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
        self.run("-m", "datasets.openmoji", "--root", self.data, "--classes", CLASSES, "--simple", 600,
                 "--complex", 300, "--val", 150, "--size", 128, "--seed", self.args.seed)  # fmt: skip

    def train(self) -> None:
        """The schedule suits a network without pre-training: it must first learn what to filter with."""
        steps = self.args.num_steps
        self.run("train.py", *self.images, *self.names, "--list-dir", self.data / "lists",
                 "--pseudo-label-dir", self.data / "sal2gt", "--arch", "mini", "--restore-from", "none",
                 "--input-size", 97, "--batch-size", 8, "--random-mirror", "--num-steps", steps,
                 "--learning-rate", 0.005, "--denoise-from", steps * 2 // 5, "--high-T", 3, "--low-T", 1.5,
                 "--iou-thresholds", 0.3, *(PLAIN if self.args.plain else ()),
                 "--save-pred-every", 200, "--random-seed", self.args.seed,
                 "--snapshot-dir", self.out / "snapshots", "--channels-last", "--num-workers", 0)  # fmt: skip

    def evaluate(self) -> None:
        val = (*self.names, "--data-list", self.data / "lists/val.txt", "--logit-dir", self.out / "logit_val",
               "--score-dir", self.out / "scores")  # fmt: skip
        self.run("evaluate.py", *self.images, *val, "--restore-from", self.out / "snapshots/VOC_best.pth",
                 "--save-predictions", self.out / "labels/val", "--num-workers", 0)  # fmt: skip
        self.run("evaluate_crf.py", *self.images, *val, "--prediction-dir", self.out / "labels/val_crf")

    def pseudo_labels(self) -> None:
        """Three steps as published, and what each of them gains; `raw` and `image_labels` serve the table alone."""
        logits, train_cls = self.out / "logit_train", self.data / "lists/train_cls.txt"
        common = (*self.images, "--logit-dir", logits, "--data-list", train_cls)
        self.run("gen_label.py", *common, "--restore-from", self.out / "snapshots/VOC_best.pth",
                 "--num-workers", 0, "--overwrite")  # fmt: skip
        for name, more in (
            ("raw", ("--crf-iterations", 0)),
            ("crf", ()),
            ("image_labels", ("--use-image-labels",)),
        ):
            self.run("gen_label_crf.py", *common, "--pseudo-label-dir", self.out / "labels" / name, *more)
        shutil.rmtree(self.out / "pseudo_labels", ignore_errors=True)
        shutil.copytree(self.out / "labels/crf", self.out / "pseudo_labels")
        for folder in ("pseudo_labels", "labels/image_labels"):
            self.run("gen_label_mining.py", *self.labels, "--data-list", train_cls,
                     "--pseudo-label-dir", self.out / folder)  # fmt: skip
        folders = {
            "network": "labels/raw", "+CRF": "labels/crf", "+mining": "pseudo_labels",
            "+image-labels": "labels/image_labels",
        }  # fmt: skip
        named = [f"{name}={os.path.relpath(self.out / folder, ROOT)}" for name, folder in folders.items()]
        saliency = f"saliency={os.path.relpath(self.data / 'sal2gt', ROOT)}"
        for images, first in (("simple_list", [saliency]), ("complex_list", [])):
            self.run("evaluate_labels.py", *self.labels, "--truth-dir", self.data / "truth",
                     "--data-list", self.data / f"lists/{images}.txt",
                     "--score-path", self.out / f"scores/labels_{images}.json", *first, *named)  # fmt: skip

    def step2(self) -> None:
        def path(p: Path) -> str:
            return os.path.relpath(p, ROOT / "step2")

        lists = self.data / "lists"
        places = [
            f"EXP.OUTPUT_DIR={path(self.out / 'step2')}", f"DATASET.ROOT={path(self.data)}",
            f"DATASET.PSEUDO_LABELS={path(self.out / 'pseudo_labels')}",
            f"DATASET.LABELS={path(lists / 'class_names.txt')}", f"DATASET.SPLIT.VAL={path(lists / 'val.txt')}",
            f"DATASET.SPLIT.TRAIN={path(lists / 'train_aug.txt')}",
            f"MODEL.INIT_MODEL={path(self.out / 'snapshots/VOC_best.pth')}",
        ]  # fmt: skip
        overrides = [] if self.out == ROOT / "demo" else places  # the configuration has the demo's own folder
        for command in ("train", "test", "crf"):
            self.run("main.py", command, "--config-path", "configs/demo.yaml", "--device", self.args.device,
                     "--channels-last", "--seed", self.args.seed, *overrides,
                     f"SOLVER.ITER_MAX={self.args.step2_steps}", cwd=ROOT / "step2")  # fmt: skip

    def step2_results(self, kind: str) -> Path:
        return self.out / "step2" / kind / "demo/deeplabv2_mini_msc/val"

    def summary(self) -> dict[str, dict]:
        """The scores of every stage on val, as a table; returns them by stage."""
        paths = {
            "stage 1": self.out / "scores/scores.json", "stage 1 + CRF": self.out / "scores/scores_crf.json",
        }  # fmt: skip
        if not self.args.plain:
            for name, file in (("stage 2", "scores.json"), ("stage 2 + CRF", "scores_crf.json")):
                paths[name] = self.step2_results("scores") / file
        scores = {name: json.loads(path.read_text()) for name, path in paths.items()}
        names = read_class_names(self.data / "lists/class_names.txt", NUM_CLASSES)
        width = max(map(len, names))
        print(f"\nval IoU %{'':<{width - 9}}" + "".join(f"{name:>15}" for name in scores))
        for c, name in enumerate(names):
            print(
                f"{name:<{width}}"
                + "".join(f"{100 * (s['Class IoU'][str(c)] or 0):15.2f}" for s in scores.values())
            )
        print(f"{'mean':<{width}}" + "".join(f"{100 * s['Mean IoU']:15.2f}" for s in scores.values()))
        return scores


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
    demo.run("report.py", "--run", demo.out, "--gallery", demo.out / "gallery.png")
    print(f"\n{time.monotonic() - started:.0f} s in all; open {args.out / 'report.html'}")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
