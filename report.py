"""Report of a run as one page: scores by class and stage, curves, the best and the worst images, commands.

    python report.py --run demo      the run of `make demo`, which ends with this command
    python report.py --run .         a run with the README's commands in the project's folder

Writes report.html, a single file that needs no network and no script. Results that do not exist are left out.
Needs the packages jinja2 and matplotlib.
"""

import argparse
from pathlib import Path

from datasets.voc import palette
from utils.core import cli
from utils.core.errors import InputError, import_optional, run_script
from utils.core.files import ROOT, atomic_write, read_note, save_image
from utils.evaluation.metrics import percent
from utils.report.curves import draw_all
from utils.report.images import Kind, gallery_sheet, picture_uri, read_gallery
from utils.report.run import Run, score_table


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--run", type=Path, default=Path("."), metavar="DIR", help="folder that the scripts wrote to")
    add("--out", type=Path, metavar="FILE", help="the page (default: report.html in --run)")
    add("--gallery", type=Path, metavar="FILE", help="also write a PNG with a few rows of the images")
    return parser.parse_args(argv)


def render(run: Run, gallery: list[Kind]) -> str:
    """The page."""
    import jinja2

    loader = jinja2.FileSystemLoader(ROOT / "utils/report")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "picture_uri": picture_uri}
    colours = [*zip(run.names, palette().tolist()), ("ignored", palette()[255].tolist())]
    page = environment.get_template("page.html.j2")
    return page.render(run=run, scores=score_table(run), curves=draw_all(run), gallery=gallery, colours=colours)


def report(args: argparse.Namespace) -> None:
    for package in ("jinja2", "matplotlib"):
        import_optional(package, "the report needs it: pip install jinja2 matplotlib")
    run = Run(args.run)
    out = args.out or args.run / "report.html"
    gallery = read_gallery(run)
    with atomic_write(out) as file:
        file.write(render(run, gallery).encode())
    print(f"report: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    if args.gallery is not None:
        if not gallery:
            raise InputError(f"{args.gallery} is not written: the run has no label maps to show")
        if args.gallery.exists() and read_note(args.gallery) is None:
            raise InputError(f"{args.gallery} is not a gallery of this script: choose another name")
        save_image(args.gallery, gallery_sheet(gallery, run.names), {"kind": "gallery"})
        print(f"gallery: {args.gallery}")


if __name__ == "__main__":
    run_script(lambda: report(parse_args()))
