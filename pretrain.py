"""Pre-train the trunk of a segmentation network as a classifier of images, for train.py --restore-from.

    python pretrain.py --data-dir dataset/tiny-imagenet-200/train --amp bf16
    python train.py --arch mini --restore-from snapshots/pretrain/trunk.pth
    torchrun --nproc-per-node 2 pretrain.py ...     on two GPUs; --batch-size remains that of the whole batch

--data-dir contains one subdirectory of images per class, DIR/CLASS, of which a part is held out for validation, or
DIR/train/CLASS and optionally DIR/val/CLASS. The network is DeepLab without its classifier layer5, followed by global
average pooling and a linear layer. Images of other sizes are resized, so that their largest window with the shape of
--input-size fits. The default options suit the 64 x 64 pixels of Tiny-ImageNet.

Writes to --snapshot-dir: trunk.pth (the weights after the last epoch, without the linear layer), log.jsonl (loss and
top-1 accuracy of training batches), val.jsonl (top-1 accuracy on the held-out images after each epoch), run.json
(options, versions, device) and last.pth (the state of the run). If interrupted, rerun the command to resume; the
result is the same.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from datasets.class_folders import (
    ClassFolderDataset,
    ClassFolderEvalDataset,
    ClassFolders,
    find_class_folders,
)
from datasets.loaders import DataConfig, eval_loader, train_loader
from datasets.sampling import generator
from networks.checkpoint import load_matching, read_state, save
from networks.deeplab import ARCHS, Bottleneck, DeepLab
from utils.core import cli, distributed
from utils.core.device import Precision, add_speed_options, pick_device, prepare, send, set_up_device, wrap
from utils.core.errors import InputError, run_script
from utils.core.provenance import save_provenance
from utils.training.log import TrainLog, add_log_options, mean_figures
from utils.training.optim import fused, set_lr, start_momentum
from utils.training.resume import StopSignal, TrainState, append, back_up, open_log


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data-dir", type=Path, required=True, help="directory with one subdirectory per class")
    add("--val-fraction", type=cli.non_negative, default=0.02, help="part to hold out without DIR/val")
    add("--input-size", type=cli.image_size, default=(64, 64), metavar="N or H,W", help="crop in pixels")
    add(
        "--min-area", type=cli.positive, default=1.0, help="crop random windows of this relative area or more"
    )
    add("--shift", type=cli.count, default=6, help="maximum random shift in pixels")
    add("--no-mirror", action="store_true", help="do not mirror half of the images")
    group = parser.add_argument_group("optimization")
    add = group.add_argument
    add("--arch", choices=ARCHS, default="mini", help="segmentation network")
    add("--restore-from", type=Path, metavar="FILE", help="initial weights (default: random)")
    add("--epochs", type=cli.positive_int, default=16, help="passes over the training images")
    add("--batch-size", type=cli.positive_int, default=128, help="images per batch, over all processes")
    add("--learning-rate", type=cli.positive, default=0.1, help="initial value of the cosine schedule")
    add("--momentum", type=cli.non_negative, default=0.9, help="Nesterov momentum of SGD; 0: plain SGD")
    add("--weight-decay", type=cli.non_negative, default=1e-4, help="weight decay of SGD")
    add("--label-smoothing", type=cli.non_negative, default=0.1, help="label smoothing of the cross-entropy")
    group = parser.add_argument_group("results")
    group.add_argument(
        "--snapshot-dir", type=Path, default=Path("snapshots/pretrain"), help="directory of the results"
    )
    cli.add_resume_options(group)
    add_log_options(group)
    group = cli.add_device_options(parser)
    add_speed_options(group)
    group.add_argument("--random-seed", type=cli.count, default=1234, help="seed of all random draws")
    args = parser.parse_args(argv)
    if max(args.val_fraction, args.label_smoothing) >= 1 or args.min_area > 1:
        raise InputError("--val-fraction and --label-smoothing must be less than 1, --min-area at most 1")
    return args


def build_data(
    folders: ClassFolders, args: argparse.Namespace
) -> tuple[ClassFolderDataset, ClassFolderEvalDataset | None]:
    """Training and validation images; None if no image is held out."""
    config = DataConfig(
        folders.root, crop=args.input_size, random_mirror=not args.no_mirror, seed=args.random_seed
    )
    train = ClassFolderDataset(folders.train, config, args.shift, args.min_area)
    return train, ClassFolderEvalDataset(folders.val, config) if folders.val else None


def build_classifier(arch: str, num_classes: int, seed: int) -> DeepLab:
    """DeepLab with pooling and a linear layer in place of layer5; all parameters are trained from scratch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, "initial weights").integers(2**31)))
        network = DeepLab(1, ARCHS[arch]._replace(from_scratch=True))
        features = network.arch.width * 32
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, num_classes))
    network.add_module("layer5", head)
    return network


def restore(network: DeepLab, path: Path) -> None:
    """Load the tensors that match. Residual blocks that the file lacks start as the identity: a trunk can grow.

    Raises:
        InputError: the file cannot be read, or no convolution matches.
    """
    state = read_state(path)
    load_matching(network, state, path)
    for name, module in network.named_modules():
        new = isinstance(module, Bottleneck) and f"{name}.conv1.weight" not in state
        if new and module.downsample is None:
            nn.init.zeros_(module.bn3.weight)  # relu(x + 0) = x, because x is the output of a ReLU


