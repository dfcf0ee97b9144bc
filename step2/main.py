"""Stage 2: retrain on the mined pseudo labels, with multi-scale inputs. Run inside step2/.

    python main.py train --config-path configs/voc12.yaml
    python main.py test  --config-path configs/voc12.yaml --model-path data/models/checkpoint_72.0.pth
    python main.py crf   --config-path configs/voc12.yaml

A stopped training goes on with the same command. `test` scores the multi-scale logits and keeps them; `crf` scores
them again after the dense CRF. Any value of the configuration can be overridden: SOLVER.ITER_MAX=100.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # what stage 2 shares with stage 1

from libs.config import Config, load_config
from libs.datasets.pseudo_labelled import PseudoLabelled, Stage2Config, WholeBGR
from libs.loss import msc_loss
from libs.models import build_model, load_initial, load_trained
from libs.models.msc import MSC, SCALES
from libs.optim import build_sgd, lr_after

from datasets.checks import check_start, collect, warn
from datasets.lists import Entry, image_path, read_class_names, read_list
from datasets.loaders import train_loader, whole_loader
from datasets.transforms import read_label
from utils import options
from utils.checkpoint import save, weights_identity
from utils.crf import CRFParams
from utils.crf_run import CRFTask, add_crf_running_options, check_tasks, evaluate_crf, make_settings
from utils.files import InputError, claim_folder, run_script, save_array
from utils.inference import infer
from utils.metrics import ConfusionMatrix, report_scores
from utils.optim import set_lr
from utils.resume import Run, StopSignal, open_log, set_aside


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = options.make_parser(__doc__)
    parser.add_argument("command", choices=("train", "test", "crf"))
    parser.add_argument(
        "overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="values of the configuration"
    )
    parser.add_argument("--config-path", type=Path, required=True, help="YAML file")
    parser.add_argument(
        "--model-path", type=Path, help="weights for test (what train wrote last, unless given)"
    )
    parser.add_argument("--train-on-ground-truth", action="store_true",
                        help="train even where the pseudo labels are the ground truth")  # fmt: skip
    parser.add_argument("--seed", type=options.count, default=1234, help="seed of every random draw")
    options.add_resume_options(parser)
    add_crf_running_options(parser.add_argument_group("CRF"))
    group = options.add_device_options(parser, workers=False)
    group.add_argument("--cpu", action="store_true", help="short for --device cpu")
    group.add_argument("--channels-last", action="store_true", help="tensors in NHWC order; often faster")
    args = parser.parse_intermixed_args(argv)
    if args.cpu:
        args.gpu, args.device = None, "cpu"
    return args


class Paths:
    """Where the results of a configuration lie: models/, features/ and scores/ under OUTPUT_DIR."""

    def __init__(self, config: Config) -> None:
        def folder(kind: str, split: str) -> Path:
            return Path(config.EXP.OUTPUT_DIR) / kind / config.EXP.ID / config.MODEL.NAME.lower() / split

        train, val = (Path(split).stem for split in (config.DATASET.SPLIT.TRAIN, config.DATASET.SPLIT.VAL))
        self.models = folder("models", train)
        self.logits = folder("features", val) / "logit"
        self.crf = folder("features", val) / "crf"
        self.scores = folder("scores", val)
        self.truth = Path(config.DATASET.ROOT) / "SegmentationClassAug"


def split_path(split: str) -> Path:
    """The list of a split: a path, or a name in ../dataset/voc_list."""
    return Path(split) if split.endswith(".txt") else Path("../dataset/voc_list") / f"{split}.txt"


def read_split(config: Config, split: str) -> list[Entry]:
    """The images of a split."""
    return read_list(split_path(split), config.DATASET.N_CLASSES, labelled=False)


def data_config(config: Config, label_dir: Path, seed: int = 0) -> Stage2Config:
    mean = config.IMAGE.MEAN
    return Stage2Config(
        Path(config.DATASET.ROOT) / "JPEGImages", label_dir, (config.IMAGE.SIZE.TRAIN,) * 2,
        num_classes=config.DATASET.N_CLASSES, ignore_label=config.DATASET.IGNORE_LABEL, seed=seed,
        mean_bgr=(mean.B, mean.G, mean.R), factors=config.DATASET.SCALES,
    )  # fmt: skip


def build(config: Config) -> MSC:
    model, data = config.MODEL, config.DATASET
    return build_model(model.NAME, data.N_CLASSES, model.N_BLOCKS, model.ATROUS_RATES)


def check_labels(images: PseudoLabelled, paths: Paths, allowed: bool) -> None:
    """Say where labels come from; refuse images without one, and ground truth in the place of pseudo labels."""
    folder = images.config.label_dir
    print(f"training labels: {folder.resolve()} ({len(images)} images)")
    missing = [e.id for e in images.entries if not images.label_path(e).exists()]
    if missing:
        raise InputError(
            f"{folder} lacks the pseudo labels of {len(missing)} of {len(images)} images, first {missing[0]}: make"
            " them with gen_label.py, gen_label_crf.py and gen_label_mining.py, or shorten DATASET.SPLIT.TRAIN"
        )
    if not allowed and is_ground_truth(images, paths.truth):
        raise InputError(
            f"{folder} is the ground truth, not pseudo labels: set DATASET.PSEUDO_LABELS, or give"
            " --train-on-ground-truth if it is meant"
        )


def is_ground_truth(images: PseudoLabelled, truth: Path, looked_at: int = 20) -> bool:
    """Whether the labels lie in the ground truth's folder, or the first of them are its very pixels."""
    if images.config.label_dir.resolve() == truth.resolve():
        return True
    allowed = images.config.num_classes, None, images.config.ignore_label
    pairs = [(images.label_path(e), truth / f"{e.id}.png") for e in images.entries]
    pairs = [pair for pair in pairs if pair[1].exists()][:looked_at]
    return bool(pairs) and all(
        (a := read_label(ours, *allowed)).shape == (b := read_label(theirs, *allowed)).shape
        and (a == b).all()
        for ours, theirs in pairs
    )


