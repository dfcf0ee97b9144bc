"""Train stage 1: a segmentation network from image-level labels and saliency pseudo labels.

    python train.py                            VOC, as published (needs the data and the initial weights)
    python train.py --restore-from none        without initial weights
    torchrun --nproc-per-node 2 train.py       on two GPUs; --batch-size is that of the whole batch
    make demo                                  prints a complete command line for a small data set

Results, in --snapshot-dir: VOC_best.pth and VOC_best_D.pth (the weights with the best validation), log.jsonl
(losses, images kept by ONF, shares of pixels dropped by PND and predicted as foreground), val.jsonl (scores), sheets/
(images, labels and predictions at each validation), run.json (options, versions, device) and last.pth (the state of
the run). If interrupted, rerun the command to resume from last.pth; the final weights are the same.
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from datasets.lists import read_class_names
from utils.core import distributed
from utils.core.device import pick_device
from utils.core.errors import run_script
from utils.core.provenance import save_provenance
from utils.evaluation.metrics import score_table
from utils.iteration import Method
from utils.training.log import TrainLog, mean_figures
from utils.training.options import parse_args
from utils.training.resume import StopSignal, back_up, open_log
from utils.training.setup import build_data, build_trainer, endless_batches
from utils.training.trainer import Trainer
from utils.training.validation import Validation

BAR = ("loss_seg", "loss_cls", "loss_D", "kept", "dropped", "foreground")


def train(args: argparse.Namespace, probe: Callable[[int, nn.Module, Method], None] | None = None) -> None:
    """Train; `probe` is called with i, G and the constants of the method before each validation."""
    device = pick_device(args.device, args.gpu)
    with distributed.process_group(device):
        names = read_class_names(args.class_names, args.num_classes)
        images, val = build_data(args, names)
        trainer = build_trainer(args, device)
        first, out = begin(trainer, args, device), args.snapshot_dir
        images_per_iteration = len(images) * args.batch_size * args.iter_size
        with (
            StopSignal() as stop,
            open_log(out / "log.jsonl", "i", first) as log_file,
            open_log(out / "val.jsonl", "i", first) as val_file,
            distributed.progress_bar(range(first, args.num_steps), args.num_steps) as bar,
            TrainLog(log_file, bar, device, images_per_iteration, args.logdir) as log,
        ):
            validate = Validation(
                val,
                images["simple"],
                names,
                out / "sheets",
                args.scales,
                args.num_workers,
                device,
                log,
                val_file,
            )
            batches = endless_batches(images, args, device, first * args.iter_size)
            for i in bar:
                if args.iou_thresholds == "auto" and trainer.method.onf and i == trainer.method.denoise_from:
                    trainer.set_thresholds(validate.iou_thresholds(trainer.G))
                figures = trainer.step(i, batches)

                last = i == args.num_steps - 1
                if i % args.log_every == 0 or last:
                    means = mean_figures(part.tensors() for part in figures)
                    trainer.state.check(i, sum(means.values()))
                    log(i, trainer.lr(i), means, BAR)
                if (i and i % args.save_pred_every == 0) or last:
                    trainer.state.check(i)
                    if probe is not None:
                        probe(i, trainer.G, trainer.method)
                    validate(i, trainer)
                stopped = stop.agreed()
                if (i + 1) % args.save_every == 0 or last or stopped:
                    trainer.save(i + 1, wait=last or stopped)
                if stopped and not last:
                    stop.leave(i + 1)
        report(trainer, names)


def begin(trainer: Trainer, args: argparse.Namespace, device: torch.device) -> int:
    """Load the saved state, or back up the files of an earlier run; returns the first iteration to run."""
    first = 0 if args.no_resume else trainer.load()
    if not distributed.is_main():
        return first
    if first:
        print(f"{trainer.state.path}: resuming after {first} of {args.num_steps} iterations")
    else:
        back_up((trainer.best_path, trainer.state.path), args.restore_from)
        back_up((trainer.best_path_D,), args.restore_from_D)
        for sheet in (args.snapshot_dir / "sheets").glob("*.png"):
            sheet.unlink()
    save_provenance(args.snapshot_dir / "run.json", vars(args), device)
    return first


def report(trainer: Trainer, names: list[str]) -> None:
    """Print the result of the run."""
    if not distributed.is_main():
        return
    if trainer.scores is None:
        print(f"weights of the last iteration (no validation): {trainer.best_path}")
    else:
        print(f"validation after the last iteration, {trainer.args.num_steps - 1}:")
        print(score_table(trainer.scores, names, trainer.occurring))
        best = "" if trainer.best_iteration is None else f", iteration {trainer.best_iteration}"
        print(f"best val mIoU {100 * (trainer.best or 0):.2f} %{best}: {trainer.best_path}")


if __name__ == "__main__":
    run_script(lambda: train(parse_args(__doc__)))
