"""Stage 2: retrain on the mined pseudo labels, with multi-scale inputs. Run inside step2/.

    python main.py train --config-path configs/voc12.yaml
    python main.py test  --config-path configs/voc12.yaml --model-path data/models/checkpoint_72.0.pth
    python main.py crf   --config-path configs/voc12.yaml

A stopped training goes on with the same command. `test` scores the multi-scale logits and keeps them; `crf` scores
them again after the dense CRF. Any value of the configuration can be overridden: SOLVER.ITER_MAX=100.
"""

import argparse
import sys
from collections import deque
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # what stage 2 shares with stage 1

from datasets.checks import check_start
from datasets.lists import unique
from datasets.loaders import train_loader
from networks.checkpoint import save, weights_checksum
from step2.libs.config import Config, load_config
from step2.libs.datasets.pseudo_labelled import EvalDatasetBGR, PseudoLabelDataset
from step2.libs.loss import msc_loss
from step2.libs.models import load_initial, load_trained
from step2.libs.models.msc import MSC, SCALES
from step2.libs.optim import build_sgd, lr_after
from step2.libs.setup import Paths, build, check_training, class_names, data_config, read_split, split_path
from utils.core import cli, distributed
from utils.core.device import Precision, add_speed_options, pick_device, prepare, send, set_up_device, wrap
from utils.core.errors import run_script
from utils.core.files import claim_folder
from utils.core.provenance import save_provenance
from utils.crf.dense_crf import CRFParams
from utils.crf.run import add_crf_running_options, check_tasks, evaluate_crf, make_settings, make_tasks
from utils.evaluation.metrics import report_scores
from utils.evaluation.scoring import score_images
from utils.training.log import TrainLog, add_log_options, mean_figures
from utils.training.optim import set_lr
from utils.training.resume import StopSignal, TrainState, back_up, open_log


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("command", choices=("train", "test", "crf"))
    parser.add_argument(
        "overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="values of the configuration"
    )
    parser.add_argument("--config-path", type=Path, required=True, help="YAML file")
    parser.add_argument(
        "--model-path", type=Path, help="weights for test (what train wrote last, unless given)"
    )
    parser.add_argument("--seed", type=cli.count, default=1234, help="seed of every random draw")
    group = parser.add_argument_group("train alone")
    group.add_argument("--train-on-ground-truth", action="store_true",
                       help="train even where the pseudo labels are the ground truth")  # fmt: skip
    cli.add_resume_options(group)
    add_log_options(group)
    add_speed_options(group, batch_statistics=False)
    add_crf_running_options(parser.add_argument_group("crf alone"))
    group = cli.add_device_options(parser, workers=False)
    group.add_argument("--cpu", action="store_true", help="short for --device cpu")
    args = parser.parse_intermixed_args(argv)
    args.sync_bn = False  # batch normalisation stays as loaded
    if args.cpu:
        args.gpu, args.device = None, "cpu"
    return args


def build_training(config: Config, args: argparse.Namespace, device: torch.device) -> MSC:
    """The network with its initial weights, in training mode; batch normalisation is in no group of the optimiser."""
    torch.manual_seed(args.seed)
    model = build(config)
    if config.MODEL.INIT_MODEL is not None:
        copied = load_initial(model, Path(config.MODEL.INIT_MODEL))
        if distributed.is_main():
            print(f"{config.MODEL.INIT_MODEL}: copied {copied} of {len(model.state_dict())} tensors")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)  # no gradient, either
    return prepare(model, args, device).train()


def options_of(args: argparse.Namespace, config: Config) -> dict:
    """The command line's options and the configuration."""
    return vars(args) | {"config": config.text}


def begin(
    run: TrainState, paths: Paths, config: Config, args: argparse.Namespace, device: torch.device
) -> int:
    """Go on from the saved state if there is one; returns the iterations done."""
    done, _ = (None if args.no_resume else run.load()) or (0, {})
    if distributed.is_main():
        if done:
            print(f"{run.path}: going on after {done} of {config.SOLVER.ITER_MAX} iterations")
        else:
            back_up((run.path, *paths.models.glob("checkpoint_*.pth")), config.MODEL.INIT_MODEL)
        save_provenance(paths.models / "run.json", options_of(args, config), device)
    return done


