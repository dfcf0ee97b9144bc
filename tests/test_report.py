"""report.py: what a page holds, what it says where something is missing, and its parts."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, error_line, run_script
from PIL import Image
from report_run import NAMES, make_run

from report import parse_args
from utils.report.charts import make_axis, number, smoothed, thinned
from utils.report.collect import RunOutputs
from utils.report.gallery import choose
from utils.report.markup import Markup, table, tag

VOID = {"meta", "img"}


class Page(HTMLParser):
    """A page's pictures, tables and text; fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, name: str, attributes: list) -> None:
        self.seen.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def all(self, name: str) -> list[dict]:
        return [attributes for seen, attributes in self.seen if seen == name]


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tiny_data, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def report(run: Path, *options: object) -> Page:
    out = run.parent / "page.html"
    run_script("report.py", "--run", run, "--out", out, *options)
    return Page(out.read_text())


def folder(run: Path, *options: str) -> RunOutputs:
    return RunOutputs(parse_args(["--run", str(run), *options]))


def test_page_holds_everything(run: Path) -> None:
    page = report(run)
    for text in (
        "python train.py --arch mini", "4 min 14 s", "stage 2, training", "1 h 06 min", "stage 2 + CRF", "+mining",
        "0123abc", "<mini>", "begins at iteration 25,", "Kept images", "Dropped pixels", "Validation mIoU",
        "Confusion matrix of stage 2 + CRF", "Confusion matrix of stage 1", "Simple training images",
        "saliency label", "pseudo label", *NAMES,
    ):  # fmt: skip
        assert text in page.text, text
    assert "This command makes it" not in page.text
    charts = [a for a in page.all("svg") if a.get("class") == "chart"]
    assert len(charts) == 10 and all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in charts)
    images = page.all("img")
    count = len(images)
    assert count == 4 * 6 + 8 * 6 + 8 * 5  # val; simple: with the saliency label; complex: without
    assert all(a["alt"] and a["src"].startswith("data:image/") for a in images)
    assert page.all("html")[0]["lang"] == "en" and page.all("title") and page.all("table")
    assert all(a["scope"] in ("row", "col") for a in page.all("th"))


