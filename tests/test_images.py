"""The one reader of images and the one of labels: formats, orientation, codings, damage."""

import io
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import ExifTags, Image

from datasets.images import FORMATS, read_image, read_picture, read_size
from datasets.labels import read_label
from datasets.lists import image_path
from datasets.voc import palette
from utils.core.errors import InputError

PIXELS = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (40, 30))  # BGR
LABELS = np.array([[0, 1, 2, 3], [15, 3, 0, 1]], np.uint8)
CLOCKWISE = 6


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    return data


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="{orientation}"></x:xmpmeta>'.encode()


def save(path: Path, **options: object) -> None:
    Image.fromarray(PIXELS[..., ::-1]).save(path, **options)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "a.WebP", "a.bmp", "a.tif"])
def test_formats(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, lossless=True)
    path = image_path(tmp_path, "a")
    assert path == tmp_path / name and image_path(tmp_path, "b") == tmp_path / "b.jpg"
    assert np.array_equal(read_image(path), cv2.imread(str(path)))
    if "j" not in name.lower():
        assert np.array_equal(read_image(path), PIXELS)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this version of Pillow reads no AVIF")
def test_avif(tmp_path: Path) -> None:
    save(tmp_path / "a.avif", exif=exif(CLOCKWISE), quality=100, subsampling="4:4:4")
    expected = np.rot90(PIXELS, -1).astype(int)
    assert np.abs(read_image(image_path(tmp_path, "a")) - expected).max() < 20


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jpg", {"xmp": xmp(CLOCKWISE)})]
    + [(f"a.{suffix}", {"exif": exif(CLOCKWISE)}) for suffix in ("jpg", "png", "webp", "tif")],
)
def test_orientation(tmp_path: Path, name: str, options: dict) -> None:
    save(tmp_path / name, **options)
    save(tmp_path / f"upright_{name}")
    expected = np.rot90(read_image(tmp_path / f"upright_{name}"), -1)
    assert np.array_equal(read_image(tmp_path / name), expected)
    assert read_picture(tmp_path / name, 10)[1] == (30, 40) and read_size(tmp_path / name) == ((30, 40), CLOCKWISE)


def test_orientations_that_do_not_count(tmp_path: Path) -> None:
    for data in (exif(9), b"Exif\0\0junk"):
        save(tmp_path / "a.jpg", exif=data)
        assert read_size(tmp_path / "a.jpg")[1] == 1 and read_image(tmp_path / "a.jpg").shape == PIXELS.shape


@pytest.mark.parametrize("orientation", [1, CLOCKWISE])
@pytest.mark.parametrize("max_side", [None, 20])
def test_damaged_jpegs(tmp_path: Path, orientation: int, max_side: int | None, capfd: pytest.CaptureFixture) -> None:
    save(path := tmp_path / "a.jpg", quality=100, exif=exif(orientation))
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(100))  # as some cameras do
    expected = read_picture(path, max_side)[0].shape
    assert capfd.readouterr().err == ""
    path.write_bytes(whole[:-800] + bytes(200) + whole[-600:])
    assert read_picture(path, max_side)[0].shape == expected
    assert capfd.readouterr().err.startswith(f"warning: {path}: Corrupt JPEG data")


def test_reading_without_stderr(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", quality=100)
    program = f"from datasets.images import read_image; print(read_image({str(tmp_path / 'a.jpg')!r}).shape)"
    command = ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, program]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "(30, 40, 3)\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"not found.*: the image is in the list, but not in the data directory"),
        (b"", "cannot be read as an image: replace it"),
        (b"no picture", "cannot be read as an image: replace it"),
        ("JPEG", r"cannot be read as an image \(.*\): replace it or remove it from the list"),
        ("PNG", r"cannot be read as an image \(.*\): replace it or remove it from the list"),
        ((40, 1), "has 40x1 pixels, but needs 2 in each direction: remove it"),
        ((60, 60), "has more than 2000 pixels: make it smaller first"),
    ],
)
def test_images_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, reason: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    if isinstance(content, str):  # cut off
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, content)
        content = file.getvalue()[:-200]
    if isinstance(content, tuple):
        Image.new("L", content).save(tmp_path / "a.jpg")
    elif content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.jpg {reason}"):
        read_image(tmp_path / "a.jpg")


def in_colour(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(palette()[labels])


def renumbered(labels: np.ndarray) -> Image.Image:
    """As programs leave it that reduce the colours of an image, or the size of its file."""
    return in_colour(labels).convert("P", palette=Image.Palette.ADAPTIVE)


def own_palette(labels: np.ndarray) -> Image.Image:
    image = Image.fromarray(labels, "P")
    image.putpalette(np.arange(1, 255).repeat(3).tolist())
    return image


CODINGS = {
    "grey": Image.fromarray,
    "renumbered palette": renumbered,
    "own palette": own_palette,
    "RGB": in_colour,
    "RGBA": lambda labels: in_colour(labels).convert("RGBA"),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_codings_of_labels(tmp_path: Path, coding: str) -> None:
    CODINGS[coding](LABELS).save(tmp_path / "a.png")
    assert np.array_equal(read_label(tmp_path / "a.png", 21, LABELS.shape), LABELS)


def test_a_palette_in_another_order_with_another_colour(tmp_path: Path) -> None:
    """Values that the program has renumbered are not taken for labels."""
    colours = palette()[LABELS]
    colours[0, 0] = (220, 220, 190)  # nearly that of ignored pixels
    Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png contains the colour \(220, 220, 190\)"):
        read_label(tmp_path / "a.png", 21)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_labels_of_few_bits(tmp_path: Path, bits: int) -> None:
    labels = LABELS & (1 << bits) - 1
    # Pillow writes 2 and 4 bits for palettes only: the same values, called grey in the header.
    content = io.BytesIO()
    Image.fromarray(labels, "P").save(content, "PNG", bits=bits)
    png, colour = bytearray(content.getvalue()), 25
    assert png[colour - 1] == bits
    png[colour] = 0
    start = png.index(b"PLTE")
    length = int.from_bytes(png[start - 4 : start], "big")
    del png[start - 4 : start + 8 + length]
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(png)
    assert np.array_equal(read_label(tmp_path / "a.png", 21), labels)


def test_labels_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(InputError, match=r"x\.png not found: the image is in the list, but has no label"):
        read_label(path, 21)
    path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be read as an image: create it again"):
        read_label(path, 21)
    Image.new("RGB", (4, 4), (1, 2, 3)).save(path)
    with pytest.raises(InputError, match=r"contains the colour \(1, 2, 3\), which is none of VOC"):
        read_label(path, 21)
    Image.new("I;16", (4, 4)).save(path)
    with pytest.raises(InputError, match="mode I;16"):
        read_label(path, 21)
    Image.fromarray(np.full((4, 6), 21, np.uint8)).save(path)
    with pytest.raises(InputError, match="contains the label 21"):
        read_label(path, 21)
    with pytest.raises(InputError, match="6x4, but its image is 4x4"):
        read_label(path, 22, (4, 4))
    assert read_label(path, 22).shape == (4, 6)
