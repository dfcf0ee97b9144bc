"""Train stage 1: a segmentation network from image-level labels and saliency pseudo labels.

    python train.py                            VOC, as published (needs the data and the initial weights)
    python train.py --restore-from none        without initial weights
    make demo                                  prints a full command line for a small data set

Writes VOC_best.pth and VOC_best_D.pth (the weights of the best validation), log.jsonl (losses, images that
ONF kept, share of pixels that PND dropped) and val.jsonl (scores) to --snapshot-dir.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

import torch
from torch import nn
from tqdm import tqdm

from datasets.lists import read_class_names
from datasets.loaders import Images, Whole, train_loader, whole_loader
from datasets.sampling import generator
from utils import options
from utils.alignment import draw_cutmix
from utils.checkpoint import save
from utils.files import run_script
from utils.inference import infer
from utils.iteration import Batches, Iteration
from utils.metrics import ConfusionMatrix, score_table
from utils.optim import build_adam, build_sgd, poly_lr, set_lr
from utils.thresholds import measure_iou_thresholds
from utils.train_options import build_method, parse_args
from utils.train_setup import build_data, build_networks


def endless_batches(
    train: dict[str, Images], args: argparse.Namespace, device: torch.device
) -> Iterator[Batches]:
    """The four batches of one iteration after the other, on the device."""
    loaders = {
        purpose: iter(train_loader(images, args.batch_size, args.num_workers, pin=device.type == "cuda"))
        for purpose, images in train.items()
    }
    while True:
        batch = {
            purpose: tuple(tensor.to(device, non_blocking=True) for tensor in next(loader))
            for purpose, loader in loaders.items()
        }
        yield Batches(
            complex=batch["complex"][0] if "complex" in batch else None,
            cls=batch.get("cls"),
            simple=batch["simple"],
            gt=batch.get("gt"),
        )


def validate(G: nn.Module, images: Whole, args: argparse.Namespace, device: torch.device) -> dict:
    """Scores on the validation images; G is back in training mode afterwards."""
    loader = whole_loader(images, args.num_workers, pin=device.type == "cuda")
    confusion = ConfusionMatrix(args.num_classes, args.ignore_label)
    G.eval()
    bar = tqdm(infer(G, loader, device, args.scales), total=len(loader), desc="val", leave=False, unit="img")
    for _, _, prediction, label in bar:
        confusion.update(label, prediction)
    G.train()
    return confusion.scores()


def auto_thresholds(G: nn.Module, simple: Images, args: argparse.Namespace) -> torch.Tensor:
    """T_class, measured on the simple images with the network as it is."""
    loader = whole_loader(Whole(simple.entries, simple.config), args.num_workers)
    classes = {entry.id: entry.classes[0] for entry in simple.entries}
    measured = measure_iou_thresholds(G, loader, classes, args.num_classes, args.ignore_label)
    tqdm.write(f"IoU thresholds, measured: {','.join(f'{t:.1f}' for t in measured.tolist())}")
    return measured


def log_line(file: TextIO, bar: tqdm, i: int, lr: float, losses: dict[str, torch.Tensor]) -> None:
    """One line of JSON and the bar's figures; the only copy of the losses to the host."""
    scalars = {name: value for name, value in losses.items() if value.ndim == 0}
    values = dict(zip(scalars, torch.stack(list(scalars.values())).tolist()))
    file.write(json.dumps({"i": i, "lr": lr, **values}) + "\n")
    file.flush()
    figures = {
        k.removeprefix("loss_"): f"{v:.3f}"
        for k, v in values.items()
        if k in ("loss_seg", "loss_cls", "loss_D")
    }
    bar.set_postfix(figures | {"kept": f"{values['kept']:.0f}", "dropped": f"{values['dropped']:.0%}"})


def train(args: argparse.Namespace) -> None:
    device = options.pick_device(args)
    method = build_method(args, device)
    names = read_class_names(args.class_names, args.num_classes)
    train_images, val_images = build_data(args, names)
    G, D = build_networks(args)
    options.prepare(G, args, device).train()
    optimizers = [build_sgd(G, args.learning_rate, args.momentum, args.weight_decay, not args.single_steps)]
    base_lrs = [args.learning_rate]
    if D is not None:
        options.prepare(D, args, device).train()
        optimizers.append(build_adam(D, args.learning_rate_D))
        base_lrs.append(args.learning_rate_D)
    iteration = Iteration(G, D, method)
    batches = endless_batches(train_images, args, device)
    args.snapshot_dir.mkdir(parents=True, exist_ok=True)
    best, scores = -1.0, None
    with (
        open(args.snapshot_dir / "log.jsonl", "w") as log,
        open(args.snapshot_dir / "val.jsonl", "w") as val_log,
        tqdm(range(args.num_steps), unit="it") as bar,
    ):
        for i in bar:
            for optimizer, base in zip(optimizers, base_lrs):
                set_lr(optimizer, poly_lr(base, i, args.num_steps, args.power))
                optimizer.zero_grad(set_to_none=True)
            if args.iou_thresholds == "auto" and method.onf and i == method.denoise_from:
                thresholds = auto_thresholds(G, train_images["simple"], args)
                iteration.method = replace(method, iou_thresholds=thresholds)
            for k in range(args.iter_size):
                mix = None
                if not args.no_s2c:
                    rng = generator(args.random_seed, "cutmix", i, k)
                    mix = draw_cutmix(rng, args.batch_size, args.input_size, args.cutmix_probability)
                losses = iteration(i, next(batches), mix, share=1 / args.iter_size)
            for optimizer in optimizers:
                optimizer.step()

            last = i == args.num_steps - 1
            if i % args.log_every == 0 or last:
                log_line(log, bar, i, poly_lr(args.learning_rate, i, args.num_steps, args.power), losses)
            if (i and i % args.save_pred_every == 0) or last:
                if val_images is not None:
                    scores = validate(G, val_images, args, device)
                    val_log.write(json.dumps({"i": i, **scores}) + "\n")
                    val_log.flush()
                    bar.write(f"iteration {i}: val mIoU {100 * scores['Mean IoU']:.2f} %")
                if scores is None or scores["Mean IoU"] > best:
                    best = scores["Mean IoU"] if scores else best
                    save(G.state_dict(), args.snapshot_dir / "VOC_best.pth")
                    if D is not None:
                        save(D.state_dict(), args.snapshot_dir / "VOC_best_D.pth")
    if scores is None:
        print(f"weights of the last iteration (no validation): {args.snapshot_dir / 'VOC_best.pth'}")
    else:
        print(score_table(scores, names))
        print(f"best val mIoU {100 * best:.2f} %: {args.snapshot_dir / 'VOC_best.pth'}")


if __name__ == "__main__":
    run_script(lambda: train(parse_args(__doc__)))