def train(args: argparse.Namespace, config: Config) -> None:
    device, solver, paths = options.pick_device(args), config.SOLVER, Paths(config)
    label_dir = Path(config.DATASET.PSEUDO_LABELS)
    images = PseudoLabelled(
        read_split(config, config.DATASET.SPLIT.TRAIN), data_config(config, label_dir, args.seed)
    )
    check_labels(images, paths, args.train_on_ground_truth)
    check_start(split_path(config.DATASET.SPLIT.TRAIN), images.entries, images.files())
    warn_overlap(config, images.entries)
    torch.manual_seed(args.seed)
    model = build(config)
    if config.MODEL.INIT_MODEL is not None:
        copied = load_initial(model, Path(config.MODEL.INIT_MODEL))
        print(f"{config.MODEL.INIT_MODEL}: copied {copied} of {len(model.state_dict())} tensors")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)  # in no group of the optimiser: no gradient, either
    options.prepare(model, args, device).train()
    optimizer = build_sgd(model, solver.LR, solver.MOMENTUM, solver.WEIGHT_DECAY)
    run = Run(paths.models / "last.pth", [model], [optimizer], vars(args) | {"config": config.text})
    done, _ = (None if args.no_resume else run.load()) or (0, {})
    if not done:
        set_aside(paths.models / "checkpoint_final.pth")
    if done:
        print(f"{run.path}: going on after {done} of {solver.ITER_MAX} iterations")
    loader = train_loader(
        images, solver.BATCH_SIZE.TRAIN, config.DATALOADER.NUM_WORKERS, done * solver.ITER_SIZE,
        device.type == "cuda",
    )  # fmt: skip
    batches, recent = iter(loader), deque(maxlen=max(1, solver.AVERAGE_LOSS))
    with (
        StopSignal() as stop,
        open_log(paths.models / "log.jsonl", "iteration", done + 1) as log,
        tqdm(range(done + 1, solver.ITER_MAX + 1), initial=done, total=solver.ITER_MAX, unit="it") as bar,
    ):
        for iteration in bar:
            lr = lr_after(iteration - 1, solver.LR, solver.ITER_MAX, solver.POLY_POWER, solver.LR_DECAY)
            set_lr(optimizer, lr)
            optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=device)
            for _ in range(solver.ITER_SIZE):
                image, label = (tensor.to(device, non_blocking=True) for tensor in next(batches))
                loss, _ = msc_loss(model(image), label, config.DATASET.IGNORE_LABEL)
                (loss / solver.ITER_SIZE).backward()
                total += loss.detach() / solver.ITER_SIZE
            optimizer.step()

            recent.append(total)
            last = iteration == solver.ITER_MAX
            if iteration % 10 == 0 or last:
                mean_loss = float(torch.stack(list(recent)).mean())
                log.write(json.dumps({"iteration": iteration, "lr": lr, "loss": mean_loss}) + "\n")
                bar.set_postfix(loss=f"{mean_loss:.3f}", lr=f"{lr:.2e}")
            if solver.ITER_SAVE and iteration % solver.ITER_SAVE == 0:
                save(model.state_dict(), paths.models / f"checkpoint_{iteration}.pth")
            if iteration % args.save_every == 0 or last or stop:
                run.save(iteration)
            if stop and not last:
                stop.leave(iteration)
    save(model.state_dict(), paths.models / "checkpoint_final.pth")
    print(f"weights: {paths.models / 'checkpoint_final.pth'}")


