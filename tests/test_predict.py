"""predict.py: any picture through networks of both stages, as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, error_line, read_mask, run_script
from PIL import Image
from test_scripts import eval_options

from datasets import transforms as T
from datasets.images import read_picture
from networks.checkpoint import save
from networks.deeplab import Arch, DeepLab
from step2.libs.models import MSC, from_stage1
from utils.core.errors import InputError
from utils.evaluation.predictor import Predictor

ARCH = Arch((1, 1, 1, 1), 4, True)
TURNED = Image.Exif()
TURNED[0x0112] = 6
OPACITY = Image.linear_gradient("L").resize((60, 40))


def drawing(width: int = 60, height: int = 40) -> np.ndarray:
    """H x W x 3 RGB: smooth colours with a bright square at the top left."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / width, 255 * y / height, np.full(x.shape, 90)], 2).astype(np.uint8)
    image[: height // 3, : width // 3] = 250
    return image


def network(classes: int = 4) -> DeepLab:
    """Tiny and random, but no class is likelier than the others all over `drawing()`."""
    torch.manual_seed(classes)
    made = DeepLab(classes, ARCH).eval()
    image = T.to_network(drawing()[:, :, ::-1])
    with torch.no_grad():
        made.layer5.conv2d_list[0].bias -= made(torch.from_numpy(image)[None]).mean((0, 2, 3))
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network as a checkpoint of either stage, and a DeepLab-v1."""
    folder, first = tmp_path_factory.mktemp("weights"), network().state_dict()
    v1 = {key.removeprefix("base."): v for key, v in MSC(4, ARCH.blocks, None, ARCH.width).state_dict().items()}
    for name, state in (("stage1", first), ("stage2", from_stage1(first)), ("v1", v1)):
        save(state, folder / f"{name}.pth")
    return {path.stem: path for path in folder.iterdir()}


def predict(weights: Path, *args: object, cwd: Path, status: int = 0) -> tuple[dict, str, str]:
    """Run the script; returns predictions.json, stdout and stderr."""
    words = ("--restore-from", weights, "--device", "cpu", *args)
    done = run_script("predict.py", *words, cwd=cwd, status=status)
    return json.loads((cwd / "predictions/predictions.json").read_text()), done.stdout, done.stderr


def mask(folder: Path, name: str) -> np.ndarray:
    return read_mask(folder / "predictions" / f"{name}.png")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of many modes, formats and sizes; `turned` ones are to be seen upright."""
    rgb, folder = Image.fromarray(drawing()), tmp_path_factory.mktemp("odd")
    red = drawing()[:, :, 0]
    alpha = rgb.copy()
    alpha.putalpha(OPACITY)
    for name in ("rgb.jpg", "rgb.bmp", "rgb.ppm", "rgb.webp", "rgb.tif"):
        rgb.save(folder / name)
    for name in ("turned.jpg", "turned.png"):
        rgb.save(folder / name, exif=TURNED)
    for mode, name in (("L", "grey.png"), ("1", "one_bit.png"), ("CMYK", "inks.jpg"), ("CMYK", "inks.tif")):
        rgb.convert(mode).save(folder / name)
    rgb.save(folder / "moving.gif", save_all=True, append_images=[rgb.rotate(180)])
    rgb.quantize(16).save(folder / "palette.png")
    rgb.quantize(16).save(folder / "palette_clear.png", transparency=3)
    for mode, name in (("RGBA", "alpha.png"), ("RGBA", "alpha.webp"), ("LA", "grey_alpha.png")):
        alpha.convert(mode).save(folder / name)
    deep = (red.astype(np.uint16) * 257, "deep.png"), (red.astype(np.int32) * 70000, "deep.tif")
    for values, name in (*deep, (red.astype(np.float32) / 255, "float.tif")):
        Image.fromarray(values).save(folder / name)
    for size in ((1, 1), (5, 900), (900, 5)):
        rgb.resize(size).save(folder / f"{size[0]}x{size[1]}.png")
    return folder


def test_pictures_of_every_kind(tmp_path: Path, odd: Path, weights: dict[str, Path]) -> None:
    report, stdout, stderr = predict(weights["stage1"], odd, "--max-side", 300, cwd=tmp_path)
    assert stderr == "" and report["failed"] == [] and report["stage"] == 1
    assert [e["picture"] for e in report["pictures"]] == sorted(map(str, odd.iterdir()))
    for entry in report["pictures"]:
        name, labels = Path(entry["picture"]).name, read_mask(tmp_path / "predictions" / entry["mask"])
        size = (40, 60) if name.startswith("turned") else Image.open(odd / name).size
        assert labels.shape[::-1] == (entry["width"], entry["height"]) == size, name
        pixels = np.bincount(labels.ravel(), minlength=4)
        found = {c["label"]: c["pixels"] for c in entry["classes"]}
        assert found == {n: k for n, k in enumerate(pixels) if k}
        assert sum(c["share"] for c in entry["classes"]) == pytest.approx(1, abs=1e-5)
        assert (tmp_path / "predictions" / entry["overlay"]).exists() and f"{odd / name}: " in stdout


def test_what_a_person_sees_is_read(odd: Path) -> None:
    def read(name: str) -> np.ndarray:
        return read_picture(odd / name, 1000)[0][:, :, ::-1].astype(int)

    rgb, opacity = drawing(), np.array(OPACITY)[..., None] / 255
    for expected, most, names in (
        (rgb, 0, "rgb.ppm"),
        (rgb, 60, "inks.jpg inks.tif moving.gif palette.png"),
        (rgb[:, :, :1], 5, "deep.png deep.tif float.tif"),
        (rgb * opacity + 255 * (1 - opacity), 2, "alpha.png"),
    ):
        for name in names.split():
            assert np.abs(read(name) - expected).max() <= most, name
    clear = np.array(Image.open(odd / "palette_clear.png")) == 3
    assert clear.any() and (read("palette_clear.png")[clear] == 255).all()


def test_large_pictures(tmp_path: Path, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen, forward = [], DeepLab.forward
    monkeypatch.setattr(DeepLab, "forward", lambda self, x: (seen.append(x.shape), forward(self, x))[1])
    Image.fromarray(drawing(3000, 2000)).save(tmp_path / "a.jpg")
    Image.fromarray(drawing(3000, 2000)).save(tmp_path / "turned.jpg", exif=TURNED)
    report, _, _ = predict(weights["stage1"], "a.jpg", "turned.jpg", "--max-side", 300, cwd=tmp_path)
    assert [tuple(shape[2:]) for shape in seen[:3]] == [(200, 300), (150, 225), (300, 200)]
    assert [mask(tmp_path, name).shape for name in ("a", "turned")] == [(2000, 3000), (3000, 2000)]
    overlay = Image.open(tmp_path / "predictions" / report["pictures"][0]["overlay"])
    assert overlay.width == 300 and 200 < overlay.height < 300


def test_labels_agree_with_evaluation(tmp_path: Path, tiny_data: Path, weights: dict[str, Path]) -> None:
    options = eval_options(tiny_data, weights["stage1"], tmp_path, "--save-predictions", tmp_path / "theirs")
    run_script("evaluate.py", *options)
    theirs = {path.stem: read_mask(path) for path in (tmp_path / "theirs").iterdir()}
    predict(weights["stage1"], *(tiny_data / f"JPEGImages/{id_}.jpg" for id_ in theirs), cwd=tmp_path)
    equal = np.stack([labels == mask(tmp_path, id_) for id_, labels in theirs.items()])
    assert equal.mean() > 0.99 and len(np.unique(np.stack(list(theirs.values())))) > 1


def test_stages_agree(tmp_path: Path, weights: dict[str, Path]) -> None:
    Image.fromarray(drawing(180, 120)).save(tmp_path / "a.png")
    masks = []
    for stage, options in (("stage1", ("--scales", "1,0.5,0.75")), ("stage2", ()), ("v1", ())):
        report, _, _ = predict(weights[stage], "a.png", *options, cwd=tmp_path)
        assert report["stage"] == 1 + (stage != "stage1")
        masks.append(mask(tmp_path, "a"))
    assert len(np.unique(masks[0])) > 1 and (masks[0] == masks[1]).mean() > 0.9


def test_checkpoint_tells_the_network(tmp_path: Path) -> None:
    def load(state: dict, **options: object) -> Predictor:
        save(state, tmp_path / "some.pth")
        return Predictor(tmp_path / "some.pth", **options)

    deep = MSC(7, (1, 2, 3, 1), (6, 12), 4).state_dict()
    trained = load(deep, rates=(6, 12))
    assert (trained.stage, trained.num_classes) == (2, 7) and not trained.network.training
    assert trained(drawing()[:, :, ::-1]).shape == (40, 60)
    stem = {key: tensor for key, tensor in deep.items() if "aspp" not in key}
    for state in ({"weight": torch.zeros(3)}, stem, {"fc.bias": torch.zeros(())}):
        with pytest.raises(InputError, match=r"some\.pth is not a checkpoint of stage 1 or 2"):
            load(state)
    with pytest.raises(InputError, match="does not fit"):
        load(deep)
    with pytest.raises(InputError, match="256 classes"):
        load(network(256).state_dict())


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_crf(tmp_path: Path, weights: dict[str, Path], stage: str) -> None:
    for n, size in enumerate([(60, 40), (1, 1), (200, 3)]):
        Image.fromarray(drawing(*size)).save(tmp_path / f"{n}.png")
    predict(weights[stage], tmp_path, cwd=tmp_path)
    before = mask(tmp_path, "0")
    report, _, _ = predict(weights[stage], tmp_path, "--crf", "--crf-iterations", 3, "--max-side", 100, cwd=tmp_path)
    assert report["crf"]["iterations"] == 3 and (before != mask(tmp_path, "0")).any()
    assert [(e["width"], e["height"]) for e in report["pictures"]] == [(60, 40), (1, 1), (200, 3)]


def test_broken_pictures(tmp_path: Path, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "in").mkdir()
    Image.fromarray(drawing()).save(folder / "good.jpg")
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:600])
    (folder / "empty.png").touch()
    Image.new("1", (1000, 1000)).save(folder / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400_000)
    (folder / "link.png").symlink_to("nowhere.png")
    (folder / "notes.txt").write_text("no picture")
    report, _, stderr = predict(weights["stage1"], "in", cwd=tmp_path, status=2)
    *warnings, error = stderr.splitlines()
    broken = ["in/cut.jpg", "in/empty.png", "in/huge.png", "in/link.png"]
    assert [line.split()[:2] for line in warnings] == [["warning:", name] for name in broken]
    assert [entry["picture"] for entry in report["failed"]] == broken and report["passed_over"] == 1
    assert error == "error: 4 of 5 images failed, see the warnings above"  # which are not repeated
    assert "more than 800000 pixels" in warnings[2] and [e["mask"] for e in report["pictures"]] == ["good.png"]
    assert mask(tmp_path, "good").shape == (40, 60)


