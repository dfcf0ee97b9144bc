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
from pathlib import Path
from typing import TextIO

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.lists import read_class_names, read_list
from datasets.loaders import GT, Cls, Complex, DataConfig, Images, Simple, Whole, train_loader, whole_loader
from datasets.sampling import generator
from networks.deeplab import DeepLab, build_deeplab
from networks.discriminator import build_discriminator
from utils import options
from utils.alignment import draw_cutmix
from utils.checkpoint import load_matching, load_strict, read_state, save
from utils.files import InputError, run_script
from utils.inference import infer
from utils.iteration import Batches, Iteration
from utils.metrics import ConfusionMatrix, score_table
from utils.optim import build_adam, build_sgd, poly_lr, set_lr
from utils.train_options import build_method, parse_args


def build_data(args: argparse.Namespace) -> tuple[dict[str, Images], Whole]:
    """The training images by purpose, only those that the method uses, and the validation images.

    Raises:
        InputError: a list or a listed file is missing.
    """
    if not (args.data_dir / "JPEGImages").is_dir():
        raise InputError(
            f"{args.data_dir / 'JPEGImages'} not found: unpack PASCAL VOC 2012 (VOCtrainval_11-May-2012.tar) and link"
            f" its VOC2012 folder to {args.data_dir}, or name the folder with --data-dir"
        )
    config = DataConfig(
        args.data_dir / "JPEGImages", args.pseudo_label_dir, args.input_size, args.random_scale, args.random_mirror,
        args.num_classes, args.ignore_label, args.random_seed,
    )  # fmt: skip

    def entries(name: str, labelled: bool = True) -> list:
        return read_list(args.list_dir / name, args.num_classes, labelled)

    simple = entries("simple_list.txt")
    for entry in simple:
        if len(entry.classes) != 1:
            raise InputError(
                f"{args.list_dir / 'simple_list.txt'}: {entry.id} has several classes, simple has one"
            )
    train: dict[str, Images] = {"simple": Simple(simple, config)}
    if not args.no_c2s:
        train |= {"gt": GT(simple, config), "complex": Complex(entries("complex_list.txt"), config)}
    if not args.no_cls:
        train["cls"] = Cls(entries("train_cls.txt"), config)
    val = Whole(
        entries("val.txt", labelled=False), replace(config, label_dir=args.data_dir / "SegmentationClassAug")
    )
    for dataset in (*train.values(), val):
        dataset.check_files()
    return train, val


def build_networks(args: argparse.Namespace) -> tuple[DeepLab, nn.Module | None]:
    """G and D with their initial weights, on the CPU."""
    init = generator(args.random_seed, "initial weights").integers(2**31, size=2).tolist()
    G = build_deeplab(args.arch, args.num_classes, init[0])
    if args.restore_from != "none":
        if not Path(args.restore_from).exists():
            raise InputError(
                f"{args.restore_from} not found: put the published code's COCO pre-trained DeepLab-v2"
                " (resnet101COCO-41f33a49.pth) there, name other weights with --restore-from,"
                " or start from random ones with --restore-from none"
            )
        state, skip = read_state(args.restore_from), "layer5." if args.not_restore_last else ""
        copied = load_matching(G, state, args.restore_from, skip)
        print(f"{args.restore_from}: copied {copied} of {len(G.state_dict())} tensors")
    if args.no_c2s:
        return G, None
    D = build_discriminator(args.num_classes, G.arch.width, init[1])
    if args.restore_from_D is not None:
        load_strict(D, read_state(args.restore_from_D), args.restore_from_D)
    return G, D


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


def validate(G: nn.Module, loader: DataLoader, args: argparse.Namespace, device: torch.device) -> dict:
    """Scores on the validation images; G is back in training mode afterwards."""
    confusion = ConfusionMatrix(args.num_classes, args.ignore_label)
    G.eval()
    bar = tqdm(infer(G, loader, device, args.scales), total=len(loader), desc="val", leave=False, unit="img")
    for _, _, prediction, label in bar:
        confusion.update(label, prediction)
    G.train()
    return confusion.scores()


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
    train_images, val_images = build_data(args)
    G, D = build_networks(args)
    val_loader = whole_loader(val_images, args.num_workers, pin=device.type == "cuda")
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
    best, scores = -1.0, {}
    with (
        open(args.snapshot_dir / "log.jsonl", "w") as log,
        open(args.snapshot_dir / "val.jsonl", "w") as val_log,
        tqdm(range(args.num_steps), unit="it") as bar,
    ):
        for i in bar:
            for optimizer, base in zip(optimizers, base_lrs):
                set_lr(optimizer, poly_lr(base, i, args.num_steps, args.power))
                optimizer.zero_grad(set_to_none=True)
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
                scores = validate(G, val_loader, args, device)
                val_log.write(json.dumps({"i": i, **scores}) + "\n")
                val_log.flush()
                bar.write(f"iteration {i}: val mIoU {100 * scores['Mean IoU']:.2f} %")
                if scores["Mean IoU"] > best:
                    best = scores["Mean IoU"]
                    save(G.state_dict(), args.snapshot_dir / "VOC_best.pth")
                    if D is not None:
                        save(D.state_dict(), args.snapshot_dir / "VOC_best_D.pth")
    print(score_table(scores, names))
    print(f"best val mIoU {100 * best:.2f} %: {args.snapshot_dir / 'VOC_best.pth'}")


if __name__ == "__main__":
    run_script(lambda: train(parse_args(__doc__)))