def test(args: argparse.Namespace, config: Config) -> None:
    device, paths = options.pick_device(args), Paths(config)
    images = WholeBGR(read_split(config, config.DATASET.SPLIT.VAL), data_config(config, paths.truth))
    check_start(split_path(config.DATASET.SPLIT.VAL), images.entries, images.files())
    model: nn.Module = build(config)
    load_trained(model, args.model_path or paths.models / "checkpoint_final.pth")
    options.prepare(model, args, device).eval()
    made_by = {"weights": weights_identity(model), "scales": [1, *SCALES]}
    claim_folder(paths.logits, made_by, "*.npy", overwrite=True)
    confusion = ConfusionMatrix(config.DATASET.N_CLASSES, config.DATASET.IGNORE_LABEL)
    loader = whole_loader(images, config.DATALOADER.NUM_WORKERS, pin=device.type == "cuda")
    # The network sees to its scales itself.
    bar = tqdm(infer(model, loader, device, scales=(1,), align_corners=False), total=len(images), unit="img")
    for id_, logits, prediction, label in bar:
        confusion.update(label, prediction)
        save_array(paths.logits / f"{id_}.npy", logits[0].float().cpu().numpy())
    report_scores(confusion, class_names(config), paths.scores / "scores.json")


def warn_overlap(config: Config, entries: Sequence[Entry]) -> None:
    """A warning where the validation list, if it is there, holds training images."""
    train, val = (split_path(s) for s in (config.DATASET.SPLIT.TRAIN, config.DATASET.SPLIT.VAL))
    if val.exists() and val != train:
        listed = {entry.id for entry in read_split(config, str(val))}
        both = [entry.id for entry in entries if entry.id in listed]
        for finding in collect(
            "warning", f"is in {val.name} as well, which makes its scores worthless", both
        ):
            warn(str(train), finding)


def crf(args: argparse.Namespace, config: Config) -> None:
    device, paths, c = options.pick_device(args), Paths(config), config.CRF
    params = CRFParams(c.ITER_MAX, c.POS_W, c.POS_XY_STD, c.BI_W, c.BI_XY_STD, c.BI_RGB_STD)
    settings = make_settings(config.DATASET.N_CLASSES, params, args, device, align_corners=False)
    entries = read_split(config, config.DATASET.SPLIT.VAL)
    tasks = [
        CRFTask(
            entry.id, image_path(Path(config.DATASET.ROOT) / "JPEGImages", entry.id),
            paths.logits / f"{entry.id}.npy", paths.crf / f"{entry.id}.png",
        )
        for entry in entries
    ]  # fmt: skip
    labels = [paths.truth / f"{entry.id}.png" for entry in entries]
    check_tasks(split_path(config.DATASET.SPLIT.VAL), entries, tasks, labels)
    confusion = evaluate_crf(tasks, settings, args.n_jobs, paths.truth, config.DATASET.IGNORE_LABEL)
    report_scores(confusion, class_names(config), paths.scores / "scores_crf.json")


def class_names(config: Config) -> list[str]:
    return read_class_names(config.DATASET.LABELS, config.DATASET.N_CLASSES)


def main(args: argparse.Namespace) -> None:
    config = load_config(args.config_path, args.overrides)
    {"train": train, "test": test, "crf": crf}[args.command](args, config)


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
