"""A run as one page to read, print and send: what was run, time, scores, training curves, confusion, pictures.

    python report.py --run demo      what `make demo` made (and ends with)
    python report.py --run .         what the README's commands left in the project's folder

Writes report.html to the run's folder: a single file that needs no network and no script. What the run has not made
is left out, and a sentence says which command makes it. Places that differ from the usual ones are named by options.
"""

import argparse
from pathlib import Path

from datasets.options import add_data_options
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import atomic_write, save_image
from utils.report.collect import RunOutputs
from utils.report.gallery_page import gallery_sheet
from utils.report.page import page
from utils.report.places import add_place_options


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--run", type=Path, default=Path("."), metavar="DIR", help="folder that the scripts wrote to")
    add("--out", type=Path, metavar="FILE", help="the page (report.html in --run, unless given)")
    add("--gallery", type=Path, metavar="FILE", help="write a PNG of a few rows of the gallery, too")
    add("--max-images", type=cli.positive_int, default=1500, metavar="N",
        help="images of a kind that are ranked for the gallery, spread over their list")  # fmt: skip
    group = add_data_options(parser, images=False, num_classes=None, found_in="the results'")
    group.add_argument(
        "--data-list", type=Path, help="validation images (val.txt in --list-dir, unless given)"
    )
    add_place_options(parser)
    return parser.parse_args(argv)


def report(args: argparse.Namespace) -> None:
    run = RunOutputs(args)
    out = args.out or args.run / "report.html"
    with atomic_write(out) as file:
        file.write(page(run).encode())
    print(f"report: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    if args.gallery is not None:
        picture = gallery_sheet(run)
        if picture is None:
            raise InputError(f"{args.gallery} is not written: the run has no label maps to show")
        save_image(args.gallery, picture)
        print(f"gallery: {args.gallery}")


if __name__ == "__main__":
    run_script(lambda: report(parse_args()))
