"""The command line of train.py, and the constants of the method that follow from it."""

import argparse
from pathlib import Path

import torch

from datasets.lists import Entry, read_list
from datasets.options import add_data_options, add_stage1_data_options
from datasets.voc import VOC_CLASSES
from networks.deeplab import ARCHS
from utils.core import cli
from utils.core.device import AMP
from utils.core.errors import InputError
from utils.denoising import VOC_IOU_THRESHOLDS
from utils.iteration import Method

PUBLISHED_LEARNING_RATE = 2.5e-4  # with the repeated steps of a ResNet, see docs/fidelity.md
MOBILENET_LEARNING_RATE = 0.002
CONSTANTS = ("high_T", "low_T", "cutmix_probability", "c2s_from", "lambda_adv", "ignore_label")  # of Method
PARTS = {
    "onf": "without online noise filtering: train on all simple images",
    "pnd": "without progressive noise detection: train on all labelled pixels",
    "s2c": "without simple-to-complex alignment: no CutMix",
    "c2s": "without complex-to-simple alignment: no discriminator, no complex images",
    "cls": "without the classification loss",
}

# The lists of a training run, and the option that makes each unnecessary.
LISTS = {"simple_list": None, "complex_list": "--no-c2s", "train_cls": "--no-cls", "val": "--no-val"}


def needed_lists(args: argparse.Namespace) -> list[str]:
    """The names of the lists that training with these options reads."""
    return [name for name, no in LISTS.items() if no is None or not getattr(args, no[2:].replace("-", "_"))]


def read_needed_list(args: argparse.Namespace, name: str) -> list[Entry]:
    """One of these lists, from --list-dir; an error names the option that makes the list unnecessary."""
    try:
        return read_list(args.list_dir / f"{name}.txt", args.num_classes, labelled=name != "val")
    except InputError as error:
        hint = f" (to train without it: {LISTS[name]})" if LISTS[name] else ""
        raise InputError(f"{error}{hint}") from None


