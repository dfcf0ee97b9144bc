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

from datasets.lists import read_class_names
from utils.core import distributed
from utils.core.device import pick_device, set_up_device
from utils.core.errors import run_script
from utils.evaluation.metrics import score_table
from utils.training.follow_up import next_commands
from utils.training.options import build_method, parse_args
from utils.training.resume import lock_folder
from utils.training.setup import build_data, build_networks, endless_batches
from utils.training.stage1 import MDBATrainer


def train(args: argparse.Namespace) -> None:
    device = pick_device(args.device, args.gpu)
    with distributed.process_group(device), lock_folder(args.snapshot_dir):
        set_up_device(device, args.amp, args.deterministic, args.sync_bn)
        names = read_class_names(args.class_names, args.num_classes)
        images, val = build_data(args, names)
        G, D = build_networks(args, device)
        trainer = MDBATrainer(G, D, build_method(args, device), args, device, images["simple"], val, names)
        first = trainer.begin(vars(args), [*trainer.weights(0)], [args.restore_from, args.restore_from_D])
        batches = endless_batches(images, args, device, first * args.iter_size)
        trainer.fit(batches, first, len(images) * args.batch_size * args.iter_size)
        if distributed.is_main():
            report(trainer, names)


def report(trainer: MDBATrainer, names: list[str]) -> None:
    """Print the result of the run."""
    best, progress = next(iter(trainer.weights(0))), trainer.progress
    if progress.scores is None:
        print(f"weights of the last iteration (no validation): {best}")
    else:
        print(f"validation after the last iteration, {trainer.num_steps - 1}:")
        print(score_table(progress.scores, names, progress.occurring))
        print(f"best val mIoU {100 * (progress.best or 0):.2f} %, iteration {progress.best_iteration}: {best}")
    print("next:", *next_commands(trainer.args), sep="\n    ")


if __name__ == "__main__":
    run_script(lambda: train(parse_args(__doc__)))
