"""gen_sal2gt.py on small saliency maps; test_files.py has what it never replaces, test_prepare.py its lists."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Done, error_line, flags, read_mask, run_script
from PIL import ExifTags, Image

SIZE = (8, 12)  # height, width
CLASSES = {"a": (1,), "b": (2, 2), "c": (0, 2), "d": (3,)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images of four classes; the map of d has no foreground, and c, of two classes, needs none."""
    for name in ("JPEGImages", "saliency"):
        (tmp_path / name).mkdir()
    for id_ in CLASSES:
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "JPEGImages" / f"{id_}.jpg")
    lines = [" ".join(map(str, (id_, *classes))) for id_, classes in CLASSES.items()]
    (tmp_path / "train_cls.txt").write_text("\n".join(lines))
    write_map(tmp_path, "a", columns())
    write_map(tmp_path, "b", np.full(SIZE, 255, np.uint8), "jpg")
    write_map(tmp_path, "d", np.full(SIZE, 152, np.uint8))
    return tmp_path


def columns(top: int = 255) -> np.ndarray:
    """Two columns each at 0, just below 0.3, 0.3, just below 0.6, 0.6 and 1."""
    low, high = round(0.3 * top + 0.5), round(0.6 * top)
    values = [0, low - 1, low, high - 1, high, top]
    return np.tile(np.repeat(values, 2), (SIZE[0], 1)).astype(np.uint8 if top == 255 else np.uint16)


def painted(*values: int) -> np.ndarray:
    return np.tile(np.repeat(values, 2), (SIZE[0], 1))


PAINTED = painted(0, 0, 255, 255, 2, 2)


def write_map(root: Path, id_: str, saliency: np.ndarray, ending: str = "png") -> None:
    form = "TIFF" if saliency.dtype in (np.float32, np.int32) else None  # whatever the name says
    Image.fromarray(saliency).save(root / "saliency" / f"{id_}.{ending}", form)


def command(root: Path, *more: object) -> list[object]:
    data = flags(data_dir=root, data_list=root / "train_cls.txt", num_classes=5)
    return ["gen_sal2gt.py", *data, *flags(saliency_dir=root / "saliency", out=root / "sal2gt"), *more]


def generate(root: Path, *more: object) -> Done:
    return run_script(*command(root, *more))


def label(root: Path, id_: str) -> np.ndarray:
    return read_mask(root / "sal2gt" / f"{id_}.png")


def labels(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "sal2gt").glob("*.png"))


def test_labels_counts_and_lists(root: Path) -> None:
    done = generate(root, "--list-dir", root / "lists")
    assert labels(root) == ["a", "b"]
    assert np.array_equal(label(root, "a"), PAINTED)
    assert (label(root, "b") == 3).all()
    assert "no pixel reaches --foreground, no label written (1, first d.png)" in done.stderr
    counts = "2 images labelled (0 already existed), 1 without foreground, 0 without a map, 1 skipped (several"
    assert counts in done.stdout
    assert (root / "lists/simple_list.txt").read_text() == "a 1\nb 2 2\n"
    assert (root / "lists/complex_list.txt").read_text() == "c 0 2\nd 3\n"


