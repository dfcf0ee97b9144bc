"""File names of any kind: characters beyond ASCII, symbolic links, clashes, other working directories."""

import re
from pathlib import Path

import pytest
from conftest import ROOT, error_line, flags, run_script

from datasets.inputs import find_inputs
from utils.core.errors import InputError


def test_folders_behind_symbolic_links_are_searched_once(tmp_path: Path) -> None:
    for name in ("photos/a.jpg", "elsewhere/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "photos/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "photos")
    sources, _ = find_inputs([tmp_path / "photos"], tmp_path / "out")
    assert list(sources) == ["a", "more/b"]


def test_names_beyond_ascii(own_data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the plain locale of a container, too."""
    lists, out = own_data / "lists", tmp_path / "out"
    for path in own_data.glob("*/*_000*.*"):
        path.rename(path.with_stem(f"café_{path.stem}"))
    for path in lists.iterdir():
        text = re.sub(r"(\w+_000)", r"café_\1", path.read_text())
        path.write_text(text.replace("bird", "oiseau bleuté"), encoding="utf-8")
    data = [*flags(data_dir=own_data, num_classes=4), "--class-names", lists / "class_names.txt"]
    run = flags(restore_from=weights, device="cpu")
    done = run_script("check_data.py", *data, *flags(list_dir=lists, pseudo_label_dir=own_data / "sal2gt"))
    assert "oiseau bleuté" in done.stdout and "no problems found" in done.stdout
    val = flags(data_list=lists / "val.txt", num_workers=0, logit_dir=out, score_dir=out)
    run_script("evaluate.py", *data, *run, *val)
    photo = own_data / "JPEGImages/café_val_00001.jpg"
    monkeypatch.setenv("LC_ALL", "C")
    run_script("predict.py", *run, *data[4:], "--out", out, photo, process=True)
    run_script("report.py", *flags(run=out))
    assert (out / "café_val_00001.npy").exists() and (out / "café_val_00001.png").exists()
    assert "café_val_00001" in (out / "report.html").read_text(encoding="utf-8")


def test_another_working_directory_is_named(tmp_path: Path) -> None:
    """Default paths are relative: a script that runs elsewhere finds nothing, and says where to run it."""
    hint = f"not found in {tmp_path} (default paths are relative to {ROOT}: run the script there)"
    line = error_line(
        "gen_label_mining.py", "--data-list", "tests/reference/one_cls.txt", "--num-classes", 21, cwd=tmp_path
    )
    assert line.startswith(f"error: tests/reference/one_cls.txt {hint}: write one")
    line = error_line("evaluate.py", "--restore-from", "tests/reference/one.txt", cwd=tmp_path)
    assert line == f"error: tests/reference/one.txt {hint}"
    assert error_line("evaluate.py", cwd=tmp_path) == f"error: snapshots/VOC_best.pth {hint}"
    assert hint in error_line("prepare_voc.py", cwd=tmp_path)
    absent = tmp_path / "absent.pth"
    assert error_line("evaluate.py", "--restore-from", absent, cwd=tmp_path) == f"error: {absent} not found"


def test_folders_and_clashes(tmp_path: Path) -> None:
    files = "x/a.jpg x/sub/b.PNG x/a.txt x/.hidden.jpg x/.cache/c.jpg x/out/a.png y/a.jpg z/a.png z/a.jpg z/b.v2"
    for name in files.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(given: str, out: str = "x/out") -> tuple[str, int]:
        sources, others = find_inputs([tmp_path / name for name in given.split()], tmp_path / out)
        return " ".join(sources), others

    assert names("x") == ("a sub/b", 1)
    assert names("x/a.jpg z/b.v2") == ("a b.v2", 0)
    assert names("z") == ("a.jpg a.png", 1)
    assert names("x/a.jpg y/a.jpg x/a.jpg x/sub/b.PNG") == ("x/a y/a x/sub/b", 0)
    assert names("y z") == ("y/a z/a.jpg z/a.png", 1)
    for given, text in (("z", "directory of the images"), ("z/a.png", "one of the input images")):
        with pytest.raises(InputError, match=text):
            names(given, out="z")
