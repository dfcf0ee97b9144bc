"""Checkpoints: the published formats load, anything else is refused by name, code is not run.

MDBA_WEIGHTS names a folder with some of the published checkpoints.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from networks import checkpoint
from networks.checkpoint import load_deeplab, load_matching, load_strict, read_state, save
from networks.deeplab import ARCHS, Arch, DeepLab, arch_from_state, build_deeplab
from networks.imagenet import FILES, read_initial
from step2.libs.models import MSC, load_initial
from utils.core.errors import InputError
from utils.evaluation.predictor import Predictor

TINY = Arch((2, 1, 3, 1), 4, True)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return DeepLab(5, TINY).state_dict()


LAYOUTS = ("", ""), ("", "module."), ("", "module.module."), ("model", ""), ("state_dict", "net.backbone.")


@pytest.mark.parametrize(("key", "prefix"), LAYOUTS)
@pytest.mark.parametrize("old", [False, True])
def test_checkpoints_load_as_they_come(
    state: dict, tmp_path: Path, key: str, prefix: str, old: bool, capsys: pytest.CaptureFixture
) -> None:
    """Those of old torch are no zip files, and have no num_batches_tracked."""
    kept = {prefix + k: v for k, v in state.items() if not (old and k.endswith("num_batches_tracked"))}
    kept = {key: kept, "epoch": 3, "optimizer": {"state": {}}} if key else kept
    torch.save(kept, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    network = load_deeplab(tmp_path / "w.pth", num_classes=5)
    assert not network.training
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    printed = capsys.readouterr().out
    assert (f"in '{key}'" in printed) == bool(key) and (f"prefix '{prefix}'" in printed) == bool(prefix)


@pytest.mark.parametrize("first", ["features.", "base.", "layer1."])
def test_the_names_of_a_trunk_alone_are_kept(first: str, tmp_path: Path) -> None:
    names = {f"module.{first}0.weight", f"module.{first}1.weight"}
    save({name: torch.zeros(1) for name in names}, tmp_path / "w.pth")
    assert read_state(tmp_path / "w.pth").keys() == {name.removeprefix("module.") for name in names}


def test_safetensors_load(state: dict, tmp_path: Path) -> None:
    state["bn1.weight"] = state["bn1.weight"].half()
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    data, types = b"", {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    for name, tensor in state.items():
        values = tensor.numpy().tobytes()
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": types[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += values
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    found = read_state(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(v, state[k]) and v.dtype == state[k].dtype for k, v in found.items())
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"w\.safetensors cannot be read as a checkpoint"):
        read_state(path)
    path.write_bytes(whole.replace(b'"F16"', b'"F8_"'))
    with pytest.raises(InputError, match=r"bn1\.weight has values of type F8_: save a copy .* in float32"):
        read_state(path)


W = {"w": torch.zeros(1)}
RUN = {"iteration": 4, "networks": [], "optimizers": [], "options": {}, "values": {}}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"model": W, "value": np.float64(0.5)}, r"other than tensors \(numpy\..*scalar\) .* state dict alone$"),
        ({"model": W, "value": argparse.Namespace()}, r"other than tensors \(argparse\.Namespace\)"),
        ({"model": W, "value": torch.nn.ReLU()}, r"other than tensors \(torch\.nn\.modules\.activation\.ReLU\)"),
        ({"model": W, "model_ema": W, "epoch": 3}, r"several state dicts \(model, model_ema\)"),
        ({"w": torch.tensor([0, float("nan")])}, r"w\.pth: w is not finite"),
        ({"w": torch.tensor([0, float("inf")])}, r"w\.pth: w is not finite"),
        ([1, 2], "not a state dict"),
        (RUN, r"w\.pth is the saved state of a training run: .* use .*/checkpoint_final\.pth"),
    ],
)
def test_what_is_no_state_dict_of_finite_tensors(tmp_path: Path, value: object, reason: str) -> None:
    torch.save(value, tmp_path / "w.pth")
    (tmp_path / "checkpoint_final.pth").touch()
    with pytest.raises(InputError, match=reason):
        read_state(tmp_path / "w.pth")
    with pytest.raises(InputError, match="is a directory: give the file"):
        read_state(tmp_path)


class OnDevice(torch.Tensor):
    """Stands for a tensor on a GPU."""

    def cpu(self) -> torch.Tensor:
        return torch.ones(3)

    def __reduce_ex__(self, protocol: object) -> tuple:
        raise AssertionError("saved with its device")


def test_tensors_are_saved_as_those_of_a_cpu(tmp_path: Path) -> None:
    save({"networks": [{"weight": torch.zeros(3).as_subclass(OnDevice)}], "iteration": 2}, tmp_path / "w.pth")
    found = torch.load(tmp_path / "w.pth", weights_only=True)
    assert torch.equal(found["networks"][0]["weight"], torch.ones(3)) and found["iteration"] == 2


@pytest.mark.parametrize("name", ARCHS)
def test_architecture_is_told_from_the_tensors(name: str) -> None:
    assert arch_from_state(build_deeplab(name, num_classes=7).state_dict()) == (7, ARCHS[name])


def test_mismatches_are_named(state: dict) -> None:
    network = DeepLab(5, TINY)
    wrong = dict(state, extra=torch.zeros(1))
    del wrong["layer1.0.conv2.weight"]
    wrong["layer5.conv2d_list.1.bias"] = torch.zeros(9)
    with pytest.raises(InputError) as error:
        load_strict(network, wrong, "w.pth")
    missing, wrong = "1 missing, first layer1.0.conv2.weight", "first layer5.conv2d_list.1.bias: (9,) instead of (5,)"
    assert f"{missing}; 1 unexpected, first extra; 1 of wrong shape, {wrong}" in str(error.value)


def test_initial_weights_copy_what_fits(state: dict) -> None:
    network = DeepLab(8, TINY)
    head = network.layer5.conv2d_list[0].weight.clone()
    assert load_matching(network, state, "w.pth") == len(state) - 8  # the head has other classes
    assert torch.equal(network.conv1.weight, state["conv1.weight"])
    assert torch.equal(network.layer5.conv2d_list[0].weight, head)
    same = DeepLab(5, TINY)
    assert load_matching(same, state, "w.pth", skip="layer5.") == len(state) - 8
    reason = r"matches this network: .* missing, first conv1\.weight; 1 unexpected, first o"
    with pytest.raises(InputError, match=reason):
        load_matching(network, {"other": torch.zeros(1)}, "w.pth")


class Touch:
    """A pickle that would make a file if it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("reason", [OSError("full"), RuntimeError("a worker is killed"), KeyboardInterrupt()])