def parse_args(doc: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the options of train.py; `doc` is the description."""
    parser = cli.make_parser(doc)
    group = add_data_options(parser)
    add_stage1_data_options(group)
    add = group.add_argument
    add("--input-size", type=cli.image_size, default=(321, 321), metavar="N or H,W", help="crop size in pixels")
    add("--random-mirror", action="store_true", help="mirror half of the training images")
    add("--random-scale", action="store_true", help="scale training images by 0.5, 0.6, ... 1.6")

    add = parser.add_argument_group("optimization").add_argument
    add("--arch", choices=ARCHS, default="resnet101", help="segmentation network; mobilenet_v2: laptops, mini: tests")
    add("--batch-size", type=cli.positive_int, default=10, help="images per batch of each kind, over all processes")
    add("--iter-size", type=cli.positive_int, default=1, help="batches per iteration, whose gradients add up")
    add("--num-steps", type=cli.positive_int, default=12000, help="number of iterations")
    text = (
        f"of the segmentation network (default: {PUBLISHED_LEARNING_RATE}; mobilenet_v2: {MOBILENET_LEARNING_RATE})"
    )
    add("--learning-rate", type=cli.positive, metavar="LR", help=text)
    add("--learning-rate-D", type=cli.positive, default=1e-4, help="of the discriminator (Adam)")
    add("--momentum", type=cli.non_negative, default=0.9, help="of SGD")
    add("--weight-decay", type=cli.non_negative, default=5e-4, help="of SGD")
    add("--power", type=cli.non_negative, default=0.9, help="lr * (1 - i / num_steps) ^ power")
    add("--freeze-bn", action="store_true", help="batch normalization with the loaded statistics, not the batch's")
    add("--single-steps", action="store_true", help="step each tensor once per iteration, unlike the published code")

    add = parser.add_argument_group("method").add_argument
    add("--denoise-from", type=cli.count, metavar="I", help="first iteration of ONF, PND (default: num_steps / 12)")
    text = "iteration at which the threshold of PND reaches --low-T (default: 11/12 of --num-steps)"
    add("--denoise-until", type=cli.count, metavar="I", help=text)
    add("--high-T", type=cli.non_negative, default=1.2, help="first loss threshold of PND, in nats")
    add("--low-T", type=cli.non_negative, default=0.8, help="last loss threshold of PND, in nats")
    text = "labels that PND never drops, or none (default for 21 classes: 11, diningtable)"
    add("--long-tail-labels", type=cli.labels_list, metavar="L[,L...]", help=text)
    text = (
        "IoU thresholds of ONF: voc, one number, one per class, or auto: the mean of each class over the simple"
        " images at the end of the warm-up, floored to a tenth (default: voc for 21 classes, else 0.5)"
    )
    add("--iou-thresholds", metavar="T[,T...]", help=text)
    add("--cutmix-probability", type=cli.non_negative, default=0.5, help="of S2C in an iteration")
    add("--c2s-from", type=cli.count, default=0, metavar="I", help="first iteration of C2S")
    add("--lambda-adv", type=cli.non_negative, default=0.001, help="weight of the adversarial losses")
    for part, text in PARTS.items():
        add(f"--no-{part}", action="store_true", help=text)

    group = parser.add_argument_group("weights and results")
    add = group.add_argument
    text = "initial weights, a file (tensors of the same name and shape are copied), imagenet (torchvision's) or none"
    add("--restore-from", default="model/resnet101COCO-41f33a49.pth", metavar="FILE", help=text)
    add("--restore-from-D", type=Path, metavar="FILE", help="initial weights of the discriminator")
    add("--not-restore-last", action="store_true", help="do not copy the classifier (layer5)")
    add("--no-val", action="store_true", help="no validation; VOC_best.pth holds the last weights")
    add("--save-pred-every", type=cli.positive_int, default=500, help="iterations between validations")
    add("--snapshot-dir", type=Path, default=Path("snapshots"), help="directory of the results")
    add("--scales", type=cli.scales, default=(1.0, 0.75), help="of the multi-scale validation, separated by commas")
    machine = cli.add_device_options(parser)
    add_run_options(group, machine)
    text = "with torchrun: batch statistics of the whole batch instead of each GPU's part"
    machine.add_argument("--sync-bn", action="store_true", help=text)
    machine.add_argument("--random-seed", type=cli.count, default=1234, help="seed of all random draws")
    args = parser.parse_args(argv)
    if args.learning_rate is None:
        args.learning_rate = MOBILENET_LEARNING_RATE if args.arch == "mobilenet_v2" else PUBLISHED_LEARNING_RATE
    return args


def add_run_options(results: argparse._ArgumentGroup, machine: argparse._ArgumentGroup) -> None:
    """Add the options of resuming, logging and precision, the same for both stages."""
    add = results.add_argument
    add("--save-every", type=cli.positive_int, default=500, help="iterations between saved states")
    add("--no-resume", action="store_true", help="start from scratch, ignoring a saved state")
    add("--log-every", type=cli.positive_int, default=10, help="iterations between lines of log.jsonl")
    add("--logdir", type=Path, help="directory for TensorBoard; needs the package tensorboard")
    add = machine.add_argument
    add("--amp", choices=AMP, help="mixed precision of the networks (fp16 with loss scaling); losses in float32")
    add("--deterministic", action="store_true", help="use deterministic algorithms on a GPU too; slower")


def build_method(args: argparse.Namespace, device: torch.device) -> Method:
    """The constants and switches of the method."""
    start = args.num_steps // 12 if args.denoise_from is None else args.denoise_from
    end = args.num_steps * 11 // 12 if args.denoise_until is None else args.denoise_until
    if end < start:
        raise InputError(
            f"--denoise-until {end} is before --denoise-from {start} (default: 11/12 and 1/12 of --num-steps)"
        )
    if args.c2s_from >= args.num_steps:
        raise InputError(f"--c2s-from {args.c2s_from} is not below --num-steps {args.num_steps}: use --no-c2s")
    exempt = args.long_tail_labels
    if exempt is None:
        exempt = (11,) if args.num_classes == 21 else ()  # diningtable of VOC
    if any(label >= args.num_classes for label in exempt):
        raise InputError(f"--long-tail-labels {max(exempt)}: the largest label is {args.num_classes - 1}")
    return Method(
        iou_thresholds=iou_thresholds(args.iou_thresholds, args.num_classes).to(device),
        exempt=torch.tensor(exempt, dtype=torch.int64, device=device),
        denoise_from=start,
        denoise_until=end,
        **{name: getattr(args, name) for name in CONSTANTS},
        **{part: not getattr(args, f"no_{part}") for part in PARTS},
    )


def iou_thresholds(option: str | None, num_classes: int) -> torch.Tensor:
    """T_class of ONF, one per foreground class, from --iou-thresholds."""
    if option == "auto":
        return torch.full((num_classes - 1,), float("nan"))  # keeps no image until it is measured
    option = option or ("voc" if num_classes == len(VOC_CLASSES) + 1 else "0.5")
    try:
        numbers = VOC_IOU_THRESHOLDS if option == "voc" else tuple(map(cli.fraction, option.split(",")))
    except ValueError:
        raise InputError(
            f"--iou-thresholds {option}: give voc, auto, one number from 0 to 1, or one per class, comma-separated"
        ) from None
    if len(numbers) not in (1, num_classes - 1):
        raise InputError(
            f"--iou-thresholds has {len(numbers)} values, but there are {num_classes - 1} foreground classes"
        )
    return torch.tensor(numbers).expand(num_classes - 1)
