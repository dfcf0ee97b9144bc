"""The demo with few iterations: every step runs and writes its results."""

import json
from pathlib import Path

import pytest
from conftest import run_script
from PIL import Image

from demo import Demo, parse_args


@pytest.mark.slow
def test_demo_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = run_script("demo.py", "--out", out, "--num-steps", 6, "--step2-steps", 4, process=True)
    assert done.stdout.count("\n$ ") == 14  # each command line is printed
    summary = json.loads((out / "scores/summary.json").read_text())
    assert list(summary["scores"]) == ["stage 1", "stage 1 + CRF", "stage 2", "stage 2 + CRF"]
    assert [len(summary["commands"]), summary["commands"][1]["command"][:15]] == [13, "python train.py"]
    assert "stage 2 + CRF" in (out / "report.html").read_text()
    with Image.open(out / "gallery.png") as picture:
        assert picture.width > 1000 and picture.height > 800


def test_the_report_needs_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("demo.find_spec", lambda name: None)
    Demo(parse_args([])).report()
    assert capsys.readouterr().out.strip() == "no report: it needs jinja2 and matplotlib"
