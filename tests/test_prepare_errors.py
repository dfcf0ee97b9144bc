"""What prepare_voc.py says of inputs that are missing or wrong: one line, and nothing half-written."""

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import error_line
from PIL import Image
from test_prepare import SIZE, files, make_devkit, make_sbd, mask_of, options, write_mat

from datasets.labels import palette_image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_devkit(tmp_path)


@pytest.mark.parametrize(("module", "words"), [("torchvision", ["--download"]), ("scipy", ["--sbd", "."])])
def test_optional_packages(root: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: list[str]) -> None:
    (root / "cls").mkdir()
    (root / "cls/2008_000001.mat").write_bytes(b"")
    for name in (module, "torchvision.datasets", "scipy.io"):
        monkeypatch.setitem(sys.modules, name, None)
    words = [root if word == "." else word for word in words]
    assert f"the package {module}." in error_line("prepare_voc.py", *options(root, *words))


def encoded(mask: np.ndarray) -> bytes:
    palette_image(mask).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


XML, JPEG = "Annotations/2007_000001.xml", "JPEGImages/2007_000001.jpg"
MASK = "SegmentationClass/2007_000001.png"
TWO = b"<a><object><name>cow</name></object><object><name>unicorn</name></object></a>"
BAD = {  # what to change, into what (None: it is gone), what the error says
    "no devkit": (".", None, "VOC2012 not found: unpack VOCtrainval_11-May-2012.tar"),
    "no lists": ("ImageSets", None, "VOC2012 has no ImageSets/Segmentation: unpack VOCtrainval_11-May-2012.tar"),
    "no val": ("ImageSets/Segmentation/val.txt", None, "val.txt not found"),
    "no XML": (XML, None, "2007_000001.xml not found"),
    "broken XML": (XML, b"<annotation><object>", "2007_000001.xml is no annotation"),
    "unknown class": (XML, TWO, "2007_000001.xml is no annotation of VOC's classes ('unicorn')"),
    "no image": (JPEG, None, "2007_000001.jpg not found"),
    "broken image": (JPEG, b"text", "2007_000001.jpg cannot be read as an image"),
    "no mask": (MASK, None, "2007_000001.png not found"),
    "cut off": (MASK, encoded(mask_of(1))[:-40], "2007_000001.png cannot be read as an image"),
    "size": (MASK, encoded(mask_of(1)[:, 1:]), "2007_000001.png is 17x12, but its image is 18x12"),
    "label": (MASK, encoded(mask_of(21)), "2007_000001.png contains the label 21"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(root: Path, case: str) -> None:
    name, content, text = BAD[case]
    path = root / "VOCdevkit/VOC2012" / name
    if content is not None:
        path.write_bytes(content)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    before = files(root)
    assert text in error_line("prepare_voc.py", *options(root))
    assert not (root / "lists").exists()
    assert not list(root.rglob("*.tmp"))
    made = files(root)
    assert before.items() <= made.items()
    assert all(Image.open(path).load() for path in made.keys() - before.keys())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"GTcls": np.zeros(SIZE, np.uint8)}, "GTcls.Segmentation cannot be read"),
        ({"GTcls": {"Boundaries": 1}}, "GTcls.Segmentation cannot be read"),
        ({"GTcls": {"Segmentation": mask_of(1) / 2}}, "GTcls.Segmentation cannot be read"),
        ({"GTcls": {"Segmentation": mask_of(21)}}, "contains the label 21"),
        ({"GTcls": {"Segmentation": mask_of(1)[1:]}}, "is 18x11, but its image is 18x12"),
        (b"MATLAB 5.0 MAT-file", "GTcls.Segmentation cannot be read"),
        (None, "has no benchmark_RELEASE/dataset/cls"),
    ],
)
def test_bad_sbd_is_one_line(root: Path, change: dict | bytes | None, text: str) -> None:
    sbd = make_sbd(root)
    path = sbd / "2008_000001.mat"
    if change is None:
        shutil.rmtree(sbd)
    elif isinstance(change, bytes):
        path.write_bytes(change)
    else:
        write_mat(path, 1, **change)
    line = error_line("prepare_voc.py", *options(root, "--sbd", root))
    assert text in line and (change is None or str(path) in line)
    assert not (root / "lists").exists()


def test_masks_do_not_go_among_the_originals(root: Path) -> None:
    words = options(root, "--out", root / "VOCdevkit/VOC2012/SegmentationClass")
    assert "contains VOC's own masks" in error_line("prepare_voc.py", *words)
