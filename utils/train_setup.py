"""What a training of stage 1 is made of: its images and its networks, from the command line's options."""

import argparse
from dataclasses import replace
from pathlib import Path

from torch import nn

from datasets.checks import check_lists, require_files, warn
from datasets.lists import Entry, read_list
from datasets.loaders import GT, Cls, Complex, DataConfig, Images, Simple, Whole
from datasets.sampling import generator
from networks.deeplab import DeepLab, build_deeplab
from networks.discriminator import build_discriminator
from utils.checkpoint import load_matching, load_strict, read_state
from utils.files import InputError
from utils.imagenet import imagenet_state


def build_data(args: argparse.Namespace, names: list[str]) -> tuple[dict[str, Images], Whole | None]:
    """The training images by purpose, only those that the method uses, and the validation images.

    Raises:
        InputError: a list or a listed file is missing, or the lists contradict themselves.
    """
    images = args.data_dir / "JPEGImages"
    if not images.is_dir():
        raise InputError(
            f"{images} not found: unpack PASCAL VOC 2012 (VOCtrainval_11-May-2012.tar) and link its VOC2012 folder to"
            f" {args.data_dir}, name another folder with --data-dir, or see it work without VOC: make demo"
        )
    lists = read_lists(args, names)
    config = DataConfig(
        images, args.pseudo_label_dir, args.input_size, args.random_scale, args.random_mirror, args.num_classes,
        args.ignore_label, args.random_seed,
    )  # fmt: skip
    loaders = {"simple_list": (Simple, GT), "complex_list": (Complex,), "train_cls": (Cls,)}
    train = {
        loader.purpose: loader(lists[name], config)
        for name, kinds in loaders.items()
        for loader in kinds
        if name in lists and not (args.no_c2s and loader is GT)
    }
    val = None
    if "val" in lists:
        val = Whole(lists["val"], replace(config, label_dir=args.data_dir / "SegmentationClassAug"))
    for dataset in (*train.values(), val):
        if dataset is not None:
            require_files(dataset.files(), dataset.origin)
    return train, val


def read_lists(args: argparse.Namespace, names: list[str]) -> dict[str, list[Entry]]:
    """The lists that this training needs, by name; problems that a look at them shows are said or refused."""
    needed = {
        "simple_list": True, "complex_list": not args.no_c2s, "train_cls": not args.no_cls, "val": not args.no_val
    }  # fmt: skip
    without = {"complex_list": "--no-c2s", "train_cls": "--no-cls", "val": "--no-val"}
    lists = {}
    for name in (name for name, wanted in needed.items() if wanted):
        try:
            lists[name] = read_list(args.list_dir / f"{name}.txt", args.num_classes, labelled=name != "val")
        except InputError as error:
            hint = f" (to do without it: {without[name]})" if name in without else ""
            raise InputError(f"{error}{hint}") from None
    for finding in check_lists(lists, names):
        if finding.level == "error" and finding.text.endswith("several classes"):
            raise InputError(f"{args.list_dir}: {finding.text}; first: {finding.first}")
        warn(str(args.list_dir), finding)
    return lists


def build_networks(args: argparse.Namespace) -> tuple[DeepLab, nn.Module | None]:
    """G and D with their initial weights, on the CPU."""
    init = generator(args.random_seed, "initial weights").integers(2**31, size=2).tolist()
    G = build_deeplab(args.arch, args.num_classes, init[0])
    if args.restore_from != "none":
        state, skip = initial_state(args), "layer5." if args.not_restore_last else ""
        copied = load_matching(G, state, args.restore_from, skip)
        print(f"{args.restore_from}: copied {copied} of {len(G.state_dict())} tensors")
    if args.no_c2s:
        return G, None
    D = build_discriminator(args.num_classes, G.arch.width, init[1])
    if args.restore_from_D is not None:
        load_strict(D, read_state(args.restore_from_D), args.restore_from_D)
    return G, D


def initial_state(args: argparse.Namespace) -> dict:
    """The tensors that --restore-from names."""
    if args.restore_from == "imagenet":
        return imagenet_state(args.arch)
    if not Path(args.restore_from).exists():
        raise InputError(
            f"{args.restore_from} not found: put the published code's COCO pre-trained DeepLab-v2"
            " (resnet101COCO-41f33a49.pth) there, name other weights with --restore-from, start from torchvision's"
            " with --restore-from imagenet, or from random ones with --restore-from none"
        )
    return read_state(args.restore_from)
