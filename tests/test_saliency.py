"""gen_saliency.py: the classical detector, resuming, options and errors; test_saliency_onnx.py has the networks."""

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import DEADLINE, ROOT, Done, error_line, flags, run_script
from PIL import ExifTags, Image

from utils.saliency.classical import barrier_distance, classical_saliency
from utils.saliency.detectors import DEFAULT
from utils.saliency.onnx_model import CPU, GPU, choose_providers

LIST = {"a": (0,), "b": (1,), "c": (0, 2), "d": (2,), "e": (1, 1)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path)


def make_root(tmp_path: Path) -> Path:
    """Five images of a bright disk on a dark background; the last one is rotated by its EXIF orientation."""
    (tmp_path / "JPEGImages").mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for k, id_ in enumerate(LIST):
        image = disk((60, 80), (40 + 3 * k, 25), 14)
        Image.fromarray(image).save(tmp_path / f"JPEGImages/{id_}.png", exif=exif if id_ == "e" else None)
    lines = [" ".join(map(str, (id_, *classes))) for id_, classes in LIST.items()]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    return tmp_path


def disk(size: tuple[int, int], centre: tuple[int, int], radius: int) -> np.ndarray:
    """H x W x 3 uint8 RGB."""
    image = np.full((*size, 3), (30, 60, 40), np.uint8)
    return cv2.circle(image, centre, radius, (255, 180, 60), -1)


def options(root: Path, *more: object, out: str = "out") -> list[object]:
    chosen = flags(data_dir=root, data_list=root / "list.txt", out=root / out, num_workers=0)
    return [*chosen, *([] if "--device" in more or "--gpu" in more else ["--device", "cpu"]), *more]


def generate(root: Path, *more: object, out: str = "out") -> Done:
    return run_script("gen_saliency.py", *options(root, *more, out=out))


def read(root: Path, id_: str, out: str = "out") -> np.ndarray:
    with Image.open(root / out / f"{id_}.png") as image:
        assert image.mode == "L"
        return np.array(image)


def exact_barrier_distance(image: np.ndarray) -> np.ndarray:
    """By definition: the smallest range of values within which the border can be reached; H x W integers."""
    distance = np.full(image.shape, np.inf)
    for low in np.unique(image):
        for high in np.unique(image[image >= low]):
            _, regions = cv2.connectedComponents(np.uint8((image >= low) & (image <= high)), connectivity=4)
            border = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
            reached = np.isin(regions, np.setdiff1d(border, 0))
            distance[reached] = np.minimum(distance[reached], high - low)
    return distance


def test_barrier_distance() -> None:
    image = np.random.default_rng(3).integers(0, 12, (11, 14, 2)).astype(np.float32)
    ours = barrier_distance(image)
    exact = np.stack([exact_barrier_distance(image[..., c]) for c in range(2)], axis=2)
    assert (ours >= exact).all() and (ours == exact).mean() > 0.9


def test_classical_finds_a_disk_and_nothing_in_a_flat_image() -> None:
    image, truth = disk((240, 320), (150, 110), 60), disk((240, 320), (150, 110), 60)[..., 0] > 100
    found = classical_saliency(image[:, :, ::-1]) >= 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    for size in ((50, 60), (1, 1), (1, 300)):
        assert not classical_saliency(np.full((*size, 3), 90, np.uint8)).any()


def test_maps_have_the_size_of_the_rotated_image(root: Path) -> None:
    out = generate(root, "--detector", "classical").stdout
    assert "saliency maps of 5 images" in out
    assert read(root, "a").shape == (60, 80) and read(root, "e").shape == (80, 60)
    assert read(root, "a")[25, 40] == 255 and read(root, "a")[5, 5] == 0
    assert read(root, "e")[52, 34] == 255  # (25, 52) before the rotation


def test_an_interrupted_run_is_resumed(root: Path) -> None:
    classical = "--detector", "classical"
    generate(root, *classical)
    (root / "out/b.png").unlink()
    stamp = (root / "out/a.png").stat().st_mtime_ns
    generate(root, *classical)
    assert (root / "out/b.png").exists() and (root / "out/a.png").stat().st_mtime_ns == stamp
    generate(root, *classical, "--overwrite")
    assert (root / "out/a.png").stat().st_mtime_ns != stamp