PHOTO = np.arange(288).astype(np.uint8).reshape(*SIZE, 3)
GREY, OPAQUE = np.dstack([columns()] * 3), np.where(columns() > 0, 255, 0).astype(np.uint8)
FORMS = {
    "16 bit": columns(65535),
    "three channels": GREY,
    "larger": columns().repeat(3, 0).repeat(3, 1),
    "grey with alpha": np.dstack([columns(), np.full(SIZE, 255, np.uint8)]),
    "alpha: cut out": np.dstack([PHOTO, columns()]),
    "alpha: cut out of a grey photo": np.dstack([PHOTO[..., 1]] * 3 + [columns()]),
    "alpha: transparent black": np.dstack([GREY, OPAQUE]),
    "alpha: one colour": np.dstack([OPAQUE] * 3 + [columns()]),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_maps(root: Path, form: str) -> None:
    write_map(root, "a", FORMS[form])
    generate(root)
    assert np.array_equal(label(root, "a"), PAINTED)


def test_maps_are_resized_bilinearly(root: Path) -> None:
    write_map(root, "a", np.array([[0, 255]], np.uint8))
    generate(root)  # at pixel x of 12, (x + 0.5) / 6 - 0.5 of the way
    assert np.array_equal(label(root, "a"), np.tile([0] * 5 + [255] * 2 + [2] * 5, (SIZE[0], 1)))


def test_suspicious_maps_are_reported(root: Path) -> None:
    inside = np.zeros(SIZE, np.uint8)
    inside[2:6, 4:8] = 255
    write_map(root, "a", 255 - inside)
    write_map(root, "d", np.uint8(inside > 0))
    stderr = generate(root).stderr
    assert f"{root / 'saliency'}: foreground fills 90% of the border or more" in stderr
    assert "as in an inverted map (2, first a.png)" in stderr
    assert "values end at 1 (16 bits: 255) instead of 255 (65535)" in stderr and "(1, first d.png)" in stderr
    for id_ in "abd":
        write_map(root, id_, inside)
    (root / "saliency/b.jpg").unlink()
    assert "warning" not in generate(root, "--overwrite").stderr


def test_nothing_labelled_is_an_error(root: Path) -> None:
    (root / "saliency/b.jpg").unlink()
    for id_ in "abd":
        write_map(root, id_, np.uint8(columns() > 0))
    done = run_script(*command(root, "--list-dir", root / "lists"), status=2)
    assert "no image was labelled" in done.stderr.splitlines()[-1] and "values end at 1" in done.stderr
    assert not (root / "lists").exists()


def test_a_stopped_run_goes_on(root: Path) -> None:
    generate(root)
    (root / "sal2gt/b.png").unlink()
    stamp = (root / "sal2gt/a.png").stat().st_mtime_ns
    out = generate(root).stdout
    assert "2 images labelled (1 already existed)" in out and "1 one-class images have no label" in out
    assert labels(root) == ["a", "b"] and (root / "sal2gt/a.png").stat().st_mtime_ns == stamp
    shutil.copytree(root / "saliency", root / "others")
    line = error_line(*command(root, "--saliency-dir", root / "others"))
    assert "made with other saliency_dir" in line


def test_labels_follow_thresholds_and_maps(root: Path) -> None:
    generate(root, "--foreground", 0.3, "--background", 0.3)
    assert np.array_equal(label(root, "a"), painted(0, 0, 2, 2, 2, 2))
    assert labels(root) == ["a", "b", "d"]
    assert "made with other foreground" in error_line(*command(root))
    assert "2 images labelled (0 already existed)" in generate(root, "--overwrite").stdout
    assert np.array_equal(label(root, "a"), PAINTED) and labels(root) == ["a", "b"]
    write_map(root, "a", np.full(SIZE, 255, np.uint8))
    assert "sal2gt/a.png was made with other map" in error_line(*command(root))
    generate(root, "--overwrite")
    assert (label(root, "a") == 2).all()
    (root / "saliency/a.png").unlink()
    generate(root, "--overwrite", "--skip-missing")
    assert labels(root) == ["b"]
    (root / "train_cls.txt").write_text("d 3\n")  # labels of images that are not listed stay
    generate(root, "--overwrite", "--foreground", 0.5)
    assert labels(root) == ["b", "d"]


def test_the_list_that_is_read_is_not_replaced(root: Path) -> None:
    shutil.copy(root / "train_cls.txt", root / "simple_list.txt")
    more = flags(list_dir=root, data_list=root / "simple_list.txt")
    assert "would be replaced by the new lists" in error_line(*command(root, "--overwrite", *more))


def test_a_repeated_image_is_labelled_once(root: Path) -> None:
    (root / "train_cls.txt").write_text("a 1\nb 2\na 2\n")
    done = generate(root, "--list-dir", root / "lists")
    assert "2 images labelled" in done.stdout and "listed more than once (1, first a)" in done.stderr
    assert (root / "lists/simple_list.txt").read_text() == "a 1\nb 2\n"


def test_missing_maps(root: Path) -> None:
    (root / "saliency/a.png").unlink()
    line = error_line(*command(root))
    assert f"{root / 'saliency/a.png'} (or .jpg) not found, the first of 1" in line
    assert not (root / "sal2gt").exists()
    out = generate(root, "--skip-missing", "--list-dir", root / "lists").stdout
    assert "1 images labelled (0 already existed), 1 without foreground, 1 without a map" in out
    assert (root / "lists/complex_list.txt").read_text() == "a 1\nc 0 2\nd 3\n"


def save_turned(root: Path, id_: str, orientation: int, size: tuple[int, int] = SIZE) -> None:
    """Replace a picture by one of (height, width) before the EXIF rotation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", size[::-1]).save(root / f"JPEGImages/{id_}.jpg", exif=exif)


def test_maps_that_lie_on_their_side(root: Path) -> None:
    """Of any size is of any shape, unless the picture was turned and its map was not."""
    write_map(root, "a", columns().T)
    generate(root)
    assert label(root, "a").shape == SIZE
    save_turned(root, "a", 6, SIZE[::-1])
    for shape in (columns().T, columns().T.repeat(2, 0).repeat(2, 1)):
        write_map(root, "a", shape)
        assert "a.png is not rotated" in error_line(*command(root, "--overwrite"))
        assert labels(root) == ["a", "b"]  # the labels of before
    write_map(root, "a", columns())
    assert "EXIF" not in generate(root, "--overwrite").stderr


@pytest.mark.parametrize(
    ("orientation", "size", "map_size"), [(3, SIZE, SIZE), (2, SIZE, SIZE), (6, (9, 9), (9, 9)), (6, SIZE, (5, 5))]
)
def test_turned_pictures_of_ambiguous_maps(root: Path, orientation: int, size: tuple, map_size: tuple) -> None:
    assert "EXIF" not in generate(root).stderr
    for id_ in "ad":
        save_turned(root, id_, orientation, size)
        write_map(root, id_, np.full(map_size, 255, np.uint8))
    assert "whether it is, too (2, first a.png)" in generate(root, "--overwrite").stderr


@pytest.mark.parametrize(
    ("content", "more", "text"),
    [
        (b"text", [], "a.png cannot be read as an image"),
        (np.dstack([columns(), columns(), columns().T.reshape(SIZE)]), [], "a.png is in colour"),
        (columns().astype(np.float32), [], "a.png has values of 32 bits"),
        (columns().astype(np.int32) << 16, [], "a.png has values of 32 bits"),
        (None, ["--background", 0.7], "--background 0.7 and --foreground 0.6"),
        (None, ["--foreground", 1.5], "--background 0.3 and --foreground 1.5"),
        (None, ["--num-classes", 4], "a class is not in 0..2"),
        (None, ["--data-dir", "nowhere"], "a.jpg not found"),
    ],
)
def test_bad_input_is_one_line(root: Path, content: bytes | np.ndarray | None, more: list, text: str) -> None:
    if isinstance(content, bytes):
        (root / "saliency/a.png").write_bytes(content)
    elif content is not None:
        write_map(root, "a", content)
    assert text in error_line(*command(root, *more))
    assert not (root / "sal2gt").exists() or not labels(root)
