"""Stage 2: retrain on the mined pseudo labels, with multi-scale inputs. Run inside step2/.

    python main.py train --config-path configs/voc12.yaml
    python main.py test  --config-path configs/voc12.yaml --model-path data/models/checkpoint_72.0.pth
    python main.py crf   --config-path configs/voc12.yaml

`test` saves and scores the multi-scale logits; `crf` refines them with the dense CRF and scores the result. With
--no-labels, for images without true labels, they compute no scores. If training is interrupted, rerun the command to
resume. Values of the configuration can be overridden on the command line: SOLVER.ITER_MAX=100.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.checks import check_start
from datasets.loaders import train_loader
from networks.checkpoint import load_strict
from step2.libs.config import Config, load_config
from step2.libs.datasets.pseudo_labelled import EvalDatasetBGR
from step2.libs.models import SCALES, read_resnet
from step2.libs.setup import Paths, build, class_names, data_config, read_split, split_path, training_images
from step2.libs.trainer import MSCTrainer
from utils.core import cli, distributed
from utils.core.device import pick_device, prepare, set_up_device
from utils.core.errors import run_script
from utils.crf.dense_crf import CRFParams
from utils.crf.run import add_crf_running_options, create_label_maps, crf_settings
from utils.evaluation.metrics import report_scores
from utils.evaluation.scoring import result_files, score_images, score_label_maps
from utils.training.options import add_run_options
from utils.training.resume import lock_folder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("command", choices=("train", "test", "crf"))
    add("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="override values of the configuration")
    add("--config-path", type=Path, required=True, help="YAML configuration file")
    add("--model-path", type=Path, help="weights for test (default: checkpoint_final.pth of the run)")
    add("--seed", type=cli.count, default=1234, help="random seed")
    group = parser.add_argument_group("train only")
    text = "train even if the pseudo labels are the ground truth"
    group.add_argument("--train-on-ground-truth", action="store_true", help=text)
    add_run_options(group, group)
    group = parser.add_argument_group("test and crf only")
    text = "the images of DATASET.SPLIT.VAL have no true labels: compute no scores"
    group.add_argument("--no-labels", action="store_true", help=text)
    text = "write the predictions as palette PNGs to DIR (crf: default in EXP.OUTPUT_DIR)"
    group.add_argument("--save-predictions", type=Path, metavar="DIR", help=text)
    add_crf_running_options(parser.add_argument_group("crf only"))
    group = cli.add_device_options(parser, workers=False)
    group.add_argument("--cpu", action="store_true", help="short for --device cpu")
    args = parser.parse_intermixed_args(argv)
    if args.cpu:
        args.gpu, args.device = None, "cpu"
    return args


def train(args: argparse.Namespace, config: Config) -> None:
    """Train on the pseudo labels."""
    device, solver, paths = pick_device(args.device, args.gpu), config.SOLVER, Paths(config)
    with distributed.process_group(device), lock_folder(paths.models):
        set_up_device(device, args.amp, args.deterministic)
        distributed.local_batch_size(solver.BATCH_SIZE.TRAIN)
        images = training_images(config, args.seed, args.train_on_ground_truth)
        trainer = MSCTrainer(config, args, device)
        outputs = [*paths.models.glob("checkpoint_*.pth")]
        first = trainer.begin(vars(args) | config.values, outputs, [config.MODEL.INIT_MODEL])
        workers, number = config.DATALOADER.NUM_WORKERS, solver.BATCH_SIZE.TRAIN * solver.ITER_SIZE
        batches = train_loader(images, solver.BATCH_SIZE.TRAIN, workers, device, first * solver.ITER_SIZE)
        trainer.fit(batches, first, number)
        if distributed.is_main():
            print(f"weights: {paths.models / 'checkpoint_final.pth'}")


def test(args: argparse.Namespace, config: Config) -> None:
    """Compute, save and score the multi-scale logits of the validation images."""
    device, paths = pick_device(args.device, args.gpu), Paths(config)
    with distributed.process_group(device):
        listed = read_split(config, config.DATASET.SPLIT.VAL)
        images = EvalDatasetBGR(listed, data_config(config, paths.truth), labels=not args.no_labels)
        check_start(split_path(config.DATASET.SPLIT.VAL), listed, images.files())
        model = build(config)
        weights = args.model_path or paths.models / "checkpoint_final.pth"
        load_strict(model, read_resnet(weights), weights)
        prepare(model, device, args.channels_last).eval()
        files = result_files(images, listed, model, (1, *SCALES), paths.logits, args.save_predictions)
        # The network itself computes several scales.
        confusion = score_images(model, images, config.DATALOADER.NUM_WORKERS, device, scales=(1,), files=files)
        if args.no_labels:
            return
        options = vars(args) | config.values
        report_scores(confusion, class_names(config), paths.scores / "scores.json", options, device)


def crf(args: argparse.Namespace, config: Config) -> None:
    """Refine the saved logits with the dense CRF and score the label maps."""
    device, paths, c = pick_device(args.device, args.gpu), Paths(config), config.CRF
    params = CRFParams(c.ITER_MAX, c.POS_W, c.POS_XY_STD, c.BI_W, c.BI_XY_STD, c.BI_RGB_STD)
    listed = read_split(config, config.DATASET.SPLIT.VAL)
    images = EvalDatasetBGR(listed, data_config(config, paths.truth), labels=not args.no_labels)
    check_start(split_path(config.DATASET.SPLIT.VAL), listed, images.files())
    out, settings = args.save_predictions or paths.crf, crf_settings(args, device, params)
    create_label_maps(images, paths.logits, out, settings, args.n_jobs)
    if args.no_labels:
        return
    confusion, options = score_label_maps(images, out), vars(args) | config.values
    report_scores(confusion, class_names(config), paths.scores / "scores_crf.json", options, device)


def main() -> None:
    args = parse_args()
    config = load_config(args.config_path, args.overrides)
    {"train": train, "test": test, "crf": crf}[args.command](args, config)


if __name__ == "__main__":
    run_script(main)
