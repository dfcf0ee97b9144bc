"""prepare_voc.py on small files in the official formats, and gen_sal2gt.py on small saliency maps."""

import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Done, error_line, flags, read_mask, run_script
from PIL import Image
from test_images import in_colour, renumbered

from datasets.labels import palette_image
from datasets.voc import VOC_CLASSES

SIZE = (12, 18)  # height, width
OBJECTS = {
    "2007_000001": ["cat"],
    "2007_000002": ["person", "dog", "person"],
    "2007_000003": ["bird"],
    "2008_000001": ["bird"],
    "2008_000002": ["car", "bird"],
    "2008_000003": ["sheep"],
}
TRAIN, VAL = ["2007_000002", "2007_000001"], ["2007_000003"]
SBD = ["2008_000001", "2008_000002", "2007_000001", "2007_000003"]  # with a training and a val image of VOC


def mask_of(label: int, border: int = 255) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[2:9, 3:12] = border
    mask[3:8, 4:11] = label
    return mask


def write_xml(path: Path, names: list[str]) -> None:
    part = "<part><name>head</name></part>"
    objects = "".join(f"<object><name>{n}</name><difficult>1</difficult>{part}</object>" for n in names)
    path.write_text(f"<annotation><source><name>x</name></source>{objects}</annotation>")


def write_mat(path: Path, label: int, **change: object) -> None:
    """As SBD has it, without its other fields; `change` replaces GTcls or adds others."""
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(path, {"GTcls": {"Segmentation": mask_of(label, label)}} | change)


