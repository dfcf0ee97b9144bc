"""The demo with few iterations: every step runs and writes its results."""

import json
import sys
from pathlib import Path

import pytest
from conftest import run_script
from PIL import Image

from demo import Demo, parse_args


@pytest.mark.slow
def test_demo_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = run_script("demo.py", "--out", out, "--num-steps", 6, "--step2-steps", 4, process=True)
    assert done.stdout.count("\n$ ") == 16  # each command line is printed
    summary = json.loads((out / "scores/summary.json").read_text())
    assert list(summary["scores"]) == ["stage 1", "stage 1 + CRF", "stage 2", "stage 2 + CRF"]
    assert [len(summary["commands"]), summary["commands"][1]["command"][:15]] == [15, "python train.py"]
    assert "stage 2, training" in (out / "report.html").read_text()
    with Image.open(out / "gallery.png") as picture:
        assert picture.width > 1000 and picture.height > 800
    plain = run_script("demo.py", "--out", tmp_path / "plain", "--plain", "--num-steps", 6, process=True)
    assert "stage 1 + CRF" in plain.stdout and (tmp_path / "plain/report.html").exists()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_report_is_skipped_without_its_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    Demo(parse_args([])).report()
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines == [f"report skipped: the report needs {package}: pip install jinja2 matplotlib"]
