"""gen_saliency.py with networks: tiny ONNX files stand in for the trained ones."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import error_line, run_script
from PIL import Image
from test_saliency import LIST, generate, make_root, options, read

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WEIGHTS, BIAS = (1.0, 2.0, -1.0), 0.5
MEAN, SCALE = 0.5, 2
SIZE = (20, 30)  # height, width


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path)


def make_model(
    root: Path, shape: tuple = (None, 3, *SIZE), last: str = "Sigmoid", name: str = "m", size: int | None = None
) -> Path:
    """Write an ONNX file that weights the channels and applies `last`, or `last` alone to inputs of another rank.

    Of the file, `size` bytes are left.
    """
    helper, tensor = onnx.helper, onnx.numpy_helper.from_array
    constants = [tensor(np.float32(WEIGHTS).reshape(1, 3, 1, 1), "w"), tensor(np.float32([BIAS]), "b")]
    conv = helper.make_node("Conv", ["x", "w", "b"], ["z"])
    images = len(shape) == 4
    nodes = [conv, helper.make_node(last, ["z"], ["y"])] if images else [helper.make_node(last, ["x"], ["y"])]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "detector", [x], [y], constants if images else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (root / f"{name}.onnx").write_bytes(model.SerializeToString()[:size])
    return root / f"{name}.onnx"


def expected(root: Path, id_: str) -> np.ndarray:
    """The output of the model before the sigmoid, for an image that is not rotated."""
    with Image.open(root / f"JPEGImages/{id_}.png") as image:
        values = np.asarray(image.resize(SIZE[::-1], Image.Resampling.LANCZOS), np.float32)
    return ((values / 255 - MEAN) / SCALE) @ np.float32(WEIGHTS) + BIAS


@pytest.mark.parametrize("output", ["probability", "logits", "minmax"])
def test_an_onnx_file(root: Path, output: str) -> None:
    model = make_model(root, last="Sigmoid" if output == "probability" else "Identity")
    generate(root, "--model", model, "--mean", MEAN, "--scale", f"{SCALE},{SCALE},{SCALE}", "--output", output)
    values = expected(root, "b")
    if output == "minmax":
        values = (values - values.min()) / np.ptp(values)
    else:
        values = 1 / (1 + np.exp(-values))
    # Not assert_close: half a level of the map's 256 is 0.002, whatever the CPU.
    assert np.abs(read(root, "b") / 255 - cv2.resize(values, (80, 60))).max() <= 0.003
    assert read(root, "e").shape == (80, 60)


def test_sizes_of_the_input(root: Path) -> None:
    generate(root, "--model", make_model(root), out="one")
    generate(root, "--model", make_model(root, (1, 3, *SIZE)), out="fixed")
    generate(root, "--model", make_model(root, (None, 3, None, None)), "--input-size", "40,50", out="other")
    assert np.array_equal(read(root, "a", "fixed"), read(root, "a", "one"))
    assert not np.array_equal(read(root, "a", "other"), read(root, "a", "one"))


def test_maps_of_other_weights_are_kept(root: Path) -> None:
    generate(root, "--model", make_model(root))
    chosen = options(root, "--model", make_model(root, last="Identity"), "--output", "logits")
    assert "made with other weights and output" in error_line("gen_saliency.py", *chosen)
    run_script("gen_saliency.py", *chosen, "--overwrite")
    assert "made with other mean" in error_line("gen_saliency.py", *chosen, "--mean", 0.1)


def test_half_precision(root: Path) -> None:
    model = onnx.load(make_model(root))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for constant in model.graph.initializer:
        half = onnx.numpy_helper.to_array(constant).astype(np.float16)
        constant.CopyFrom(onnx.numpy_helper.from_array(half, constant.name))
    onnx.save(model, root / "half.onnx")
    generate(root, "--model", root / "half.onnx", out="half")
    generate(root, "--model", make_model(root), out="single")
    assert np.abs(read(root, "a", "half") / 255 - read(root, "a", "single") / 255).max() <= 0.01


def test_the_package_rembg(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed, its maps nearly equal those of the ONNX file, with the preprocessing of U2-Net."""
    pytest.importorskip("rembg")
    model = make_model(root, (1, 3, 320, 320), last="Identity", name="u2net")
    monkeypatch.setenv("U2NET_HOME", "")  # restores it afterwards
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")
    generate(root, "--detector", "u2net", "--model-dir", root, out="theirs")
    generate(root, "--model", model, "--output", "minmax")
    for id_ in LIST:
        difference = np.abs(read(root, id_, "theirs").astype(int) - read(root, id_))
        assert difference.mean() < 3  # of 255; rembg rounds down, and its filters differ at edges


@pytest.mark.parametrize(
    ("model", "more", "text"),
    [
        ({"size": 50}, [], "m.onnx cannot be loaded as an ONNX model"),
        ({"shape": (None, 3)}, [], "has the input None x 3 tensor(float), but a detector needs"),
        ({"shape": (None, 20, 30, 3)}, [], "it must accept N x 3 x H x W"),
        ({"shape": (None, 3, None, None)}, [], "set the one of its training by --input-size"),
        ({}, ["--input-size", "32"], "failed on an input of 1 x 3 x 32 x 32"),
        ({"last": "Identity"}, [], "which are no probabilities: use --output logits"),
        ({"last": "Flatten"}, [], "but a detector's is N x 1 x H x W"),
        ({"last": "Log"}, [], "values that are not finite"),
    ],
)
def test_bad_model_is_one_line(root: Path, model: dict, more: list, text: str) -> None:
    line = error_line("gen_saliency.py", *options(root, "--model", make_model(root, **model), *more))
    assert text in line
    assert not list(root.glob("out/*.png"))
