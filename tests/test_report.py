"""report.py: the contents of the page, its hints for missing results, and its parts."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, error_line, run_script
from PIL import Image
from report_run import NAMES, make_run

from report import parse_args
from utils.evaluation.metrics import COUNTS
from utils.report import plots
from utils.report.collect import RunOutputs
from utils.report.gallery import choose

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

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
        "python train.py --arch mini",
        "4 min 14 s",
        "stage 2, training",
        "1 h 06 min",
        "stage 2 + CRF",
        "+mining",
        "0123abc",
        "<mini>",
        "begins at\niteration 25,",
        "Kept images",
        "Dropped pixels",
        "Validation mIoU",
        "Confusion matrix of stage 2 + CRF",
        "Confusion matrix of stage 1",
        "Simple training images",
        "saliency label",
        "pseudo label",
        *NAMES,
    ):
        assert text in page.text, text
    assert "This command creates it" not in page.text
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
        ("snapshots", "Not in the logs of this run", "stage 2 + CRF"),
        ("snapshots/run.json", "first dropped image or pixel at\niteration 100,", "Kept images"),
        ("scores/scores.json", "No scores of stage 1.", "Confusion matrix of stage 2 + CRF"),
        ("scores", "No scores of the simple images' labels.", "Kept images"),
        ("logit_val", "No label maps of stage 1 on", "stage 1 + CRF"),
        ("step2", "No scores of stage 2.", "Confusion matrix of stage 1 + CRF"),
        ("pseudo_labels", "No pseudo labels for stage 2.", "stage 1 + CRF"),
        ("data", "No list of the validation images", "Confusion matrix of stage 2 + CRF"),
        ("data/truth", "their truth is not known", "stage 2 + CRF"),
        ("data/JPEGImages", "ranked by the mean IoU", "stage 2 + CRF"),
    ],
)
def test_missing_parts(own_run: Path, gone: str, sentence: str, kept: str) -> None:
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
    assert "Images without a readable label map: 1." in page.text
    assert "nan" not in page.text.lower().replace("nats", "")


def test_layout_of_the_published_commands(own_run: Path, tmp_path: Path) -> None:
    """The default folders of train.py, evaluate.py and so on."""
    root = tmp_path / "project"
    shutil.copytree(own_run, root, ignore=shutil.ignore_patterns("data", "labels", "summary.json"))
    shutil.copytree(own_run / "step2/data", root / "step2/data")
    moves = {"data": "VOC2012", "data/lists": "voc_list", "data/sal2gt": "sal2gt"}
    for old, new in moves.items():
        shutil.copytree(own_run / old, root / "dataset" / new)
    page = report(root)
    assert "python train.py --arch mini" not in page.text and "python train.py --list-dir 'a b'" in page.text
    assert "Only make demo records times" in page.text
    assert "This command creates it" not in page.text
    count = len(page.all("img"))
    assert count == 4 * 6 + 8 * 5 + 8 * 4  # the labels before mining do not exist
    assert "stage 1 of val_" in page.all("img")[2]["alt"]
    same = report(root, "--num-classes", 4, "--data-list", root / "dataset/voc_list/val.txt")
    assert same.text == page.text


def test_recorded_folders_are_used(own_run: Path, tmp_path: Path) -> None:
    """Folders outside --run, from the recorded options of train.py and evaluate.py."""
    page = report(own_run)
    data = (own_run / "data").rename(tmp_path / "elsewhere")
    assert len(report(own_run).all("img")) == 0
    places = {
        "data_dir": str(data),
        "list_dir": str(data / "lists"),
        "pseudo_label_dir": str(data / "sal2gt"),
    }
    made = json.loads((own_run / "snapshots/run.json").read_text())
    (own_run / "snapshots/run.json").write_text(json.dumps(made | {"options": made["options"] | places}))
    assert len(report(own_run).all("img")) == len(page.all("img"))


def bold(run: Path) -> int:
    return len([a for a in report(run).all("td") if a.get("class") == "best"])


def test_scores_of_different_images_are_not_compared(own_run: Path) -> None:
    assert bold(own_run) > 4 and "Not comparable" not in report(own_run).text
    path = own_run / "scores/confusion_crf.json"
    counts = json.loads(path.read_text())
    total = sum(map(sum, counts[COUNTS]))
    counts[COUNTS][1][2] += 5
    path.write_text(json.dumps(counts))
    text = report(own_run).text
    assert bold(own_run) == 0 and text.count("Not comparable:") == 2 and "Bold:" not in text
    assert f"stage 1: {total:,} pixels" in text and f"stage 1 + CRF: {total + 5:,} pixels" in text


def test_scores_of_different_lists_are_not_compared(own_run: Path) -> None:
    """The recorded lists decide if a confusion matrix is missing."""
    (own_run / "scores/confusion.json").unlink()
    (own_run / "scores/scores_run.json").write_text('{"options": {"data_list": "lists/half.txt"}}')
    assert bold(own_run) > 4  # nothing is known about the other lists
    config = "DATASET:\n  SPLIT:\n    VAL: val\n"
    record = next(own_run.glob("step2/data/scores/*/*/*/scores.json")).with_name("scores_run.json")
    record.write_text(json.dumps({"options": {"config": config}}))
    text = report(own_run).text
    assert (
        bold(own_run) == 0 and "unknown number of pixels, list half;" in text and "pixels, list val;" in text
    )


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_missing_package(own_run: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    line = error_line("report.py", "--run", own_run)
    assert package in line and "pip install jinja2 matplotlib" in line
    assert not (own_run / "report.html").exists()


def test_names_are_escaped(own_run: Path) -> None:
    """In every place where a name of the user's appears: the page, the figures, the alternative texts."""
    script, names = "<script>alert('1')</script>", own_run / "names.txt"
    names.write_text(f'{script}\n$x$ --> & "\n{{{{ 7 * 7 }}}}\n')
    for path in own_run.glob("snapshots/run.json"):
        path.write_text(path.read_text().replace("<mini>", script))
    page = report(own_run, "--class-names", names)
    assert not page.all("script") and page.text.count(script) > 5 and "{{ 7 * 7 }}" in page.text
    assert '$x$ --> & "' in page.text


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
    assert choose([], 2, 3, 2) == {"All, best first": []}


