"""Lists and file names of any kind: byte order marks, spaces, characters beyond ASCII, other working directories."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT, data_options, error_line, flags, run_script
from PIL import Image

from datasets.checks import require_files
from datasets.images import read_image
from datasets.lists import Entry, read_class_names, read_list
from datasets.loaders import DataConfig, EvalDataset
from networks.checkpoint import save
from networks.deeplab import Arch, DeepLab
from utils.core.errors import InputError


@pytest.fixture
def named_data(tiny_data: Path, tmp_path: Path) -> Path:
    """The first simple image, val image and class have names beyond ASCII."""
    root = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    for id_ in ("simple_00001", "val_00001"):
        for path in root.glob(f"*/{id_}.*"):
            path.rename(path.with_stem(f"café_{id_}"))
    for path in (root / "lists").glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        for id_ in ("simple_00001", "val_00001"):
            text = text.replace(id_, f"café_{id_}")
        path.write_text(text.replace("bird", "oiseau bleuté"), encoding="utf-8")
    return root


def test_byte_order_marks_are_no_part_of_an_id(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\ufeffone 1\n\ufefftwo 2\n", encoding="utf-8")
    assert read_list(path, 21) == [Entry("one", (1,)), Entry("two", (2,))]
    assert read_class_names(path, 3) == ["background", "one 1", "two 2"]
    path.write_text("one 1\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"list\.txt cannot be read as text .*: save it as UTF-8"):
        read_list(path, 21)


@pytest.mark.parametrize("line", ["my photo 3", "photo (2) 1", "IMG 2007 1"])
def test_an_id_has_no_spaces(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(line)
    with pytest.raises(InputError, match=r"list\.txt, line 1: .*an ID has no spaces"):
        read_list(tmp_path / "list.txt", 21)


def test_an_image_with_a_space_is_missed_by_name(tmp_path: Path) -> None:
    (tmp_path / "IMG 3.jpg").touch()
    images = EvalDataset([Entry("IMG", (3,))], DataConfig(tmp_path), labels=False)
    expected = r"IMG\.jpg not found, .* listed images: 'IMG 3\.jpg' exists, but an ID has no spaces: rename"
    with pytest.raises(InputError, match=expected):
        require_files(images.files(), images.origin)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_beyond_ascii_in_any_locale(
    named_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locale: str
) -> None:
    for name, value in {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    lists = flags(list_dir=named_data / "lists", pseudo_label_dir=named_data / "sal2gt")
    names = flags(class_names=named_data / "lists/class_names.txt")
    common = flags(data_dir=named_data, num_classes=4)
    out = run_script("check_data.py", *common, *lists, *names, process=True).stdout
    assert "found 24 of 24 images" in out and out.splitlines()[-1] == "no problems found"

    shutil.copytree(named_data / "sal2gt", tmp_path / "saliency")
    for path in (tmp_path / "saliency").iterdir():
        Image.new("L", (80, 64), 200).save(path)
    made = flags(data_list=named_data / "lists/train_cls.txt", saliency_dir=tmp_path / "saliency")
    lists = flags(out=tmp_path / "labels", list_dir=tmp_path / "lists")
    run_script("gen_sal2gt.py", *common, *made, *lists, process=True)
    written = (tmp_path / "lists/simple_list.txt").read_bytes()
    assert written == (named_data / "lists/simple_list.txt").read_bytes()

    torch.manual_seed(0)
    save(DeepLab(4, Arch((1, 1, 1, 1), 4, True)).state_dict(), tmp_path / "tiny.pth")
    run_script(
        "evaluate.py",
        *data_options(named_data),
        *names,
        *flags(
            data_list=named_data / "lists/val.txt",
            restore_from=tmp_path / "tiny.pth",
            logit_dir=tmp_path / "logits",
            score_dir=tmp_path,
        ),
        process=True,
    )
    assert (tmp_path / "logits/café_val_00001.npy").exists() and (tmp_path / "scores.json").exists()
    picture = named_data / "JPEGImages/café_val_00001.jpg"
    words = ["--restore-from", tmp_path / "tiny.pth", "--device", "cpu", "--out", tmp_path / "out", picture]
    run_script("predict.py", *words, *names, process=True)
    report = json.loads((tmp_path / "out/predictions.json").read_text())
    assert len(report["pictures"]) == 1 and (tmp_path / "out/café_val_00001.png").exists()


def test_damaged_images_get_one_line(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """The decoders' own lines on stderr would come before the error and name no file."""
    for name in ("a.jpg", "a.png"):
        Image.effect_noise((64, 64), 50).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=rf"{name} is truncated: replace it"):
            read_image(tmp_path / name)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InputError, match=r"empty\.jpg cannot be read as an image"):
        read_image(tmp_path / "empty.jpg")
    assert capfd.readouterr().err == ""


def test_another_working_directory_is_named(tmp_path: Path) -> None:
    """Default paths are relative: a script that runs elsewhere finds nothing, and says where to run it."""
    hint = f"not found in {tmp_path} (it exists in {ROOT}: run the script there)"
    line = error_line(
        "gen_label_mining.py", "--data-list", "tests/reference/one_cls.txt", "--num-classes", 21, cwd=tmp_path
    )
    assert line.startswith(f"error: tests/reference/one_cls.txt {hint}: write one")
    line = error_line("evaluate.py", "--restore-from", "tests/reference/one.txt", cwd=tmp_path)
    assert line == f"error: tests/reference/one.txt {hint}"
    line = error_line("evaluate.py", "--restore-from", "nowhere.pth", cwd=tmp_path)
    assert line == "error: nowhere.pth not found"
