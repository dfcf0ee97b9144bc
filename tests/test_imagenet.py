"""Initial weights of ImageNet: torchvision's files, and what happens without them."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from conftest import assert_close, error_line, tiny_network, train_options
from test_resume import same

from datasets.transforms import MEAN_BGR
from networks import imagenet
from networks.checkpoint import save
from networks.deeplab import ARCHS, Arch, DeepLab
from networks.imagenet import IMAGENET_MEAN, IMAGENET_STD, fold_normalization, imagenet_state, read_initial
from utils.core.errors import InputError


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    trunk = {k: v for k, v in tiny_network().state_dict().items() if "layer5" not in k}
    return trunk | {"fc.weight": torch.zeros(1000, 128)}


@pytest.fixture
def server(tmp_path: Path, state: dict, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of resnet50, whose name ends with its hash, in a folder that takes the place of torchvision's server."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(imagenet, "BASE_URL", tmp_path.as_uri())
    save(state, tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    monkeypatch.setitem(imagenet.FILES, "resnet50", f"resnet50-{digest[:8]}.pth")
    return (tmp_path / "w.pth").rename(tmp_path / imagenet.FILES["resnet50"])


def test_weights_are_loaded_once(server: Path, state: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # which is not needed
    loaded = imagenet_state("resnet50")
    assert loaded.keys() == state.keys() - {"fc.weight"}
    assert torch.equal(loaded["layer4.0.conv3.weight"], state["layer4.0.conv3.weight"])
    assert torch.equal(loaded["conv1.weight"], fold_normalization(state)["conv1.weight"])
    server.unlink()
    assert same(imagenet_state("resnet50"), loaded)  # from the cache
    cached = tmp_path / "hub/checkpoints" / server.name
    cached.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"{cached} cannot be read .* delete it"):
        imagenet_state("resnet50")


def test_a_file_of_another_hash_is_refused(server: Path, tmp_path: Path) -> None:
    server.write_bytes(server.read_bytes()[:-1])
    with pytest.raises(InputError, match="invalid hash"):
        imagenet_state("resnet50")
    assert not any((tmp_path / "hub/checkpoints").iterdir())


def test_the_small_network_has_no_such_weights() -> None:
    with pytest.raises(InputError, match="no ImageNet weights of mini: use --arch resnet50, resnet101, mobilenet_v2"):
        imagenet_state("mini")


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
def test_a_file_is_told_by_its_classes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arch, classifier = (Arch((1, 1, 1, 1), 4), "fc") if name == "resnet" else (ARCHS[name], "classifier.1")
    trunk = {k: v for k, v in DeepLab(4, arch).state_dict().items() if "layer5" not in k}
    path, others = tmp_path / "w.pth", {"features.18.0.weight": torch.zeros(1)} if "mob" in name else {}
    save(trunk | others | {f"{classifier}.weight": torch.zeros(1000, 8)}, path)
    assert same(read_initial(path), fold_normalization(trunk))
    assert "normalization of images is folded" in capsys.readouterr().out
    save(trunk | {f"{classifier}.weight": torch.zeros(20, 8)}, path)
    assert torch.equal(read_initial(path)[next(iter(trunk))], trunk[next(iter(trunk))])


def test_a_refused_download_is_one_line(tiny_data: Path, server: Path, tmp_path: Path) -> None:
    server.unlink()
    options = train_options(tiny_data, tmp_path / "out", "--arch", "resnet50", "--restore-from", "imagenet")
    line = error_line("train.py", *options)
    assert "No such file" in line and "download it elsewhere and copy it to" in line and str(tmp_path / "hub") in line


def test_folded_stem_sees_what_torchvision_fed(float64: None) -> None:
    network = tiny_network().eval()
    torch.nn.init.normal_(network.conv1.weight, 0, 0.2)
    torch.nn.init.normal_(network.bn1.running_mean)
    rgb = torch.randint(0, 256, (1, 3, 40, 40)).double()
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = network.bn1(network.conv1((rgb / 255 - mean) / std))
    network.load_state_dict(fold_normalization(network.state_dict()))
    ours = rgb - torch.from_numpy(MEAN_BGR[::-1].copy())[:, None, None]
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    assert_close(network.bn1(network.conv1(ours)).detach()[inside], expected.detach()[inside], 1e-6, "stem")
