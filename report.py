"""Report of a run as one page: commands, times, scores, training curves, confusion matrices and images.

    python report.py --run demo      the run of `make demo`, which ends with this command
    python report.py --run .         a run with the README's commands in the project's folder

Writes report.html to the run's folder, a single file that needs no network and no script. Results that do not exist
are left out, and the page names the command that creates them. Needs the packages jinja2 and matplotlib.
"""

import argparse
from pathlib import Path

from datasets.options import add_data_options
from utils.core import cli
from utils.core.errors import InputError, run_script
from utils.core.files import atomic_write, save_image
from utils.report.collect import RunOutputs, add_place_options
from utils.report.gallery import gallery_sheet
from utils.report.page import render


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--run", type=Path, default=Path("."), metavar="DIR", help="folder that the scripts wrote to")
    add("--out", type=Path, metavar="FILE", help="the page (default: report.html in --run)")
    add("--gallery", type=Path, metavar="FILE", help="also write a PNG with a few rows of the gallery")
    ranked = "number of images of a kind to rank for the gallery, evenly spaced in their list"
    add("--max-images", type=cli.positive_int, default=1500, metavar="N", help=ranked)
    group = add_data_options(parser, images=False, num_classes=None, found_in="the results'")
    listed = "validation images (default: val.txt in --list-dir)"
    group.add_argument("--data-list", type=Path, help=listed)
    add_place_options(parser)
    return parser.parse_args(argv)


def report(args: argparse.Namespace) -> None:
    run = RunOutputs(args)
    out = args.out or args.run / "report.html"
    page = render(run)
    with atomic_write(out) as file:
        file.write(page.encode(errors="surrogateescape"))  # file names in an ASCII locale
    print(f"report: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    if args.gallery is not None:
        picture = gallery_sheet(run)
        if picture is None:
            raise InputError(f"{args.gallery} is not written: the run has no label maps to show")
        save_image(args.gallery, picture)
        print(f"gallery: {args.gallery}")


if __name__ == "__main__":
    run_script(lambda: report(parse_args()))
