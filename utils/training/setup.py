"""Builds what a training run of stage 1 consists of: images, batches, networks with initial weights."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets import loaders
from datasets.checks import check_images, check_lists, check_turned, require_files, warn
from datasets.sampling import generator
from datasets.transforms import to_input
from networks.checkpoint import load_matching, load_strict, read_state
from networks.deeplab import DeepLab, build_deeplab
from networks.discriminator import build_discriminator
from networks.imagenet import imagenet_state, read_initial
from utils.core import distributed
from utils.core.device import prepare
from utils.core.errors import InputError
from utils.core.files import not_found
from utils.iteration import Batches
from utils.training.options import needed_lists, read_needed_list


def build_data(
    args: argparse.Namespace, names: list[str]
) -> tuple[dict[str, loaders.ImageDataset], loaders.EvalDataset | None]:
    """The training images by purpose, as far as the method uses them, and the validation images; all are checked."""
    images = args.data_dir / "JPEGImages"
    if not images.is_dir():
        raise InputError(
            f"{not_found(images)}: unpack PASCAL VOC 2012 (VOCtrainval_11-May-2012.tar) and link its VOC2012 folder"
            f" to {args.data_dir}, use another folder with --data-dir, or try it without VOC: make demo"
        )
    lists = {name: read_needed_list(args, name) for name in needed_lists(args)}
    warn(args.list_dir, check_lists(lists, names))
    config = loaders.DataConfig(
        image_dir=images,
        label_dir=args.pseudo_label_dir,
        crop=args.input_size,
        random_scale=args.random_scale,
        random_mirror=args.random_mirror,
        num_classes=args.num_classes,
        ignore_label=args.ignore_label,
        seed=args.random_seed,
    )
    train: dict[str, loaders.ImageDataset] = {"simple": loaders.SimpleDataset(lists["simple_list"], config)}
    if not args.no_c2s:
        train["gt"] = loaders.GTDataset(lists["simple_list"], config)
        train["complex"] = loaders.ComplexDataset(lists["complex_list"], config)
    if not args.no_cls:
        train["cls"] = loaders.ClsDataset(lists["train_cls"], config)
    val = None
    if not args.no_val:
        val = loaders.EvalDataset(lists["val"], replace(config, label_dir=args.data_dir / "SegmentationClassAug"))
    labelled = [train["simple"], val] if val else [train["simple"]]
    for dataset in (*train.values(), *labelled[1:]):
        require_files(dataset.files(), dataset.origin)
    if val:  # training images are read from the first iterations on, these by the first validation only
        warn(images, check_images(val.entries, images))
    warn(images, check_turned(path for dataset in labelled for path in dataset.files()["image"]))
    return train, val


def endless_batches(
    train: dict[str, loaders.ImageDataset], args: argparse.Namespace, device: torch.device, start: int
) -> Iterator[Batches]:
    """The part of this process of the batches of an iteration, on the device, from batch `start` on."""
    options = args.batch_size, args.num_workers, device, start
    streams = {purpose: loaders.train_loader(images, *options) for purpose, images in train.items()}

    def batch(planes: Tensor, *labels: Tensor) -> Any:
        return (to_input(planes), *labels) if labels else to_input(planes)

    while True:
        yield Batches(**{purpose: batch(*next(stream)) for purpose, stream in streams.items()})


def build_networks(args: argparse.Namespace, device: torch.device) -> tuple[DeepLab, nn.Module | None]:
    """G and, for C2S, D with their initial weights, ready for training on the device."""
    seeds = generator(args.random_seed, "initial weights").integers(2**31, size=2).tolist()
    G = build_deeplab(args.arch, args.num_classes, seeds[0])
    G.freeze_bn = args.freeze_bn
    if args.restore_from != "none":
        skip = "layer5." if args.not_restore_last else ""
        copied = load_matching(G, initial_state(args), args.restore_from, skip)
        if distributed.is_main():
            print(f"{args.restore_from}: copied {copied} of {len(G.state_dict())} tensors")
    D = None
    if not args.no_c2s:
        D = prepare(build_discriminator(args.num_classes, G.arch.width, seeds[1]), device, args.channels_last)
        if args.restore_from_D is not None:
            load_strict(D, read_state(args.restore_from_D), args.restore_from_D)
    prepare(G, device, args.channels_last)
    if args.sync_bn and distributed.world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(G)
    return G.train(), D and D.train()


def initial_state(args: argparse.Namespace) -> dict[str, Tensor]:
    """The tensors of --restore-from."""
    if args.restore_from == "imagenet":
        return imagenet_state(args.arch)
    if not Path(args.restore_from).exists():
        raise InputError(
            f"{args.restore_from} not found: put the published code's COCO pre-trained DeepLab-v2"
            " (resnet101COCO-41f33a49.pth) there, use another file with --restore-from FILE, the weights of"
            " torchvision with --restore-from imagenet, or random ones with --restore-from none"
        )
    return read_initial(args.restore_from)
