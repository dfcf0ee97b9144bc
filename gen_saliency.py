"""Create saliency maps with a salient-object detector, for gen_sal2gt.py.

    python gen_saliency.py --data-dir own --data-list own/lists/train_cls.txt --out own/saliency
    python gen_saliency.py --model detector.onnx --output logits --data-dir own --data-list own/lists/train_cls.txt

Writes ID.png to --out: 8-bit grey, of the size of the image after its EXIF rotation. Detectors:

    u2net, isnet-general-use, ...
        Trained networks. They need the optional package rembg (pip install rembg[cpu] or rembg[gpu]), which downloads
        the weights on first use.
    --model FILE
        Any ONNX file. It needs the optional package onnxruntime.
    classical
        No weights and no further packages: minimum barrier distance and GrabCut. Much less accurate: mean IoU of the
        foreground 0.47 on 349 photographs of VOC with one class, where CSNet, a small trained network, has 0.70
        (python -m benchmarks.saliency; threshold 128; mean absolute error 0.16 and 0.09; IoU of the two 0.48).

If interrupted, rerun the command to resume; --overwrite recreates existing maps. --shard I/N processes one of N parts
of the list, for use on several machines.
"""

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.checks import check_start
from datasets.lists import Entry, read_list
from datasets.loaders import DataConfig, EvalDataset, eval_loader
from datasets.options import add_list_options, sharded
from utils.core import cli
from utils.core.background import Background
from utils.core.errors import run_script
from utils.core.files import claim_folder, save_image
from utils.saliency.detectors import Detector, add_detector_options, make_detector

MOST_CLASSES = 255  # the classes of the list are not used


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data-dir", type=Path, default=Path("dataset/VOC2012"), help="directory with JPEGImages/ID.jpg")
    add_list_options(group, Path("dataset/voc_list/train_cls.txt"))
    add("--single-class", action="store_true", help="only images of one class: gen_sal2gt.py needs no others")
    add("--out", type=Path, default=Path("dataset/saliency"), help="directory of the saliency maps")
    add("--overwrite", action="store_true", help="recreate existing saliency maps")
    add_detector_options(parser)
    cli.add_device_options(parser, network=False)
    return parser.parse_args(argv)


class SaliencyDataset(EvalDataset):
    """Whole images as a detector needs them: ID, (height, width), prepared array."""

    def __init__(self, entries: list[Entry], config: DataConfig, detector: Detector) -> None:
        super().__init__(entries, config, labels=False)
        self.prepare = detector.prepare

    def __getitem__(self, index: int) -> tuple:
        image, _ = self.read(self.entries[index])
        return self.entries[index].id, image.shape[:2], self.prepare(image)


def detect(detector: Detector, loader: Iterable) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ID and saliency map (H x W uint8) of all images, computed in batches."""
    items = iter(loader)
    while batch := list(islice(items, detector.batch_size)):
        ids, sizes, inputs = zip(*batch)
        maps = detector.detect([x.numpy() for x in inputs], ids)
        for id_, (height, width), saliency in zip(ids, sizes, maps):
            resized = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
            yield id_, (resized.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def save_map(path: Path, saliency: np.ndarray) -> None:
    save_image(path, Image.fromarray(saliency))


def generate(args: argparse.Namespace) -> None:
    listed = read_list(args.data_list, MOST_CLASSES, labelled=args.single_class)
    if args.single_class:
        listed = [entry for entry in listed if len(set(entry.classes)) == 1]
    entries, config = sharded(listed, args.shard), DataConfig(args.data_dir / "JPEGImages")
    check_start(args.data_list, listed, EvalDataset(entries, config, labels=False).files())
    detector = make_detector(args)
    claim_folder(args.out, detector.made_by, "*.png", args.overwrite)
    todo = [e for e in entries if args.overwrite or not (args.out / f"{e.id}.png").exists()]
    loader = eval_loader(SaliencyDataset(todo, config, detector), args.num_workers)
    done = len(entries) - len(todo)
    with Background() as later:
        for id_, saliency in tqdm(detect(detector, loader), initial=done, total=len(entries), unit="img"):
            later(save_map, args.out / f"{id_}.png", saliency)
    print(f"saliency maps of {len(entries)} images: {args.out}")


if __name__ == "__main__":
    run_script(lambda: generate(parse_args()))
