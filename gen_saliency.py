"""Create saliency maps with a salient-object detector, for gen_sal2gt.py.

    python gen_saliency.py --data-dir own --data-list own/lists/train_cls.txt --out own/saliency
    python gen_saliency.py --model detector.onnx --output logits --data-dir own --data-list own/lists/train_cls.txt

Writes ID.png to --out: 8-bit grey, of the size of the image after its EXIF rotation. Detectors:

    --detector NAME
        A trained network of the optional package rembg (pip install "rembg[cpu]==2.0.69"; for a GPU, [gpu] instead of
        [cpu]), which downloads the weights on first use.
    --model FILE
        Any ONNX file. It needs the optional package onnxruntime.

If interrupted, rerun the command to resume; --overwrite replaces maps made with other settings. --shard I/N processes
one of N parts of the list, for use on several machines.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.checks import check_start
from datasets.lists import read_list
from datasets.loaders import DataConfig, EvalDataset, eval_loader
from datasets.options import add_list_options, sharded
from utils.core import cli
from utils.core.errors import run_script
from utils.core.files import Results, save_image
from utils.saliency.detectors import add_detector_options, make_detector

MOST_CLASSES = 255  # the classes of the list are not used


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--data-dir", type=Path, default=Path("dataset/VOC2012"), help="directory with JPEGImages/ID.jpg")
    add_list_options(group, Path("dataset/voc_list/train_cls.txt"))
    add("--single-class", action="store_true", help="only images of one class: gen_sal2gt.py needs no others")
    add("--out", type=Path, default=Path("dataset/saliency"), help="directory of the saliency maps")
    add("--overwrite", action="store_true", help="replace saliency maps made with other settings")
    add_detector_options(parser)
    cli.add_device_options(parser, network=False)
    return parser.parse_args(argv)


class RgbDataset(EvalDataset):
    """Whole images: ID, H x W x 3 uint8 RGB."""

    def __getitem__(self, index: int) -> tuple[str, np.ndarray]:
        image, _ = self.read(self.entries[index])
        return self.entries[index].id, np.ascontiguousarray(image[:, :, ::-1])


def generate(args: argparse.Namespace) -> None:
    listed = read_list(args.data_list, MOST_CLASSES, labelled=args.single_class)
    if args.single_class:
        listed = [entry for entry in listed if len(set(entry.classes)) == 1]
    entries, config = sharded(listed, args.shard), DataConfig(args.data_dir / "JPEGImages")
    check_start(args.data_list, listed, EvalDataset(entries, config, labels=False).files())
    detect, made_by = make_detector(args)
    made_from = dict.fromkeys((entry.id for entry in listed), made_by)
    results = Results(args.out, ".png", "saliency maps", made_from, [config.image_dir])
    finished = results.finished(args.overwrite)
    todo = [entry for entry in entries if entry.id not in finished]
    loader = eval_loader(RgbDataset(todo, config, labels=False), args.num_workers)
    for id_, image in tqdm(loader, initial=len(entries) - len(todo), total=len(entries), unit="img"):
        saliency = detect(Image.fromarray(image.numpy()))
        save_image(results.path(id_), Image.fromarray(saliency), results.note(id_))
    print(f"saliency maps of {len(entries)} images: {args.out}")


if __name__ == "__main__":
    run_script(lambda: generate(parse_args()))