def test_nothing_is_loaded_or_run(run: Path) -> None:
    page = report(run)
    assert not page.all("script") and not page.all("link")
    links = [v for _, a in page.seen for k, v in a.items() if k in ("src", "href", "xlink:href")]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not any(key.startswith("on") for _, attributes in page.seen for key in attributes)
    style = (ROOT / "utils/report/report.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_same_run_same_page(run: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("a.html", "b.html"):
        run_script("report.py", "--run", run, "--out", tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


@pytest.mark.parametrize(
    ("gone", "sentence", "kept"),
    [
        ("snapshots", "Not in a log of this run", "stage 2 + CRF"),
        ("snapshots/run.json", "begins at iteration 120,", "Kept images"),
        ("scores/scores.json", "No scores of stage 1.", "Confusion matrix of stage 2 + CRF"),
        ("scores", "No scores of the simple images' labels.", "Kept images"),
        ("labels/val", "No label maps of stage 1 on", "stage 1 + CRF"),
        ("step2", "No scores of stage 2.", "Confusion matrix of stage 1 + CRF"),
        ("pseudo_labels", "No pseudo labels for stage 2.", "stage 1 + CRF"),
        ("data", "No list of the validation images", "Confusion matrix of stage 2 + CRF"),
        ("data/truth", "their truth is not known", "stage 2 + CRF"),
        ("data/JPEGImages", "ranked by the mean IoU", "stage 2 + CRF"),
    ],
)
def test_missing_parts(own_run: Path, gone: str, sentence: str, kept: str) -> None:
    summary = json.loads((own_run / "scores/summary.json").read_text())
    summary["commands"][0]["command"] += " --denoise-from 120 --no-onf"
    (own_run / "scores/summary.json").write_text(json.dumps(summary))
    path = own_run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = report(own_run)
    assert sentence in page.text and kept in page.text


def test_broken_files_are_named_and_left_out(own_run: Path) -> None:
    (own_run / "scores/scores_crf.json").write_text('{"Mean IoU": 0.')
    log = own_run / "snapshots/log.jsonl"
    log.write_text(log.read_text().replace('"loss_seg": 3.1', '"loss_seg": NaN', 1) + '{"i": 30')
    (own_run / "data/lists/complex_list.txt").write_text("complex_00001 99\n")
    first = sorted((own_run / "step2").rglob("crf/*.png"))[0]
    first.write_bytes(b"no picture")
    page = report(own_run)
    assert "class 99 is out of range" in page.text and "Simple training images" in page.text
    assert "scores_crf.json cannot be read" in page.text and "No scores of stage 1 + CRF." in page.text
    assert "Left out for want of a readable label map: 1." in page.text
    assert "nan" not in page.text.lower().replace("nats", "")


def test_layout_of_the_published_commands(own_run: Path, tmp_path: Path) -> None:
    """The places of train.py, evaluate.py and so on: logits stand in for stage 1's label maps."""
    root = tmp_path / "project"
    moves = {
        "data": "dataset/VOC2012", "data/lists": "dataset/voc_list", "data/sal2gt": "dataset/sal2gt",
        "labels/val_crf": "crf_val", "logit_train": "logit_train_aug", "step2": "step2/data",
        "snapshots": "snapshots", "scores": "scores", "pseudo_labels": "pseudo_labels",
    }  # fmt: skip
    for old, new in moves.items():
        shutil.copytree(own_run / old, root / new, dirs_exist_ok=True)
    (root / "scores/summary.json").unlink()
    for path in (own_run / "labels/val").glob("*.png"):
        logits = np.eye(4, dtype=np.float32)[np.array(Image.open(path))].transpose(2, 0, 1)
        (root / "logit_val").mkdir(exist_ok=True)
        np.save(root / f"logit_val/{path.stem}.npy", logits)
    page = report(root)
    assert "python train.py --arch mini" not in page.text and "python train.py --list-dir 'a b'" in page.text
    assert "Times are recorded by `make demo` alone" in page.text
    assert "This command makes it" not in page.text
    count = len(page.all("img"))
    assert count == 4 * 6 + 8 * 5 + 8 * 4  # labels before the mining are not kept
    assert "stage 1 of val_" in page.all("img")[2]["alt"]
    assert (
        report(root, "--num-classes", 4, "--data-list", root / "dataset/voc_list/val.txt").text == page.text
    )


def test_where_denoising_begins(own_run: Path) -> None:
    assert folder(own_run).denoising() == (25, True)  # 1/12 of the iterations
    made = own_run / "snapshots/run.json"
    made.write_text(json.dumps({"options": {"denoise_from": 70}}))
    assert folder(own_run).denoising() == (70, True)
    made.write_text(json.dumps({"options": {"no_onf": True, "no_pnd": True, "denoise_from": 70}}))
    assert folder(own_run).denoising() is None
    made.unlink()
    assert folder(own_run).denoising() == (100, False)  # the first line of the log with fewer images


def test_bad_input(own_run: Path, tmp_path: Path) -> None:
    assert "nowhere not found" in error_line("report.py", "--run", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "nothing to report" in error_line("report.py", "--run", tmp_path / "empty")
    assert not (tmp_path / "empty/report.html").exists()
    line = error_line("report.py", "--run", own_run, "--crf-dir", tmp_path / "nowhere")
    assert "--crf-dir" in line
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    assert "2 class names" in error_line("report.py", "--run", own_run, "--class-names", names)
    for gone in ("labels", "step2", "data"):
        shutil.rmtree(own_run / gone)
    line = error_line("report.py", "--run", own_run, "--gallery", tmp_path / "gallery.png")
    assert "no label maps" in line


def test_gallery_picture(run: Path, tmp_path: Path) -> None:
    report(run, "--gallery", tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.width > 10 * 100 and picture.height > 4 * 100
    assert (tmp_path / "gallery.png").stat().st_size < 200_000


@pytest.mark.parametrize("gone", ["data/lists/simple_list.txt", "data/lists/val.txt"])
def test_gallery_picture_of_one_kind_of_image(own_run: Path, tmp_path: Path, gone: str) -> None:
    """A run without pseudo labels, or one without masks to validate with."""
    report(own_run, "--gallery", tmp_path / "both.png")
    (own_run / gone).unlink()
    report(own_run, "--gallery", tmp_path / "one.png")
    with Image.open(tmp_path / "both.png") as both, Image.open(tmp_path / "one.png") as one:
        assert 3 * 100 < one.width < both.width - 3 * 100 and one.height > 4 * 100


def test_choose() -> None:
    ranked = [(f"{n:02}", 1 - n / 100) for n in range(40)]
    groups = list(choose(ranked, 2, 3, 2).values())
    assert groups == [["00", "01"], ["18", "19", "20"], ["39", "38"]]
    assert list(choose(ranked[:7], 2, 3, 2).values()) == [[id_ for id_, _ in ranked[:7]]]
    unknown = [(id_, None) for id_, _ in ranked]
    assert list(choose(unknown, 2, 0, 2).values()) == [["00", "10", "20", "30"]]
    assert choose([], 2, 3, 2) == {"All, the best first": []}


@pytest.mark.parametrize("high", [1e-9, 0.004, 0.31, 1, 7, 8.79, 100, 12000])
@pytest.mark.parametrize("whole", [False, True])
def test_axis(high: float, whole: bool) -> None:
    axis = make_axis(0, high, whole=whole)
    steps = np.diff(axis.ticks)
    assert axis.low == 0 and axis.high >= high * 0.999 and 1 <= len(steps) <= 8
    assert np.allclose(steps, steps[0]) and axis.ticks[-1] == pytest.approx(axis.high)
    texts = [number(tick, steps[0]) for tick in axis.ticks]
    assert len(set(texts)) == len(texts)  # no two ticks read the same
    assert not whole or steps[0] >= 1


def test_lines_keep_their_means() -> None:
    points = [(float(n), float(n % 7)) for n in range(1000)]
    assert len(thinned(points, 240)) == 240 and thinned(points[:5], 240) == points[:5]
    assert smoothed(points, 3)[500] == (500.0, 3.0)
    steps = [(float(n), float(n >= 50)) for n in range(100)]
    assert smoothed(steps, 9, edge=50) == steps  # nothing is seen before it begins


def test_markup_escapes() -> None:
    assert (
        tag("p", "<&>", Markup("<b></b>"), None, class_='"') == '<p class="&quot;">&lt;&amp;&gt;<b></b></p>'
    )
    assert '<th scope="row">&lt;</th><td>1</td>' in table("c", ["a", "b"], [("<", 1)])