def make_devkit(tmp_path: Path) -> Path:
    """A devkit of three segmented and three other images, under VOCdevkit/VOC2012."""
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    for id_, names in OBJECTS.items():
        Image.new("RGB", SIZE[::-1]).save(voc / "JPEGImages" / f"{id_}.jpg")
        write_xml(voc / "Annotations" / f"{id_}.xml", names)
    for id_ in (*TRAIN, *VAL):
        label = VOC_CLASSES.index(OBJECTS[id_][0]) + 1
        palette_image(mask_of(label)).save(voc / "SegmentationClass" / f"{id_}.png")
    for name, ids in (("train", TRAIN), ("val", VAL)):
        (voc / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n")
    return tmp_path


def make_sbd(root: Path) -> Path:
    """SBD's release with masks whose label is always 5; returns its folder of masks."""
    folder = root / "benchmark_RELEASE" / "dataset" / "cls"
    folder.mkdir(parents=True)
    for id_ in SBD:
        write_mat(folder / f"{id_}.mat", 5)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_devkit(tmp_path)


@pytest.fixture
def sbd(root: Path) -> Path:
    return make_sbd(root)


def options(root: Path, *more: object) -> list[object]:
    return [*flags(devkit=root / "VOCdevkit/VOC2012", list_dir=root / "lists", sal2gt=root / "sal2gt"), *more]


def prepare(root: Path, *more: object) -> Done:
    return run_script("prepare_voc.py", *options(root, *more))


def masks(root: Path) -> dict[str, np.ndarray]:
    folder = root / "VOCdevkit/VOC2012/SegmentationClassAug"
    assert not list(root.rglob("*.tmp"))
    return {path.stem: read_mask(path) for path in sorted(folder.iterdir())}


def lines(root: Path, name: str) -> list[str]:
    return (root / "lists" / f"{name}.txt").read_text().splitlines()


def files(root: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("given", [".", "benchmark_RELEASE", "benchmark_RELEASE/dataset"])
def test_voc_and_sbd_become_masks_and_lists(root: Path, sbd: Path, given: str) -> None:
    before = files(root)
    out = prepare(root, "--sbd", root / given).stdout
    assert before.items() <= files(root).items()  # nothing official has changed
    made = masks(root)
    assert [*made] == sorted(OBJECTS)[:5]
    for id_, mask in made.items():
        own = id_ in TRAIN + VAL
        label = VOC_CLASSES.index(OBJECTS[id_][0]) + 1 if own else 5
        assert np.array_equal(mask, mask_of(label) if own else mask_of(5, 5))
    assert lines(root, "train_aug") == ["2007_000001", "2007_000002", "2008_000001", "2008_000002"]
    assert lines(root, "train_cls") == ["2007_000001 7", "2007_000002 11 14", "2008_000001 2", "2008_000002 2 6"]
    assert lines(root, "val") == VAL and not (root / "lists/simple_list.txt").exists()
    assert "gen_sal2gt.py, then run prepare_voc.py again" in out
    assert "3 masks of VOC and 2 of SBD created, 0 already existed" in out
    rows = [line.split()[:2] for line in out.splitlines()[-5:]]
    assert rows == [["train_cls", "4"], ["simple", "-"], ["complex", "-"], ["val", "1"], ["test", "-"]]


def test_voc_alone_with_test_images(root: Path) -> None:
    voc = root / "VOCdevkit/VOC2012"
    (voc / "ImageSets/Segmentation/test.txt").write_text("2008_000006\n")
    error = error_line("prepare_voc.py", *options(root))
    assert "2008_000006.jpg not found, the first of 1 missing among 1 listed test images: unpack" in error
    Image.new("RGB", SIZE[::-1]).save(voc / "JPEGImages/2008_000006.jpg")
    out = prepare(root).stdout
    assert [*masks(root)] == sorted(TRAIN + VAL)
    assert lines(root, "train_aug") == sorted(TRAIN) and lines(root, "test") == ["2008_000006"]
    assert out.splitlines()[-1].split() == ["test", "1", "1,456"]


def test_run_again_does_what_is_missing(root: Path, sbd: Path) -> None:
    prepare(root, "--sbd", root)
    folder = root / "VOCdevkit/VOC2012/SegmentationClassAug"
    before = files(root)
    out = prepare(root).stdout  # without --sbd: its masks are there
    assert files(root) == before
    assert "0 masks of VOC and 0 of SBD created, 5 already existed" in out
    assert out.count("unchanged") == 3
    palette_image(mask_of(9)).save(folder / "2008_000001.png")
    for gone in ("2007_000001", "2008_000002"):
        (folder / f"{gone}.png").unlink()
    (root / "lists/val.txt").write_text("")
    touched = before.keys() - {folder / "2008_000001.png", root / "lists/val.txt"}
    out = prepare(root, "--sbd", root).stdout
    assert "1 masks of VOC and 1 of SBD created, 3 already existed" in out
    assert f"{root / 'lists/val.txt'}: 1 images, written" in out
    assert {path: files(root)[path][0] for path in touched} == {path: before[path][0] for path in touched}
    assert np.array_equal(masks(root)["2008_000001"], mask_of(9))


def test_lists_of_other_contents_are_kept(root: Path) -> None:
    prepare(root)
    train, val = (root / f"lists/{name}.txt" for name in ("train_cls", "val"))
    train.write_text("\ufeff" + train.read_text().replace("\n", " \n"))  # the same entries
    val.write_text("2007_000009\n")
    before = train.read_bytes()
    out = prepare(root).stdout
    assert train.read_bytes() == before and val.read_text() == "2007_000009\n"
    assert lines(root, "val.new") == VAL and f"{val} has other contents" in out
    prepare(root, "--overwrite")
    assert lines(root, "val") == VAL


def test_sbd_lists_name_the_images(root: Path, sbd: Path) -> None:
    (sbd.parent / "train.txt").write_text("2008_000002\n2007_000003\n")
    prepare(root, "--sbd", root)
    assert "2008_000001" in masks(root)  # one list of the two is none
    shutil.rmtree(root / "VOCdevkit/VOC2012/SegmentationClassAug")
    (sbd.parent / "val.txt").write_text("2007_000002\n")  # VOC's own mask serves
    prepare(root, "--sbd", root, "--overwrite")
    assert lines(root, "train_aug") == ["2007_000001", "2007_000002", "2008_000002"]
    (sbd.parent / "val.txt").write_text("2008_000003\n")
    assert "2008_000003.mat not found" in error_line("prepare_voc.py", *options(root, "--sbd", root))


@pytest.mark.parametrize("form", [renumbered, in_colour])
def test_other_codings_of_voc_masks(root: Path, form: Callable) -> None:
    path = root / "VOCdevkit/VOC2012/SegmentationClass" / f"{VAL[0]}.png"
    form(mask_of(3)).save(path)
    before = path.read_bytes()
    prepare(root)
    assert np.array_equal(masks(root)[VAL[0]], mask_of(3))
    assert path.read_bytes() == before


@pytest.mark.parametrize("links", [True, False])
def test_masks_are_linked_or_copied(root: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("other file system")))
    prepare(root)
    name = f"{VAL[0]}.png"
    original = root / "VOCdevkit/VOC2012/SegmentationClass" / name
    assert (root / "VOCdevkit/VOC2012/SegmentationClassAug" / name).samefile(original) == links
    assert np.array_equal(masks(root)[VAL[0]], np.array(Image.open(original)))


def test_simple_and_complex(root: Path, sbd: Path) -> None:
    (root / "sal2gt").mkdir()
    palette_image(mask_of(3)).save(root / "sal2gt/2008_000001.png")
    palette_image(mask_of(255)).save(root / "sal2gt/2007_000001.png")  # no foreground
    palette_image(mask_of(3)).save(root / "sal2gt/2008_000002.png")  # two classes
    out = prepare(root, "--sbd", root).stdout
    assert lines(root, "simple_list") == ["2008_000001 2"]
    assert lines(root, "complex_list") == ["2007_000001 7", "2007_000002 11 14", "2008_000002 2 6"]
    assert [line.split()[:2] for line in out.splitlines()[-4:-2]] == [["simple", "1"], ["complex", "3"]]


def test_download_fetches_both_once(root: Path, sbd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = root / "new"
    fake = types.ModuleType("torchvision.datasets")
    fake.VOCSegmentation = lambda folder, *_, download: shutil.copytree(root / "VOCdevkit", folder / "VOCdevkit")
    # With cls/ right below, as torchvision leaves it.
    fake.SBDataset = lambda folder, *_, mode, download: shutil.copytree(sbd.parent, folder)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)
    words = ["prepare_voc.py", "--download", "--devkit", there / "VOC2012", "--list-dir", root / "lists"]
    run_script(*words)
    assert len(list((there / "VOC2012/SegmentationClassAug").iterdir())) == 5
    fake.VOCSegmentation = fake.SBDataset = None  # not called again
    run_script(*words)
    fake.VOCSegmentation = lambda *_, **__: (_ for _ in ()).throw(OSError("no\nroute"))
    line = error_line(*words[:3], root / "third/VOC2012", "--sbd", root)
    assert "VOCtrainval_11-May-2012.tar could not be downloaded (no route)" in line
    assert "something other" in error_line(*words[:3], root / "lists")
