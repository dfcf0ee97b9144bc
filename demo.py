"""The whole pipeline on a small drawn data set: data, stage 1, CRF, pseudo labels, stage 2, report.

    make demo

Every step is one of the project's scripts, and its command line is printed before it runs. Below --out, the results
have the same layout as those of a run in the project's folder. The last step writes report.html.
"""

import argparse
import os
import shlex
import time
from importlib.util import find_spec
from pathlib import Path

from utils.core import cli
from utils.core.errors import run_script
from utils.core.files import ROOT, save_json
from utils.evaluation.metrics import percent
from utils.report.run import Run, score_table

CLASSES = "bicycle,bus,cat,horse,pottedplant,tvmonitor"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the results")
    parser.add_argument("--seed", type=cli.count, default=0, help="seed of the images and of the training")
    parser.add_argument("--num-steps", type=cli.positive_int, default=740, help="iterations of stage 1")
    parser.add_argument("--step2-steps", type=cli.positive_int, default=150, help="iterations of stage 2")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps")
    return parser.parse_args(argv)


class Demo:
    """The steps of the demo, in order."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out, self.data = args, args.out.resolve(), args.out.resolve() / "data"
        self.lists = self.data / "lists"
        self.classes = ("--num-classes", len(CLASSES.split(",")) + 1)
        self.images = ("--data-dir", self.data, *self.classes, "--device", args.device)
        self.names = ("--class-names", self.lists / "class_names.txt")
        self.network = ("--restore-from", self.out / "snapshots/VOC_best.pth", "--num-workers", 0)
        self.commands: list[dict[str, object]] = []

    def run(self, script: str, *options: object, cwd: Path = ROOT) -> None:
        """Print a command of the project and run it in this process; if it fails, the demo exits with its status."""
        os.chdir(cwd)
        words = [os.path.relpath(word) if isinstance(word, Path) else str(word) for word in options]
        place = "" if cwd == ROOT else f"cd {cwd.relative_to(ROOT)} && "
        line = f"{place}python {script} {shlex.join(words)}"
        print(f"\n$ {line}", flush=True)
        started = time.monotonic()
        cli.call(script, *words)
        self.commands.append({"command": line, "seconds": time.monotonic() - started})

    def stage1(self) -> None:
        """Draw the images, train and evaluate. Denoising starts late, as the network is not pre-trained."""
        steps, seed = self.args.num_steps, self.args.seed
        counts = ("--simple", 600, "--complex", 300, "--val", 150, "--size", 128, "--seed", seed)
        self.run("-m datasets.openmoji", "--root", self.data, "--classes", CLASSES, *counts)
        places = ("--list-dir", self.lists, "--pseudo-label-dir", self.data / "sal2gt")
        network = ("--arch", "mini", "--restore-from", "none", "--input-size", 97, "--batch-size", 8)
        schedule = ("--num-steps", steps, "--learning-rate", 0.005, "--denoise-from", steps * 2 // 5)
        thresholds = ("--high-T", 3, "--low-T", 1.5, "--iou-thresholds", 0.3)
        run = ("--no-val", "--random-seed", seed, "--snapshot-dir", self.out / "snapshots")
        options = (*places, *network, "--random-mirror", *schedule, *thresholds, *run, "--num-workers", 0)
        self.run("train.py", *self.images, *self.names, *options)
        val = ("--data-list", self.lists / "val.txt", "--logit-dir", self.out / "logit_val")
        common = (*self.images, *self.names, *val, "--score-dir", self.out / "scores")
        self.run("evaluate.py", *common, *self.network)
        self.run("evaluate_crf.py", *common, "--prediction-dir", self.out / "crf_val")

    def pseudo_labels(self) -> None:
        """Generate the pseudo labels for stage 2, and score the labels of each step against the truth."""
        train_cls = ("--data-list", self.lists / "train_cls.txt")
        logits = (*self.images, "--logit-dir", self.out / "logit_train_aug", *train_cls)
        labels, pseudo_labels = self.out / "labels", self.out / "pseudo_labels"
        self.run("gen_label.py", *logits, *self.network, "--overwrite")
        made = (*logits, "--overwrite", "--pseudo-label-dir")
        self.run("gen_label_crf.py", *made, labels / "raw", "--crf-iterations", 0)
        self.run("gen_label_crf.py", *made, labels / "crf")
        mined = ("--pseudo-label-dir", labels / "crf", "--out", pseudo_labels, "--overwrite")
        self.run("gen_label_mining.py", *self.classes, *train_cls, *mined)
        saliency = {"saliency": self.data / "sal2gt"}
        steps = {"network": labels / "raw", "+CRF": labels / "crf", "+mining": pseudo_labels}
        for images, folders in (("simple_list", saliency | steps), ("complex_list", steps)):
            named = [f"{name}={os.path.relpath(folder, ROOT)}" for name, folder in folders.items()]
            truth = ("--truth-dir", self.data / "truth", "--data-list", self.lists / f"{images}.txt")
            table = ("--score-path", self.out / f"scores/labels_{images}.json")
            self.run("evaluate_labels.py", *self.classes, *truth, *table, *named)

    def stage2(self) -> None:
        """Train and evaluate stage 2. The configuration names the folders of `--out demo`; others override them."""
        paths = {
            "EXP.OUTPUT_DIR": self.out / "step2/data",
            "DATASET.ROOT": self.data,
            "DATASET.PSEUDO_LABELS": self.out / "pseudo_labels",
            "DATASET.LABELS": self.lists / "class_names.txt",
            "DATASET.SPLIT.VAL": self.lists / "val.txt",
            "DATASET.SPLIT.TRAIN": self.lists / "train_aug.txt",
            "MODEL.INIT_MODEL": self.out / "snapshots/VOC_best.pth",
        }
        overrides = [f"SOLVER.ITER_MAX={self.args.step2_steps}"]
        if self.out != ROOT / "demo":
            overrides += [f"{key}={os.path.relpath(path, ROOT / 'step2')}" for key, path in paths.items()]
        options = ("--config-path", "configs/demo.yaml", "--device", self.args.device, "--seed", self.args.seed)
        for command in ("train", "test", "crf"):
            self.run("main.py", command, *options, *overrides, cwd=ROOT / "step2")

    def summary(self) -> None:
        """Print the scores of all stages on val, and write them with the commands."""
        run = Run(self.out)
        scores, width = {stage.name: stage.scores for stage in run.stages}, max(map(len, run.names))
        print(f"\n{'val IoU %':<{width}}" + "".join(f"{name:>15}" for name in scores))
        for name, row in list(score_table(run).items())[: len(run.names) + 1]:
            print(f"{name:<{width}}" + "".join(f"{percent(value):>15}" for value in row.values()))
        save_json(self.out / "scores/summary.json", {"scores": scores, "commands": self.commands})

    def report(self) -> None:
        """Write report.html and gallery.png, unless jinja2 or matplotlib is missing."""
        missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
        if missing:
            print(f"\nno report: it needs {' and '.join(missing)}")
            return
        self.run("report.py", "--run", self.out, "--gallery", self.out / "gallery.png")
        print(f"\nopen {self.args.out / 'report.html'}")


def main(args: argparse.Namespace) -> None:
    started, demo = time.monotonic(), Demo(args)
    for step in (demo.stage1, demo.pseudo_labels, demo.stage2, demo.summary, demo.report):
        step()
    print(f"{time.monotonic() - started:.0f} s in total")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
