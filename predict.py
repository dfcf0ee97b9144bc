"""Segment any images with a trained network of stage 1 or stage 2.

    python predict.py --restore-from ./snapshots/VOC_best.pth photo.jpg holidays/
    python predict.py --restore-from ./step2/data/models/checkpoint_72.0.pth --crf photo.jpg

Directories are searched recursively for images, except hidden ones. For every image NAME, two files are written to
--out:

    NAME.png          palette mask of the size of the image with the label of each pixel (0 is the background)
    NAME_overlay.jpg  the image with the labels drawn over it, and a legend with the area of each class

Results of images in a directory keep their relative path. If two names clash, they keep their suffix or, if
necessary, the path relative to the common parent directory. predictions.json lists the classes of every image with
their areas.

JPEG, PNG, WebP, BMP, TIFF, GIF (first frame) and PPM images of any size and mode are supported. They are rotated by
their EXIF orientation, placed on white where transparent, and reduced to 8 bits. Images with a side of more than
--max-side pixels are downscaled for the network; the mask is scaled back up, the overlay is not. Images that cannot
be read are reported on stderr and skipped, and the exit status is 2. Only results of an earlier run are replaced.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.images import read_picture
from datasets.inputs import find_inputs
from datasets.labels import palette_image
from datasets.options import CLASS_NAMES_HELP
from utils.core import cli
from utils.core.device import pick_device
from utils.core.errors import InputError, memory_hint, run_script
from utils.core.files import Results, save_image, save_json
from utils.crf.run import CRFSettings, add_crf_options, crf_settings
from utils.evaluation.predictor import RATES, Predictor
from utils.evaluation.visualize import overlay, with_legend

DEMO_WEIGHTS = Path("demo/snapshots/VOC_best.pth")
KIND = "masks"
rates = cli.comma_separated(cli.positive_int, bool, "list of positive integers")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("pictures", nargs="+", type=Path, metavar="IMAGE|DIR", help="images to segment")
    add = parser.add_argument_group("network").add_argument
    add("--restore-from", type=Path, metavar="F", help="trained weights of stage 1 or stage 2 (required)")
    add("--class-names", type=Path, metavar="F", help=CLASS_NAMES_HELP)
    text = "maximum length of the longer side for the network, pixels (VOC's images have 500)"
    add("--max-side", type=cli.positive_int, default=1024, metavar="N", help=text)
    add("--scales", type=cli.scales, help="stage 1: scales of the input, comma-separated (default: 1,0.75)")
    text = "stage 2: ATROUS_RATES of the configuration, comma-separated"
    add("--atrous-rates", type=rates, default=RATES, metavar="N,...", help=text)
    add = parser.add_argument_group("results").add_argument
    add("--out", type=Path, default=Path("predictions"), metavar="DIR", help="directory of the results")
    add("--crf", action="store_true", help="refine the labels with the dense CRF, also at --max-side")
    add_crf_options(parser, jobs=False)
    cli.add_device_options(parser, workers=False)
    return parser.parse_args(argv)


def count_classes(mask: Image.Image, names: Sequence[str]) -> list[dict]:
    """Label, name, pixels and share of each class in a mask, in order of decreasing area."""
    pixels = mask.histogram()
    labels = sorted((n for n in range(len(names)) if pixels[n]), key=lambda n: (-pixels[n], n))
    total = mask.width * mask.height
    return [{"label": n, "name": names[n], "pixels": pixels[n], "share": round(pixels[n] / total, 6)} for n in labels]


def describe(found: dict) -> str:
    """One result of `count_classes`: `bird 28.8 %`."""
    return f"{found['name']} {100 * found['share']:.1f} %" if found["share"] >= 0.0005 else f"{found['name']} < 0.1 %"


def segment(
    predictor: Predictor,
    path: Path,
    name: str,  # of the results
    image: np.ndarray,  # H x W x 3 uint8 BGR, with sides of at most --max-side
    size: tuple[int, int],  # (width, height) of the mask
    crf: CRFSettings | None,
    out: Path,
) -> dict:
    """Write the mask and the overlay of an image; returns the entry of predictions.json."""
    with memory_hint(f"{path} needs too much memory: try a smaller --max-side"):
        labels = predictor(image, crf)
    mask = palette_image(labels).resize(size, Image.Resampling.NEAREST)
    classes = count_classes(mask, predictor.names)
    entries = [(describe(found), found["label"]) for found in classes if found["label"] > 0]
    sheet = with_legend(overlay(image[:, :, ::-1], labels), entries or [("no class found", None)])
    results = {"mask": f"{name}.png", "overlay": f"{name}_overlay.jpg"}
    save_image(out / results["mask"], mask, {"kind": KIND})
    save_image(out / results["overlay"], sheet)
    about = {"picture": str(path), "width": size[0], "height": size[1]}
    return about | results | {"classes": classes}


def check_out(out: Path, names: Iterable[str]) -> None:
    """Check that the results replace no other files than those of an earlier run."""
    record = out / "predictions.json"
    Results(out, ".png", KIND, {name: {} for name in names}).finished()
    foreign = [out / f"{name}_overlay.jpg" for name in names if not (out / f"{name}.png").exists()]
    if record.exists() and '"passed_over":' not in record.read_text(errors="replace"):
        foreign.append(record)
    for path in foreign:
        if path.exists():
            raise InputError(f"{path} would be replaced: choose another directory for the results (--out)")


def predict(args: argparse.Namespace) -> None:
    if args.restore_from is None:
        raise InputError(f"give the weights of a network: --restore-from F (`make demo` writes {DEMO_WEIGHTS})")
    sources, others = find_inputs(args.pictures, args.out)
    check_out(args.out, sources)
    device = pick_device(args.device, args.gpu)
    predictor = Predictor(
        args.restore_from, device, args.class_names, args.scales, args.atrous_rates, args.channels_last
    )
    crf = crf_settings(args, device) if args.crf else None
    done: list[dict] = []
    failed: list[dict] = []
    try:
        for name, path in sources.items():
            try:
                image, size = read_picture(path, args.max_side)
            except InputError as error:
                failed.append({"picture": str(path), "error": str(error)})
                if len(sources) > 1:  # for a single image, the final error says it
                    print(f"warning: {error}", file=sys.stderr)
                continue
            done.append(segment(predictor, path, name, image, size, crf, args.out))
            found = ", ".join(describe(found) for found in done[-1]["classes"])
            print(f"{path}: {found}", flush=True)
    finally:  # even if an exception ends the run
        report = {
            "restore_from": str(args.restore_from),
            "stage": predictor.stage,
            "class_names": predictor.names,
            "max_side": args.max_side,
            "scales": list(predictor.scales) if predictor.stage == 1 else None,
            "crf": asdict(crf.params) | {"prune": crf.prune} if crf else None,
            "pictures": done,
            "failed": failed,
            "passed_over": others,
        }
        save_json(args.out / "predictions.json", report)
    summary = f"{len(done)} of {len(sources)} images segmented, results in {args.out}"
    print(f"{summary}; {others} other files in the directories skipped")
    if failed:
        summary = f"{len(failed)} of {len(sources)} images failed, see the warnings above"
        raise InputError(summary if len(sources) > 1 else failed[0]["error"])


if __name__ == "__main__":
    run_script(lambda: predict(parse_args()))
