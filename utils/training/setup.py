"""What a training of stage 1 is made of: its images and its networks, from the command line's options."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from datasets.checks import check_lists, require_files, warn
from datasets.lists import Entry
from datasets.loaders import (
    ClsDataset,
    ComplexDataset,
    DataConfig,
    EvalDataset,
    GTDataset,
    ImageDataset,
    SimpleDataset,
)
from datasets.sampling import generator
from networks.checkpoint import load_matching, load_strict, read_state, save
from networks.deeplab import DeepLab, build_deeplab
from networks.discriminator import build_discriminator
from networks.imagenet import imagenet_state
from utils.core import distributed
from utils.core.device import Precision, prepare, set_up_device, wrap
from utils.core.errors import InputError
from utils.iteration import Iteration, Method
from utils.training.optim import build_adam, build_sgd, poly_lr, set_lr
from utils.training.options import build_method, needed_lists, read_needed_list
from utils.training.resume import TrainState


def build_data(
    args: argparse.Namespace, names: list[str]
) -> tuple[dict[str, ImageDataset], EvalDataset | None]:
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
    loaders = {
        "simple_list": (SimpleDataset, GTDataset),
        "complex_list": (ComplexDataset,),
        "train_cls": (ClsDataset,),
    }
    train = {
        loader.purpose: loader(lists[name], config)
        for name, kinds in loaders.items()
        for loader in kinds
        if name in lists and not (args.no_c2s and loader is GTDataset)
    }
    val = None
    if "val" in lists:
        val = EvalDataset(lists["val"], replace(config, label_dir=args.data_dir / "SegmentationClassAug"))
    for dataset in (*train.values(), val):
        if dataset is not None:
            require_files(dataset.files(), dataset.origin)
    return train, val


def read_lists(args: argparse.Namespace, names: list[str]) -> dict[str, list[Entry]]:
    """The lists that this training needs, by name; problems that a look at them shows are said or refused."""
    lists = {name: read_needed_list(args, name) for name in needed_lists(args)}
    for finding in check_lists(lists, names):
        if finding.level == "error" and finding.text.endswith("several classes"):
            raise InputError(f"{args.list_dir}: {finding.text}; first: {finding.first}")
        warn(str(args.list_dir), finding)
    return lists


class Trainer:
    """Networks, optimisers and the state of a run, on their device and in all processes alike."""

    def __init__(
        self, G: DeepLab, D: nn.Module | None, args: argparse.Namespace, device: torch.device
    ) -> None:
        self.G, self.D, self.args = G, D, args
        self.batch_size = distributed.part_of_batch(args.batch_size)  # of this process
        self.best: float | None = None  # val mIoU
        self.scores: dict | None = None  # of the last validation
        self.thresholds: list[float] | None = None  # T_class, where they were measured
        self.optimizers = [
            build_sgd(G, args.learning_rate, args.momentum, args.weight_decay, not args.single_steps)
        ]
        if D is not None:
            self.optimizers.append(build_adam(D, args.learning_rate_D))
        self.precision = Precision(args.amp, device)
        self.best_path = args.snapshot_dir / "VOC_best.pth"
        networks = [network for network in (G, D) if network is not None]
        state = [*self.optimizers, self.precision.scaler]
        self.run = TrainState(args.snapshot_dir / "last.pth", networks, state, vars(args))
        wrapped = [wrap(network, args) for network in networks]
        method = build_method(args, device)
        self.iteration = Iteration(wrapped[0], wrapped[1] if D is not None else None, method, self.precision)

    @property
    def method(self) -> Method:
        return self.iteration.method

    def lr(self, i: int) -> float:
        """G's learning rate in iteration i."""
        return poly_lr(self.args.learning_rate, i, self.args.num_steps, self.args.power)

    def set_lr(self, i: int) -> None:
        """Set iteration i's learning rates; gradients start from nothing."""
        for optimizer, base in zip(self.optimizers, (self.args.learning_rate, self.args.learning_rate_D)):
            set_lr(optimizer, poly_lr(base, i, self.args.num_steps, self.args.power))
            optimizer.zero_grad(set_to_none=True)

    def set_thresholds(self, thresholds: list[float]) -> None:
        """T_class of ONF from now on."""
        self.thresholds = thresholds
        values = torch.tensor(thresholds, device=self.method.iou_thresholds.device)
        self.iteration.method = replace(self.method, iou_thresholds=values)

    def save(self, done: int) -> None:
        """The state after `done` iterations."""
        self.run.save(done, best=self.best, scores=self.scores, thresholds=self.thresholds)

    def load(self) -> int:
        """Go on from the saved state, if there is one; returns the iterations done."""
        done, values = self.run.load() or (0, {})
        self.best, self.scores = values.get("best"), values.get("scores")
        if values.get("thresholds") is not None:
            self.set_thresholds(values["thresholds"])
        return done

    def save_best(self) -> None:
        """The weights as those to keep."""
        if distributed.is_main():
            save(self.G.state_dict(), self.best_path)
            if self.D is not None:
                save(self.D.state_dict(), self.args.snapshot_dir / "VOC_best_D.pth")


def build_trainer(args: argparse.Namespace, device: torch.device) -> Trainer:
    """Everything that --help's groups optimisation, method, weights and machine ask for."""
    set_up_device(args, device)
    networks = (
        None if network is None else prepare(network, args, device).train()
        for network in build_networks(args)
    )
    return Trainer(*networks, args, device)


def build_networks(args: argparse.Namespace) -> tuple[DeepLab, nn.Module | None]:
    """G and D with their initial weights, on the CPU."""
    init = generator(args.random_seed, "initial weights").integers(2**31, size=2).tolist()
    G = build_deeplab(args.arch, args.num_classes, init[0])
    G.freeze_bn = args.freeze_bn
    if args.restore_from != "none":
        state, skip = initial_state(args), "layer5." if args.not_restore_last else ""
        copied = load_matching(G, state, args.restore_from, skip)
        if distributed.is_main():
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