def train(args: argparse.Namespace, config: Config) -> None:
    """The whole training."""
    device, solver, paths = pick_device(args), config.SOLVER, Paths(config)
    with distributed.process_group(device):
        set_up_device(args, device)
        labels = data_config(config, Path(config.DATASET.PSEUDO_LABELS), args.seed)
        images = PseudoLabelDataset(read_split(config, config.DATASET.SPLIT.TRAIN), labels)
        if distributed.is_main():
            print(f"training labels: {labels.label_dir.resolve()} ({len(images)} images)")
        check_training(images, config, paths, args.train_on_ground_truth)
        batch_size = solver.BATCH_SIZE.TRAIN
        distributed.part_of_batch(batch_size)
        model, precision = build_training(config, args, device), Precision(args.amp, device)
        optimizer = build_sgd(model, solver.LR, solver.MOMENTUM, solver.WEIGHT_DECAY)
        state = [optimizer, precision.scaler]
        run = TrainState(paths.models / "last.pth", [model], state, vars(args) | config.of_training())
        done = begin(run, paths, config, args, device)
        network, recent = wrap(model, args), deque(maxlen=solver.AVERAGE_LOSS)
        loader = train_loader(
            images, batch_size, config.DATALOADER.NUM_WORKERS, done * solver.ITER_SIZE, device.type == "cuda",
            (distributed.rank(), distributed.world_size()),
        )  # fmt: skip
        batches = iter(loader)
        with (
            StopSignal() as stop,
            open_log(paths.models / "log.jsonl", "iteration", done + 1) as log_file,
            distributed.bar(range(done + 1, solver.ITER_MAX + 1), solver.ITER_MAX) as bar,
            TrainLog(log_file, bar, device, batch_size * solver.ITER_SIZE, args.logdir) as log,
        ):
            for iteration in bar:
                lr = lr_after(iteration - 1, solver.LR, solver.ITER_MAX, solver.POLY_POWER, solver.LR_DECAY)
                set_lr(optimizer, lr)
                optimizer.zero_grad(set_to_none=True)
                total = torch.zeros((), device=device)
                for k in range(solver.ITER_SIZE):
                    image, label = (send(tensor, device) for tensor in next(batches))
                    with distributed.no_sync(network, k < solver.ITER_SIZE - 1):
                        logits = precision.forward(network, image)
                        loss, _ = msc_loss(logits, label, config.DATASET.IGNORE_LABEL)
                        precision.backward(loss / solver.ITER_SIZE)
                    total += loss.detach() / solver.ITER_SIZE
                precision.step([optimizer])

                recent.append(total)
                last = iteration == solver.ITER_MAX
                if iteration % args.log_every == 0 or last:
                    figures = mean_figures([{"loss": loss} for loss in recent])
                    run.check(iteration, figures["loss"])
                    log(iteration, lr, figures, ("loss",), key="iteration")
                if solver.ITER_SAVE and iteration % solver.ITER_SAVE == 0:
                    save_weights(model, paths.models / f"checkpoint_{iteration}.pth")
                stopped = stop.agreed()
                if iteration % args.save_every == 0 or last or stopped:
                    run.save(iteration)
                if stopped and not last:
                    stop.leave(iteration)
        save_weights(model, paths.models / "checkpoint_final.pth")
        if distributed.is_main():
            print(f"weights: {paths.models / 'checkpoint_final.pth'}")


def save_weights(model: MSC, path: Path) -> None:
    """A checkpoint of the published format."""
    if distributed.is_main():
        save(model.state_dict(), path)


def test(args: argparse.Namespace, config: Config) -> None:
    """Score the multi-scale logits, and keep them."""
    device, paths = pick_device(args), Paths(config)
    with distributed.process_group(device):
        listed = read_split(config, config.DATASET.SPLIT.VAL)
        images = EvalDatasetBGR(listed, data_config(config, paths.truth))
        check_start(split_path(config.DATASET.SPLIT.VAL), listed, images.files())
        model: nn.Module = build(config)
        load_trained(model, args.model_path or paths.models / "checkpoint_final.pth")
        prepare(model, args, device).eval()
        made_by = {"weights": weights_checksum(model), "scales": [1, *SCALES]}
        if distributed.is_main():
            claim_folder(paths.logits, made_by, "*.npy", replaceable={e.id for e in images.entries})
        distributed.barrier()
        # The network sees to its scales itself.
        confusion = score_images(
            model, images, config.DATALOADER.NUM_WORKERS, device, scales=(1,), align_corners=False,
            logit_dir=paths.logits,
        )  # fmt: skip
        report_scores(
            confusion, class_names(config), paths.scores / "scores.json", options_of(args, config), device
        )


def crf(args: argparse.Namespace, config: Config) -> None:
    """Score them again after the dense CRF."""
    device, paths, c = pick_device(args), Paths(config), config.CRF
    params = CRFParams(c.ITER_MAX, c.POS_W, c.POS_XY_STD, c.BI_W, c.BI_XY_STD, c.BI_RGB_STD)
    settings = make_settings(
        config.DATASET.N_CLASSES, params, args.crf_prune, args.crf_backend, device, align_corners=False
    )
    listed = read_split(config, config.DATASET.SPLIT.VAL)
    entries = unique(listed)
    tasks = make_tasks(entries, Path(config.DATASET.ROOT) / "JPEGImages", paths.logits, paths.crf)
    labels = [paths.truth / f"{entry.id}.png" for entry in entries]
    check_tasks(split_path(config.DATASET.SPLIT.VAL), listed, tasks, labels)
    confusion = evaluate_crf(tasks, settings, args.n_jobs, paths.truth, config.DATASET.IGNORE_LABEL)
    report_scores(
        confusion, class_names(config), paths.scores / "scores_crf.json", options_of(args, config), device
    )


def main(args: argparse.Namespace) -> None:
    config = load_config(args.config_path, args.overrides)
    {"train": train, "test": test, "crf": crf}[args.command](args, config)


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