def test_bad_input_is_one_line(tmp_path: Path, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no\npicture")
    Image.fromarray(drawing()).save(tmp_path / "a.png")

    def line(weights: Path, *args: object) -> str:
        return error_line("predict.py", "--device", "cpu", "--restore-from", weights, *args, cwd=tmp_path)

    first = weights["stage1"]
    assert line(first, "empty").startswith("error: empty contains no image")
    assert line(first, "missing.png") == "error: missing.png not found"
    assert line(first, "notes.txt") == "error: notes.txt cannot be read as an image"
    assert "1 of 2 images failed" in line(first, "notes.txt", "a.png")
    assert mask(tmp_path, "a").shape == (40, 60)
    assert "notes.txt: File exists" in line(first, "a.png", "--out", "notes.txt")
    assert "--scales is for stage 1" in line(weights["stage2"], "a.png", "--scales", "1")
    assert "demo/snapshots/VOC_best.pth" in error_line("predict.py", "a.png", cwd=tmp_path)
    monkeypatch.setattr(Predictor, "__call__", lambda *_: torch.empty(10**17))
    assert line(first, "a.png") == "error: a.png needs too much memory: try a smaller --max-side"


def test_other_files_are_not_replaced(tmp_path: Path, weights: dict[str, Path]) -> None:
    (out := tmp_path / "predictions").mkdir()
    Image.fromarray(drawing()).save(tmp_path / "a.png")
    words = ("--restore-from", weights["stage1"], "--device", "cpu", "a.png")
    for name in ("a.png", "a_overlay.jpg", "predictions.json"):
        (out / name).write_text('{"mine": 1}')
        assert f"predictions/{name}" in (line := error_line("predict.py", *words, cwd=tmp_path))
        assert "choose another directory" in line and (out / name).read_text() == '{"mine": 1}'
        (out / name).unlink()
    predict(weights["stage1"], "a.png", cwd=tmp_path)
    predict(weights["stage1"], "a.png", "--scales", "1", cwd=tmp_path)  # its own it replaces


def test_python_use(tmp_path: Path, weights: dict[str, Path]) -> None:
    Image.fromarray(drawing()).save(tmp_path / "a.png")
    predictor = torch.hub.load(str(ROOT), "mdba", source="local", weights=str(weights["stage1"]))
    labels = predictor(str(tmp_path / "a.png"))
    predict(weights["stage1"], "a.png", cwd=tmp_path)
    assert np.array_equal(labels, mask(tmp_path, "a")) and predictor.names[0] == "background"
