"""Train stage 1: a segmentation network from image-level labels and saliency pseudo labels.

    python train.py                            VOC, as published (needs the data and the initial weights)
    python train.py --restore-from none        without initial weights
    make demo                                  prints a full command line for a small data set

Writes VOC_best.pth and VOC_best_D.pth (the weights of the best validation), log.jsonl (losses, images that
ONF kept, share of pixels that PND dropped), val.jsonl (scores) and last.pth (the state of the run) to --snapshot-dir.
Stopped in any way, the same command goes on from last.pth and ends with the same weights.
"""

import argparse
import json
from collections.abc import Callable, Iterator
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
from utils.iteration import Batches, Iteration, Method
from utils.metrics import ConfusionMatrix, score_table
from utils.optim import build_adam, build_sgd, poly_lr, set_lr
from utils.resume import Run, StopSignal, open_log, set_aside
from utils.thresholds import measure_iou_thresholds
from utils.train_options import build_method, parse_args
from utils.train_setup import build_data, build_networks


def endless_batches(
    train: dict[str, Images], args: argparse.Namespace, device: torch.device, start: int
) -> Iterator[Batches]:
    """The four batches of one iteration after the other, from batch `start` on, on the device."""
    loaders = {
        purpose: iter(train_loader(images, args.batch_size, args.num_workers, start, device.type == "cuda"))
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


def auto_thresholds(G: nn.Module, simple: Images, args: argparse.Namespace) -> list[float]:
    """T_class, measured on the simple images with the network as it is."""
    loader = whole_loader(Whole(simple.entries, simple.config), args.num_workers)
    classes = {entry.id: entry.classes[0] for entry in simple.entries}
    measured = measure_iou_thresholds(G, loader, classes, args.num_classes, args.ignore_label)
    tqdm.write(f"IoU thresholds, measured: {','.join(f'{t:.1f}' for t in measured)}")
    return measured


def log_line(file: TextIO, bar: tqdm, i: int, lr: float, losses: list[dict[str, torch.Tensor]]) -> None:
    """One line of JSON and the bar's figures, means over the batches of a step; the only copy to the host."""
    gathered: dict[str, list[torch.Tensor]] = {}
    for name, value in (item for batch in losses for item in batch.items()):
        if value.ndim == 0:
            gathered.setdefault(name, []).append(value)
    means = torch.stack([torch.stack(values).mean() for values in gathered.values()]).tolist()
    values = dict(zip(gathered, means))
    file.write(json.dumps({"i": i, "lr": lr, **values}) + "\n")
    figures = {
        k.removeprefix("loss_"): f"{v:.3f}"
        for k, v in values.items()
        if k in ("loss_seg", "loss_cls", "loss_D")
    }
    bar.set_postfix(figures | {"kept": f"{values['kept']:.0f}", "dropped": f"{values['dropped']:.0%}"})


def train(args: argparse.Namespace, probe: Callable[[int, nn.Module, Method], None] | None = None) -> None:
    """The whole run; `probe` is called with i, G and the method's constants wherever a validation is due."""
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
    last_path, best_path = args.snapshot_dir / "last.pth", args.snapshot_dir / "VOC_best.pth"
    run = Run(last_path, [n for n in (G, D) if n is not None], optimizers, vars(args))
    first, values = (None if args.no_resume else run.load()) or (0, {})
    best, scores, thresholds = (values.get(key) for key in ("best", "scores", "thresholds"))
    if thresholds is not None:
        method = replace(method, iou_thresholds=torch.tensor(thresholds, device=device))
    if not first:
        for path in (best_path, args.snapshot_dir / "VOC_best_D.pth"):
            set_aside(path)
    else:
        print(f"{last_path}: going on after {first} of {args.num_steps} iterations")
    iteration = Iteration(G, D, method)
    batches = endless_batches(train_images, args, device, first * args.iter_size)
    with (
        StopSignal() as stop,
        open_log(args.snapshot_dir / "log.jsonl", "i", first) as log,
        open_log(args.snapshot_dir / "val.jsonl", "i", first) as val_log,
        tqdm(range(first, args.num_steps), initial=first, total=args.num_steps, unit="it") as bar,
    ):
        for i in bar:
            for optimizer, base in zip(optimizers, base_lrs):
                set_lr(optimizer, poly_lr(base, i, args.num_steps, args.power))
                optimizer.zero_grad(set_to_none=True)
            if args.iou_thresholds == "auto" and method.onf and i == method.denoise_from:
                thresholds = auto_thresholds(G, train_images["simple"], args)
                iteration.method = replace(method, iou_thresholds=torch.tensor(thresholds, device=device))
            losses = []
            for k in range(args.iter_size):
                mix = None
                if not args.no_s2c:
                    rng = generator(args.random_seed, "cutmix", i, k)
                    mix = draw_cutmix(rng, args.batch_size, args.input_size, args.cutmix_probability)
                losses.append(iteration(i, next(batches), mix, share=1 / args.iter_size))
            for optimizer in optimizers:
                optimizer.step()

            last = i == args.num_steps - 1
            if i % args.log_every == 0 or last:
                log_line(log, bar, i, poly_lr(args.learning_rate, i, args.num_steps, args.power), losses)
            if (i and i % args.save_pred_every == 0) or last:
                if probe is not None:
                    probe(i, G, iteration.method)
                if val_images is not None:
                    scores = validate(G, val_images, args, device)
                    val_log.write(json.dumps({"i": i, **scores}) + "\n")
                    bar.write(f"iteration {i}: val mIoU {100 * scores['Mean IoU']:.2f} %")
                if scores is None or best is None or scores["Mean IoU"] > best:
                    best = scores["Mean IoU"] if scores else None
                    save(G.state_dict(), best_path)
                    if D is not None:
                        save(D.state_dict(), args.snapshot_dir / "VOC_best_D.pth")
            if (i + 1) % args.save_every == 0 or last or stop:
                run.save(i + 1, best=best, scores=scores, thresholds=thresholds)
            if stop and not last:
                stop.leave(i + 1)
    if scores is None:
        print(f"weights of the last iteration (no validation): {best_path}")
    else:
        print(score_table(scores, names))
        print(f"best val mIoU {100 * best:.2f} %: {best_path}")


if __name__ == "__main__":
    run_script(lambda: train(parse_args(__doc__)))