@pytest.mark.parametrize("high", [1e-9, 0.004, 0.31, 1, 7, 8.79, 100, 12000])
@pytest.mark.parametrize("unit", ["nats", "images per batch"])
def test_axis(high: float, unit: str) -> None:
    lines = {"line": np.array([[10.0, 0.0], [12000.0, high]])}
    texts = Page(plots.line_chart("title", unit, lines, None)).texts
    ticks = [text for text in texts[texts.index("iteration") :] if re.fullmatch(r"[\d.]+", text)]
    assert 2 <= len(ticks) <= 8 and len(set(ticks)) == len(ticks)  # no two ticks read the same
    assert unit == "nats" or all(tick.isdigit() for tick in ticks)


def test_lines_keep_their_means() -> None:
    points = np.array([(float(n), float(n % 7)) for n in range(1000)])
    means = plots.binned(points, 240)
    assert len(means) == 240 and np.allclose(means[:, 1].mean(), 3, rtol=0.01)
    steps = np.array([(float(n), float(n >= 50)) for n in range(100)])
    means = plots.binned(steps, 30, edge=50)
    assert set(means[:, 1]) == {0, 1} and 30 <= len(means) <= 31  # nothing is averaged across the edge
    assert len(plots.binned(steps[:5], 30, edge=50)) <= 5


def test_outliers_do_not_flatten_a_curve() -> None:
    values = np.concatenate([[50.0], np.ones(99)])
    assert plots.axis_top(values) == 1.25 and plots.axis_top(values[:20]) == 50
    assert plots.axis_top(np.zeros(3)) == 1


def test_figures_follow_the_page(run: Path) -> None:
    """No colour of their own, no style for the rest of the page, and IDs that are unique on it."""
    page = report(run)
    assert not [a for a in page.all("path") if re.search("#[0-9a-f]{6}", a.get("style", ""))]
    assert len(page.all("style")) == 1
    ids = [a["id"] for _, a in page.seen if "id" in a]
    assert len(ids) == len(set(ids))
