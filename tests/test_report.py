"""report.py: what the page shows of a run, in a browser too."""

import html
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import error_line, run_script
from PIL import Image

from datasets.labels import save_labels
from utils.core.files import save_array, save_json
from utils.evaluation.metrics import ConfusionMatrix, report_scores

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

# Names that would break a page if they went into it as they are.
NAMES = ["background", '<script>x</script> "', "{{ 7 * 7 }} & 'x'", "averyverylongclassnamewithoutanyspace" * 2]
STAGE2 = "demo/deeplabv2_mini_msc"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def shifted(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Wrong labels: the truth shifted sideways, with background for the ignore label."""
    return np.where(labels == 255, 0, np.roll(labels, pixels, 1))


def write_log(path: Path, key: str, values: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{key: 10 * n} | {name: value / (1 + n) for name, value in values.items()} for n in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut')


@pytest.fixture
def run(tiny_data: Path, tmp_path: Path) -> Path:
    """All outputs of the demo but the networks: logs, four stages, labels of all kinds."""
    root = tmp_path / "run"
    shutil.copytree(tiny_data, root / "data")
    log = dict.fromkeys(("loss_seg", "loss_cls", "loss_adv_complex", "loss_D_pred", "kept", "dropped"), 2.0)
    write_log(root / "snapshots/log.jsonl", "i", log | {"loss_D_gt": float("nan")})
    write_log(root / "snapshots/val.jsonl", "i", {"Mean IoU": 0.5})
    write_log(root / f"step2/data/models/{STAGE2}/train_aug/log.jsonl", "iteration", {"loss": 3.0})
    made = {"command": "train.py", "device": "cpu", "git": "0123abc", "options": {"num_steps": 600}}
    save_json(root / "snapshots/run.json", made)
    step2 = f"step2/data/scores/{STAGE2}/val"
    results = root / f"step2/data/features/{STAGE2}/val"
    for pixels, folder, scores in (
        (9, root / "logit_val", root / "scores/scores.json"),
        (6, root / "crf_val", root / "scores/scores_crf.json"),
        (5, results / "logit", root / step2 / "scores.json"),
        (3, results / "crf", root / step2 / "scores_crf.json"),
    ):
        confusion = ConfusionMatrix(4)
        for path in sorted((tiny_data / "SegmentationClassAug").glob("*.png")):
            truth = np.array(Image.open(path))
            found = shifted(truth, pixels)
            confusion.update(torch.from_numpy(truth), torch.from_numpy(found))
            if folder.name.startswith("logit"):
                save_array(folder / f"{path.stem}.npy", np.eye(4, dtype=np.float32)[found].transpose(2, 0, 1))
            else:
                save_labels(folder / path.name, found)
        report_scores(confusion, NAMES, scores, {}, torch.device("cpu"))
    for path in (tiny_data / "truth").glob("*.png"):
        save_labels(root / "pseudo_labels" / path.name, shifted(np.array(Image.open(path)), 2))
    row = {"Mean IoU": 0.6, "labelled": 0.9, "error": 0.1}
    for kind in ("simple", "complex"):
        save_json(root / f"scores/labels_{kind}_list.json", {"saliency": row, "+mining": row})
    commands = [{"command": "python train.py --arch <mini>", "seconds": 254.2}]
    save_json(root / "scores/summary.json", {"commands": commands})
    return root


def report(run: Path) -> str:
    run_script("report.py", "--run", run)
    return (run / "report.html").read_text()


def test_page(run: Path) -> None:
    page = report(run)
    text = html.unescape(re.sub("<[^>]+>", "", page))
    stage2 = json.loads((run / f"step2/data/scores/{STAGE2}/val/scores_crf.json").read_text())
    expected = ["stage 2 + CRF", f"{100 * stage2['Mean IoU']:.2f}", "+mining", "iteration 50,", "0123abc"]
    for shown in (*expected, "python train.py --arch <mini> 254 s", *NAMES):
        assert shown in text, shown
    pictures = re.findall('<img (?:class="chart" )?src="data:image/[^"]+" alt="[^"]+">', page)
    assert len(pictures) == page.count("<img") == 8 + 4 * 6 + 12 * 4 + 8 * 3
    assert "<script" not in page
    assert report(run) == page


@pytest.mark.parametrize(
    ("gone", "text", "left"),
    [
        ("snapshots", "Segmentation loss", "Loss of stage 2"),
        ("step2", "stage 2", "stage 1 + CRF"),
        ("data", "Validation images", "stage 1 + CRF"),
        ("data/truth", "ranked by the mean IoU of “pseudo label”", "their truth is not known"),
    ],
)
def test_missing_parts(run: Path, gone: str, text: str, left: str) -> None:
    assert text in report(run)
    shutil.rmtree(run / gone)
    page = report(run)
    assert text not in page and left in page


def test_classes_absent_from_the_truth_have_a_dash(run: Path) -> None:
    assert "<td>-</td>" not in report(run)
    counts = json.loads((run / "scores/confusion.json").read_text())
    counts["rows are true labels"][3] = [0, 0, 0, 0]
    save_json(run / "scores/confusion.json", counts)
    assert report(run).count("<td>-</td>") == 1


def test_own_run_without_scores(run: Path) -> None:
    shutil.rmtree(run / "scores")
    shutil.rmtree(run / "step2/data/scores")
    (run / "snapshots/val.jsonl").write_text('{"i": 50, "Mean IoU": 0.5}\n')
    page = report(run)
    assert "<h2>Scores" not in page and "Validation mIoU in %: mIoU 50 to 50" in page


def test_recorded_folders_are_used(run: Path, tmp_path: Path) -> None:
    count = report(run).count("<img")
    data = (run / "data").rename(tmp_path / "elsewhere")
    places = {"data_dir": data, "list_dir": data / "lists", "pseudo_label_dir": data / "sal2gt"}
    save_json(run / "snapshots/run.json", {"options": {name: str(path) for name, path in places.items()}})
    assert report(run).count("<img") == count


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_missing_package(run: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    line = error_line("report.py", "--run", run)
    assert f"the package {package} cannot be imported" in line and line.endswith(": pip install jinja2 matplotlib")


def test_bad_input(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        assert "holds neither logs nor scores" in error_line("report.py", "--run", tmp_path / folder)
    photograph, gallery = next((run / "data/JPEGImages").iterdir()), tmp_path / "gallery.png"
    before = photograph.read_bytes()
    assert "is not a gallery of this script" in error_line("report.py", "--run", run, "--gallery", photograph)
    assert photograph.read_bytes() == before
    for _ in range(2):  # its own it replaces
        run_script("report.py", "--run", run, "--gallery", gallery)
    (run / "scores/scores_crf.json").write_text('{"Mean IoU": 0.')
    assert "scores_crf.json cannot be read" in error_line("report.py", "--run", run)


# Elements that extend beyond the window, except for those that scroll; texts with too little contrast by WCAG.
FAULTS = """
const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const page = light(getComputedStyle(document.body).backgroundColor);
const pale = e => {
  const text = light(getComputedStyle(e).color);
  return (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05) < 4.5;
};
const limit = document.documentElement.clientWidth + 0.5;
const wide = e => !e.closest('.scroll > *') && e.getBoundingClientRect().right > limit;
const texts = 'p, li, td, th, h1, h2, h3, b, figcaption';
return [...document.body.querySelectorAll('*')].filter(e => wide(e) || (e.matches(texts) && pale(e))
  || (e.matches('img') && !e.naturalWidth)).map(e => e.outerHTML.slice(0, 200));
"""


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with a chromedriver (Debian: chromium-driver)")
def test_in_a_browser(run: Path, tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    report(run)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless", "no-sandbox", "disable-gpu", f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        for width, scheme, ground in ((360, "light", "rgb(255, 255, 255)"), (1280, "dark", "rgb(15, 20, 25)")):
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get((run / "report.html").as_uri())
            script = browser.execute_script
            assert script("return getComputedStyle(document.body).backgroundColor") == ground
            assert script("return document.documentElement.scrollWidth") <= width
            assert script(FAULTS) == []
            loaded = script("return performance.getEntriesByType('resource').map(e => e.name)")
            assert all(name.startswith("data:") for name in loaded)
        assert browser.get_log("browser") == []
    finally:
        browser.quit()