def test_shards_and_single_classes(root: Path) -> None:
    chosen = "--detector", "classical", "--single-class"
    generate(root, *chosen, "--shard", "1/2")
    assert sorted(path.stem for path in (root / "out").glob("*.png")) == ["a", "d"]
    generate(root, *chosen, "--shard", "2/2")
    assert sorted(path.stem for path in (root / "out").glob("*.png")) == ["a", "b", "d", "e"]


def test_optional_packages_are_not_imported() -> None:
    code = "import gen_saliency, sys; assert not {'rembg', 'onnx', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=DEADLINE)


def test_the_gpu_is_used_where_onnxruntime_has_one() -> None:
    for gpu in GPU:
        assert choose_providers(None, [gpu, CPU]) == [(gpu, {"device_id": 0}), CPU]
        assert choose_providers("cuda:1", [gpu, CPU]) == [(gpu, {"device_id": 1}), CPU]
        assert choose_providers("cpu", [gpu, CPU]) == [CPU]
    assert choose_providers(None, [CPU]) == [CPU]


def fake_rembg(monkeypatch: pytest.MonkeyPatch, download: Callable[[], str]) -> None:
    """Installs a package rembg that knows one detector."""
    sessions = types.ModuleType("rembg.sessions")
    session = types.SimpleNamespace(name=lambda: DEFAULT, download_models=download)
    sessions.sessions_class = [session]
    monkeypatch.setitem(sys.modules, "rembg", types.ModuleType("rembg"))
    monkeypatch.setitem(sys.modules, "rembg.sessions", sessions)
    monkeypatch.setenv("U2NET_HOME", "")  # restores it afterwards


def test_refused_download_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise ConnectionError("no route to\nhost")

    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    fake_rembg(monkeypatch, refuse)
    line = error_line("gen_saliency.py", *options(root, "--model-dir", root / "models"))
    assert "u2net could not be downloaded (no route to host): download them elsewhere" in line
    assert not (root / "out").exists()


@pytest.mark.parametrize("package", ["onnxruntime", "rembg"])
def test_missing_package_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    monkeypatch.setitem(sys.modules, package, None)
    if package == "rembg":
        monkeypatch.setitem(sys.modules, "rembg.sessions", None)
    line = error_line("gen_saliency.py", *options(root))
    assert f"the package {package} cannot be imported" in line and "pip install rembg[cpu]" in line


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--detector", "foo"], "--detector foo is not known: use u2net, "),
        (["--detector", "u2net", "--model", "x.onnx"], "exclude each other"),
        (["--mean", "0.5"], "--mean is for --model FILE"),
        (["--detector", "classical", "--input-size", "320"], "--input-size is for --model FILE"),
        (["--detector", "classical", "--device", "cuda"], "runs on the CPU only"),
        (["--detector", "classical", "--device", "cpu", "--gpu", "0"], "exclude each other"),
        (["--detector", "classical", "--data-dir", "nowhere"], "a.jpg not found, the first of 5"),
        (["--detector", "classical", "--data-list", "none.txt"], "none.txt not found"),
        (["--model", "none.onnx"], "none.onnx not found"),
    ],
)
def test_bad_option_is_one_line(root: Path, more: list, text: str) -> None:
    assert text in error_line("gen_saliency.py", *options(root, *more))
    assert not (root / "out").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"text", "cannot be read as an image"),
        (None, "b.jpg not found, the first of 1"),
    ],
)
def test_bad_image_is_one_line(root: Path, content: bytes | None, text: str) -> None:
    (root / "JPEGImages/b.png").unlink()
    if content is not None:
        (root / "JPEGImages/b.png").write_bytes(content)
    assert text in error_line("gen_saliency.py", *options(root, "--detector", "classical"))


def test_the_benchmark_scores_maps(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from benchmarks import saliency

    (tmp_path / "maps").mkdir()
    for path in (tiny_data / "SegmentationClassAug").glob("*.png"):
        with Image.open(path) as label:
            values = np.array(label)
        Image.fromarray(np.uint8(values > 0) * 200).save(tmp_path / "maps" / path.name)
    chosen = flags(data_dir=tiny_data, data_list=tiny_data / "lists/val.txt", num_classes=4)
    saliency.main(saliency.parse_args([*map(str, chosen), str(tmp_path / "maps")]))
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[0] == "maps" and float(row[2]) == float(row[3]) == float(row[5]) == 1
