"""Nothing of the user's is overwritten: results beside other files, results of other settings, temporary files."""

import os
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import contents, error_line, flags, read_mask, run_script, tiny_network
from PIL import Image

from datasets.images import read_image
from datasets.labels import save_labels
from networks.checkpoint import save
from utils.core.errors import InputError
from utils.core.errors import run_script as run_main
from utils.core.files import LEFTOVER_SECONDS, Results, atomic_write, read_array, read_note, save_array, save_image

IDS = "sub/a", "b"


def results(folder: Path, suffix: str = ".npy", kind: str = "logits", **made_from: object) -> Results:
    return Results(folder, suffix, kind, dict.fromkeys(IDS, made_from))


@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_notes_tell_what_is_finished(tmp_path: Path, suffix: str) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    made = results(tmp_path, suffix, weights="x", scales=(1, 0.5))
    assert made.finished(False) == set()
    if suffix == ".npy":
        save_array(made.path("sub/a"), array, made.note("sub/a"))
        assert np.array_equal(np.load(made.path("sub/a")), array)
    else:
        save_image(made.path("sub/a"), Image.fromarray(array), made.note("sub/a"))
    assert made.finished(False) == made.finished(True) == {"sub/a"}
    other = results(tmp_path, suffix, weights="y", scales=(1, 0.5))
    with pytest.raises(InputError, match=r"a\.(npy|png) was made with other weights, the first of 1 .*--overwrite"):
        other.finished(False)
    assert other.finished() == set()
    shutil.copy(made.path("sub/a"), tmp_path / f"sub/b{suffix}")
    os.truncate(tmp_path / f"sub/b{suffix}", 20)
    for foreign in (results(tmp_path, suffix, "maps"), results(tmp_path / "sub", suffix)):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="not replaced: choose another directory") as caught:
                foreign.finished(overwrite)
            assert "--overwrite" not in str(caught.value)


def test_an_input_directory_takes_no_results(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="is read by this script"):
        Results(tmp_path / "link", ".png", "maps", {}, [tmp_path])


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path, "w") as first:
        first.write("first")
        with atomic_write(path, "w") as second:
            second.write("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_files_of_killed_processes_go(tmp_path: Path) -> None:
    old, new = tmp_path / ".mdba-1.tmp", tmp_path / ".mdba-2.tmp"
    for path, age in ((old, LEFTOVER_SECONDS + 60), (new, 60)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    with atomic_write(tmp_path / "a.txt", "w"):
        pass
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("header", [b"{'descr': '<f4', 'fortran_order': False, 'shape': (2", b"\x00\xff" * 30])
def test_damaged_header_of_an_array(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(InputError, match=r"a\.npy cannot be read \(.*\): create it"):
        read_array(path, "create it")


@pytest.fixture
def data(own_data: Path, weights: Path) -> Path:
    """With logits and saliency maps."""
    root = own_data
    for folder in ("logits", "saliency"):
        (root / folder).mkdir()
    for path in (root / "JPEGImages").iterdir():
        save_array(root / f"logits/{path.stem}.npy", np.zeros((4, 9, 11), np.float32))
        Image.new("L", (80, 64), 255).save(root / f"saliency/{path.stem}.png")
    shutil.copy(weights, root / "tiny.pth")
    return root


def options(data_list: str, **more: object) -> list[object]:
    """Command-line words of a script that runs in the folder of `data`."""
    return flags(num_classes=4, data_list=f"lists/{data_list}.txt", **more)


CRF = {"data_dir": ".", "logit_dir": "logits", "n_jobs": 1, "device": "cpu"}
NETWORK = {"data_dir": ".", "restore_from": "tiny.pth", "num_workers": 0, "device": "cpu"}
MAPS = {"data_dir": ".", "saliency_dir": "saliency"}
WRONG: dict[str, tuple[str, str, dict]] = {
    "labels of stage 1": ("gen_label_crf.py", "train_cls", CRF | {"pseudo_label_dir": "sal2gt"}),
    "predictions on the truth": ("evaluate.py", "val", NETWORK | {"save_predictions": "SegmentationClassAug"}),
    "predictions on other masks": ("evaluate.py", "val", NETWORK | {"save_predictions": "saliency"}),
    "CRF on the truth": ("evaluate_crf.py", "val", CRF | {"prediction_dir": "SegmentationClassAug"}),
    "mining of the truth": ("gen_label_mining.py", "train_cls", {"pseudo_label_dir": "truth"}),
    "labels on saliency maps": ("gen_sal2gt.py", "train_cls", MAPS | {"out": "saliency"}),
    "labels on other labels": ("gen_sal2gt.py", "train_cls", MAPS | {"out": "sal2gt"}),
    "logits on other logits": ("gen_label.py", "train_cls", NETWORK | {"logit_dir": "logits"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_files_are_never_replaced(data: Path, case: str) -> None:
    script, data_list, more = WRONG[case]
    before = contents(data)
    for overwrite in ([], ["--overwrite"]) if script.startswith("gen_") else ([],):
        line = error_line(script, *options(data_list, **more), *overwrite, cwd=data)
        assert "choose" in line and "--overwrite" not in line
    assert contents(data) == before


def test_ids_in_subfolders_are_guarded(data: Path) -> None:
    (data / "JPEGImages/sub").mkdir()
    (data / "JPEGImages/val_00001.jpg").rename(data / "JPEGImages/sub/a.jpg")
    (data / "lists/one.txt").write_text("sub/a 0\n")
    words = options("one", **NETWORK, logit_dir="new")
    run_script("gen_label.py", *words, cwd=data)
    labels = options("one", **CRF | {"logit_dir": "new", "pseudo_label_dir": "crf"})
    run_script("gen_label_crf.py", *labels, cwd=data)
    assert (data / "crf/sub/a.png").exists()
    save(tiny_network(1).state_dict(), data / "tiny.pth")
    assert "sub/a.npy was made with other weights" in error_line("gen_label.py", *words, cwd=data)


def test_mining_elsewhere(tiny_data: Path, tmp_path: Path) -> None:
    words = flags(num_classes=4, data_list=tiny_data / "lists/train_cls.txt", pseudo_label_dir=tiny_data / "truth")
    words += flags(out=tmp_path / "mined")
    before = contents(tiny_data / "truth")
    run_script("gen_label_mining.py", *words, "--min-pixels", 10**6)
    assert contents(tiny_data / "truth") == before
    assert (read_mask(tmp_path / "mined/complex_00001.png") == 255).all()
    assert read_note(tmp_path / "mined/simple_00001.png")["min_pixels"] == 10**6
    assert "was made with other min_pixels" in error_line("gen_label_mining.py", *words)
    run_script("gen_label_mining.py", *words, "--overwrite")
    assert "changed 0 of 0" in run_script("gen_label_mining.py", *words).stdout
    save_labels(tmp_path / "mined/complex_00001.png", np.zeros((64, 80), np.uint8))
    assert "complex_00001.png is not one of the mined labels" in error_line("gen_label_mining.py", *words)


def test_too_many_open_files(tiny_data: Path, capsys: pytest.CaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(SystemExit):
            run_main(lambda: read_image(tiny_data / "JPEGImages/val_00001.jpg"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "raise it (ulimit -n)" in capsys.readouterr().err
