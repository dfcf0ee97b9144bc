"""Train stage 1: a segmentation network from image-level labels and saliency pseudo labels.

    python train.py                            VOC, as published (needs the data and the initial weights)
    python train.py --restore-from none        without initial weights
    torchrun --nproc-per-node 2 train.py       the same on two GPUs: --batch-size stays that of the whole batch
    make demo                                  prints a full command line for a small data set

Writes VOC_best.pth and VOC_best_D.pth (the weights of the best validation), log.jsonl (losses, images that
ONF kept, share of pixels that PND dropped), val.jsonl (scores), sheets/ (pictures of a fixed batch at each
validation), run.json (options, versions, device) and last.pth (the state of the run) to --snapshot-dir.
Stopped in any way, the same command goes on from last.pth and ends with the same weights.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import nn

from datasets.lists import read_class_names
from datasets.loaders import ImageDataset, train_loader
from datasets.sampling import generator
from utils.alignment import draw_cutmix
from utils.core import distributed
from utils.core.device import pick_device, send
from utils.core.errors import run_script
from utils.core.provenance import save_provenance
from utils.evaluation.metrics import score_table
from utils.iteration import Batches, Method
from utils.training.log import TrainLog, mean_figures
from utils.training.options import parse_args
from utils.training.resume import StopSignal, back_up, open_log
from utils.training.setup import Trainer, build_data, build_trainer
from utils.training.validation import Validation, auto_thresholds

BAR = ("loss_seg", "loss_cls", "loss_D", "kept", "dropped")


def endless_batches(
    train: dict[str, ImageDataset], args: argparse.Namespace, device: torch.device, start: int
) -> Iterator[Batches]:
    """This process's part of one iteration's four batches after the other, from batch `start` on, on the device."""
    part = distributed.rank(), distributed.world_size()
    loaders = {
        purpose: iter(
            train_loader(images, args.batch_size, args.num_workers, start, device.type == "cuda", part)
        )
        for purpose, images in train.items()
    }
    while True:
        batch = {
            purpose: tuple(send(tensor, device) for tensor in next(loader))
            for purpose, loader in loaders.items()
        }
        yield Batches(
            complex=batch["complex"][0] if "complex" in batch else None,
            cls=batch.get("cls"),
            simple=batch["simple"],
            gt=batch.get("gt"),
        )


def begin(t: Trainer, args: argparse.Namespace, device: torch.device) -> int:
    """Go on from the saved state if there is one; returns the first iteration to do."""
    first = 0 if args.no_resume else t.load()
    if not distributed.is_main():
        return first
    if first:
        print(f"{t.run.path}: going on after {first} of {args.num_steps} iterations")
    else:
        back_up((t.best_path, t.run.path), args.restore_from)
        back_up((args.snapshot_dir / "VOC_best_D.pth",), args.restore_from_D)
        for sheet in (args.snapshot_dir / "sheets").glob("*.png"):
            sheet.unlink()
    save_provenance(args.snapshot_dir / "run.json", vars(args), device)
    return first


def train(args: argparse.Namespace, probe: Callable[[int, nn.Module, Method], None] | None = None) -> None:
    """The whole run; `probe` is called with i, G and the method's constants wherever a validation is due."""
    device = pick_device(args)
    with distributed.process_group(device):
        names = read_class_names(args.class_names, args.num_classes)
        images, val = build_data(args, names)
        t = build_trainer(args, device)
        first = begin(t, args, device)
        with (
            StopSignal() as stop,
            open_log(args.snapshot_dir / "log.jsonl", "i", first) as log_file,
            open_log(args.snapshot_dir / "val.jsonl", "i", first) as val_file,
            distributed.bar(range(first, args.num_steps), args.num_steps) as bar,
            TrainLog(
                log_file, bar, device, len(images) * args.batch_size * args.iter_size, args.logdir
            ) as log,
        ):
            validation = Validation(val, images["simple"], names, args, device, log, val_file)
            batches = endless_batches(images, args, device, first * args.iter_size)
            for i in bar:
                t.set_lr(i)
                if args.iou_thresholds == "auto" and not args.no_onf and i == t.method.denoise_from:
                    t.set_thresholds(auto_thresholds(t.G, images["simple"], args, device))
                losses = []
                for k in range(args.iter_size):
                    mix = None
                    if not args.no_s2c:
                        rng = generator(args.random_seed, "cutmix", i, k)  # the same draw in all processes
                        mix = draw_cutmix(rng, t.batch_size, args.input_size, args.cutmix_probability)
                    last_part = k == args.iter_size - 1
                    losses.append(t.iteration(i, next(batches), mix, 1 / args.iter_size, last_part))
                t.precision.step(t.optimizers)

                last = i == args.num_steps - 1
                if i % args.log_every == 0 or last:
                    figures = mean_figures(losses)
                    t.run.check(i, sum(figures.values()))
                    log(i, t.lr(i), figures, BAR)
                if (i and i % args.save_pred_every == 0) or last:
                    t.run.check(i)
                    if probe is not None:
                        probe(i, t.G, t.method)
                    validation(i, t)
                stopped = stop.agreed()
                if (i + 1) % args.save_every == 0 or last or stopped:
                    t.save(i + 1)
                if stopped and not last:
                    stop.leave(i + 1)
        report(t, names)


def report(t: Trainer, names: list[str]) -> None:
    """The end of a run, for a person."""
    if not distributed.is_main():
        return
    if t.scores is None:
        print(f"weights of the last iteration (no validation): {t.best_path}")
    else:
        print(score_table(t.scores, names))
        print(f"best val mIoU {100 * t.best:.2f} %: {t.best_path}")


if __name__ == "__main__":
    run_script(lambda: train(parse_args(__doc__)))
