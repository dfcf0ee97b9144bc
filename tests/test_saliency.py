"""gen_saliency.py with a stand-in for the package rembg; test_saliency_onnx.py has ONNX files."""

import sys
import types
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import Done, contents, error_line, flags, run_script
from PIL import ExifTags, Image, ImageDraw

from utils.saliency.detectors import CPU, GPU, choose_providers

LIST = {"a": (0,), "b": (1,), "c": (0, 2), "d": (2,), "e": (1, 1)}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pictures of `make_root`, and a rembg whose detectors find what is bright."""
    onnxruntime, rembg = types.ModuleType("onnxruntime"), types.ModuleType("rembg")
    onnxruntime.get_available_providers = lambda: [CPU]
    rembg.new_session = lambda name, providers: types.SimpleNamespace(
        predict=lambda image: [image.convert("L").point(lambda value: 255 * (value > 128))]
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime)
    monkeypatch.setitem(sys.modules, "rembg", rembg)
    return make_root(tmp_path)


def make_root(tmp_path: Path) -> Path:
    """Five images of a bright disk on a dark background; the last one is rotated by its EXIF orientation."""
    (tmp_path / "JPEGImages").mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for k, id_ in enumerate(LIST):
        image = Image.new("RGB", (80, 60), (30, 60, 40))
        ImageDraw.Draw(image).ellipse((26 + 3 * k, 11, 54 + 3 * k, 39), (255, 180, 60))
        image.save(tmp_path / f"JPEGImages/{id_}.png", exif=exif if id_ == "e" else None)
    lines = [" ".join(map(str, (id_, *classes))) for id_, classes in LIST.items()]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    return tmp_path


def options(root: Path, *more: object, out: str = "out") -> list[object]:
    return [*flags(data_dir=root, data_list=root / "list.txt", out=root / out, num_workers=0, device="cpu"), *more]


def generate(root: Path, *more: object, out: str = "out") -> Done:
    return run_script("gen_saliency.py", *options(root, *more, out=out))


def read(root: Path, id_: str, out: str = "out") -> np.ndarray:
    with Image.open(root / out / f"{id_}.png") as image:
        assert image.mode == "L"
        return np.array(image)


def maps(root: Path) -> str:
    return "".join(sorted(path.stem for path in (root / "out").glob("*.png")))


def test_maps_have_the_size_of_the_rotated_image(root: Path) -> None:
    assert "saliency maps of 5 images" in generate(root).stdout
    assert read(root, "a").shape == (60, 80) and read(root, "e").shape == (80, 60)
    assert read(root, "a")[25, 40] == 255 and read(root, "a")[5, 5] == 0
    assert read(root, "e")[52, 34] == 255  # (25, 52) before the rotation


def test_shards_single_classes_and_other_detectors(root: Path) -> None:
    generate(root, "--single-class", "--shard", "1/2")
    assert maps(root) == "ad"
    generate(root, "--single-class", "--shard", "2/2")
    assert maps(root) == "abde"
    line = error_line("gen_saliency.py", *options(root, "--detector", "silueta"))
    assert "made with other detector" in line


@pytest.mark.parametrize("out", ["JPEGImages", "maps"])
def test_files_of_others_are_never_replaced(root: Path, out: str) -> None:
    """--out is the folder of the pictures, or one with a map that somebody has drawn."""
    (root / "maps").mkdir()
    Image.new("L", (80, 60)).save(root / "maps/e.png")
    before = contents(root)
    for more in ([], ["--overwrite"]):
        line = error_line("gen_saliency.py", *options(root, *more, out=out))
        assert "choose another directory" in line and "--overwrite" not in line
    assert before == contents(root)


def test_the_gpu_is_used_where_onnxruntime_has_one() -> None:
    for gpu in GPU:
        assert choose_providers(None, [gpu, CPU]) == [(gpu, {"device_id": 0}), CPU]
        assert choose_providers("cuda:1", [gpu, CPU]) == [(gpu, {"device_id": 1}), CPU]
        assert choose_providers("cpu", [gpu, CPU]) == [CPU]
    assert choose_providers(None, [CPU]) == [CPU]


def test_refused_download_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = Mock(side_effect=ConnectionError("no route to\nhost"))
    monkeypatch.setattr(sys.modules["rembg"], "new_session", refuse)
    monkeypatch.setenv("U2NET_HOME", "")  # restores it afterwards
    line = error_line("gen_saliency.py", *options(root, "--model-dir", root / "models"))
    assert "no usable weights of u2net (no route to host): download them elsewhere" in line


@pytest.mark.parametrize("package", ["onnxruntime", "rembg"])
def test_missing_package_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    line = error_line("gen_saliency.py", *options(root))
    assert f"the package {package} cannot be imported" in line and 'pip install "rembg[cpu]==2.0.69"' in line


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--detector", "u2net", "--model", "x.onnx"], "exclude each other"),
        (["--mean", "0.5"], "are for --model FILE"),
        (["--device", "cuda"], "no GPU support: pip install onnxruntime-gpu"),
        (["--device", "tpu"], "--device tpu is not supported"),
        (["--model", "none.onnx"], "none.onnx not found"),
    ],
)
def test_bad_option_is_one_line(root: Path, more: list, text: str) -> None:
    assert text in error_line("gen_saliency.py", *options(root, *more))
    assert not (root / "out").exists()


def test_bad_image_is_one_line(root: Path) -> None:
    (root / "JPEGImages/b.png").write_bytes(b"text")
    assert "b.png cannot be read as an image" in error_line("gen_saliency.py", *options(root))
    assert maps(root) == "a"