def build_optimizer(network: nn.Module, args: argparse.Namespace) -> torch.optim.SGD:
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=args.learning_rate,
        momentum=args.momentum,
        nesterov=args.momentum > 0,
        weight_decay=args.weight_decay,
        **fused(network),
    )
    optimizer.param_groups[0]["lr_factor"] = 1
    start_momentum(optimizer)
    return optimizer


def cosine_lr(base: float, i: int, num_steps: int) -> float:
    """base * (1 + cos(pi * i / num_steps)) / 2."""
    return base * (1 + math.cos(math.pi * i / num_steps)) / 2


def begin(state: TrainState, args: argparse.Namespace, device: torch.device) -> tuple[int, float | None]:
    """Load the saved state, if any; returns the number of completed iterations and the last validation's top-1."""
    done, values = (None if args.no_resume else state.load()) or (0, {})
    if distributed.is_main():
        if done:
            print(f"{state.path}: resuming after {done} iterations")
        else:
            back_up((args.snapshot_dir / "trunk.pth", state.path), args.restore_from)
        save_provenance(args.snapshot_dir / "run.json", vars(args), device)
    return done, values.get("top1")


@torch.no_grad()
def validate(
    network: nn.Module,
    val: ClassFolderEvalDataset,
    args: argparse.Namespace,
    precision: Precision,
    device: torch.device,
) -> float:
    """Top-1 accuracy on the validation images of all processes; the network returns to training mode."""
    distributed.broadcast_buffers(network)
    network.eval()
    part = val.part(distributed.rank(), distributed.world_size())
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for images, classes in eval_loader(part, args.num_workers, device.type == "cuda", args.batch_size):
        logits = precision.forward(network, send(images, device))
        correct += (logits.argmax(1) == send(classes, device)).sum()
    network.train()
    return int(distributed.all_reduce_sum(correct)) / len(val)


def save_trunk(network: nn.Module, path: Path) -> None:
    """Write the weights without layer5, in the key names of DeepLab."""
    if distributed.is_main():
        save({k: v for k, v in network.state_dict().items() if not k.startswith("layer5.")}, path)


def pretrain(args: argparse.Namespace) -> None:
    device = pick_device(args.device, args.gpu)
    set_up_device(device, args.amp, args.deterministic, args.sync_bn)
    with distributed.process_group(device):
        folders = find_class_folders(args.data_dir, args.val_fraction, args.random_seed)
        train, val = build_data(folders, args)
        epoch = max(1, len(train) // args.batch_size)  # iterations
        num_steps = args.epochs * epoch
        part = distributed.rank(), distributed.world_size()
        distributed.local_batch_size(args.batch_size)  # must be divisible

        network = build_classifier(args.arch, len(folders.classes), args.random_seed)
        if args.restore_from is not None:
            restore(network, args.restore_from)
        prepare(network, device, args.channels_last).train()
        optimizer, precision = build_optimizer(network, args), Precision(args.amp, device)
        options = vars(args) | {"images": folders.checksum()}
        state = TrainState(args.snapshot_dir / "last.pth", [network], [optimizer, precision.scaler], options)
        first, top1 = begin(state, args, device)
        model = wrap(network, args.sync_bn, args.compile)
        loader = train_loader(train, args.batch_size, args.num_workers, first, device.type == "cuda", part)
        if distributed.is_main():
            print(f"{len(folders.classes)} classes: {len(train)} training, {len(folders.val)} val images")
        with (
            StopSignal() as stop,
            open_log(args.snapshot_dir / "log.jsonl", "i", first) as log_file,
            open_log(args.snapshot_dir / "val.jsonl", "i", first) as val_file,
            distributed.progress_bar(range(first, num_steps), num_steps) as bar,
            TrainLog(log_file, bar, device, args.batch_size, args.logdir) as log,
        ):
            for i, batch in zip(bar, loader):
                lr = cosine_lr(args.learning_rate, i, num_steps)
                set_lr(optimizer, lr)
                optimizer.zero_grad(set_to_none=True)
                images, classes = (send(tensor, device) for tensor in batch)
                logits = precision.forward(model, images)
                loss = F.cross_entropy(logits, classes, label_smoothing=args.label_smoothing)
                precision.backward(loss)
                precision.step([optimizer])

                last = i == num_steps - 1
                if i % args.log_every == 0 or last:
                    correct = (logits.argmax(1) == classes).float().mean()
                    figures = mean_figures([{"loss": loss.detach(), "top1": correct}])
                    state.check(i, figures["loss"])
                    log(i, lr, figures, ("loss", "top1"))
                if (i + 1) % epoch == 0:
                    state.check(i)
                    if val is not None:
                        top1 = validate(network, val, args, precision, device)
                        append(val_file, {"i": i, "epoch": (i + 1) // epoch, "top1": top1})
                        if distributed.is_main():
                            tqdm.write(f"epoch {(i + 1) // epoch}: val top-1 {100 * top1:.2f} %")
                    save_trunk(network, args.snapshot_dir / "trunk.pth")
                stopped = stop.agreed()
                if (i + 1) % args.save_every == 0 or last or stopped:
                    state.save(i + 1, wait=last or stopped, top1=top1)
                if stopped and not last:
                    stop.leave(i + 1)
        if distributed.is_main():
            accuracy = "no image held out" if top1 is None else f"val top-1 {100 * top1:.2f} %"
            print(f"{args.snapshot_dir / 'trunk.pth'}: trunk of {args.arch}, {accuracy}")


if __name__ == "__main__":
    run_script(lambda: pretrain(parse_args()))