def test_what_broke_into_the_writing_is_told(tmp_path: Path, reason: BaseException) -> None:
    class Broken(io.BytesIO):
        def write(self, data: bytes) -> int:
            if self.tell() > 5000:
                raise reason
            return super().write(data)

    @contextlib.contextmanager
    def broken(path: Path) -> Iterator[io.BytesIO]:
        yield Broken()

    with mock.patch.object(checkpoint, "atomic_write", broken), pytest.raises(type(reason)) as error:
        save({"w": torch.zeros(10000)}, tmp_path / "w.pth")
    assert error.value is reason


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Touch(tmp_path / "ran"), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        reason = rf"{name} contains objects other than tensors \(posix.mkdir\) and was not loaded"
        with pytest.raises(InputError, match=reason):
            read_state(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_refused(state: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.pth not found"):
        read_state(tmp_path / "gone.pth")
    save(state, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.pth"):
            read_state(tmp_path / "cut.pth")
    save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a DeepLab checkpoint"):
        load_deeplab(tmp_path / "other.pth")
    with pytest.raises(InputError, match="has 5 classes"):
        load_deeplab(tmp_path / "w.pth", num_classes=21)


FOLDER = Path(os.environ.get("MDBA_WEIGHTS", "none"))
TRUNK = 520  # tensors of ResNet-101 without classifier: 104 convolutions, each with 4 of batch normalization

published = pytest.mark.skipif(not FOLDER.is_dir(), reason="MDBA_WEIGHTS names no folder of checkpoints")


def find(name: str) -> Path:
    path = next(FOLDER.rglob(name), None)
    return path or pytest.skip(f"{name} is not in {FOLDER}")


@published
@pytest.mark.parametrize(("name", "stage"), [("VOC_69.5.pth", 1), ("checkpoint_72.0.pth", 2)])
def test_published_networks(name: str, stage: int) -> None:
    loaded = Predictor(find(name))
    assert (loaded.stage, loaded.num_classes) == (stage, 21)


@published
@pytest.mark.parametrize(("arch", "name"), [("resnet101", "resnet101COCO-41f33a49.pth"), *FILES.items()])
def test_published_initial_weights(arch: str, name: str) -> None:
    path, network = find(name), build_deeplab(arch)
    names = [n for n in network.state_dict() if not n.startswith("layer5.") and "num_batches" not in n]
    assert load_matching(network, read_initial(path), path) >= len(names)


@published
def test_published_initial_weights_of_stage_2() -> None:
    model = MSC(21, (3, 4, 23, 3), (6, 12, 18, 24))
    assert load_initial(model, find("deeplabv1_resnet101-coco.pth")) >= TRUNK
