"""The dense CRF: the published numbers by every backend, the backends against each other, properties."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close, reference_npz

from datasets.lists import Entry
from datasets.loaders import DataConfig, EvalDataset
from utils.core.errors import InputError
from utils.crf import dense_crf as dense_crf_module
from utils.crf import run
from utils.crf.dense_crf import CRFParams, dense_crf
from utils.crf.permutohedral import make_kernel

PYDENSECRF = pytest.param(
    "pydensecrf", marks=pytest.mark.skipif(importlib.util.find_spec("pydensecrf") is None, reason="no pydensecrf")
)
OTHER = CRFParams(3, gaussian_weight=2, gaussian_sxy=3, bilateral_weight=5, bilateral_sxy=30, bilateral_srgb=10)

each_backend = pytest.mark.parametrize("backend", ["torch", PYDENSECRF])


def make_probabilities(
    seed: int, classes: int, height: int, width: int, favour: float = 0, likely: int = 3
) -> torch.Tensor:
    """Smooth random probabilities; the first `likely` classes get `favour` more on their logits."""
    logits = np.random.default_rng(seed).normal(0, 1.5, (1, classes, 5, 6)).astype(np.float32)
    logits[:, :likely] += favour
    logits = torch.nn.functional.interpolate(torch.from_numpy(logits), (height, width), mode="bilinear")
    return logits.softmax(1)[0]


def make_image(kind: str, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(len(kind))
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    image = np.stack([90 + 60 * np.sin(x / 17), 120 + 50 * np.cos(y / 23), 80 + x * 0.5], -1)
    image[(y - height // 2) ** 2 + (x - width // 3) ** 2 < (height // 3) ** 2] = 30, 60, 200
    if kind == "scene":
        image += rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def agreement(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours.argmax(0) == theirs.argmax(0)).float().mean().item()


@each_backend
@pytest.mark.parametrize(("suffix", "params"), [("", CRFParams()), ("_other", OTHER)])
def test_published_numbers(backend: str, suffix: str, params: CRFParams, device: torch.device) -> None:
    case = reference_npz("crf.npz")
    probabilities = case["probabilities"].astype(np.float32)
    probabilities = torch.from_numpy(probabilities).to(device)
    q = dense_crf(case["image"], probabilities, params, backend, prune=None).cpu().numpy()
    assert q.dtype == np.float32
    assert (q.argmax(0) == case[f"result{suffix}"]).mean() >= 0.999
    assert_close(q[:, ::15, ::18], case[f"probe{suffix}"], 0, "probabilities", slack=1e-3)


@pytest.mark.parametrize(("params", "prune"), [(CRFParams(), None), (OTHER, 0.05)])
@pytest.mark.parametrize(
    ("kind", "height", "width"),
    [("scene", 70, 90), ("smooth", 55, 44), ("noise", 40, 50), ("smooth", 1, 33), ("scene", 41, 2)],
)
def test_backends_agree(kind: str, height: int, width: int, params: CRFParams, prune: float | None) -> None:
    pytest.importorskip("pydensecrf")
    image, probabilities = make_image(kind, height, width), make_probabilities(1, 9, height, width, 5)
    ours, theirs = (dense_crf(image, probabilities, params, b, prune=prune) for b in ("torch", "pydensecrf"))
    assert agreement(ours, theirs) >= 0.9999
    assert_close(ours, theirs, 0, "probabilities", slack=1e-3)


@each_backend
@pytest.mark.parametrize("kind", ["scene", "noise"])
def test_unlikely_classes_change_no_labels(backend: str, kind: str, device: torch.device) -> None:
    image, probabilities = make_image(kind, 80, 60), make_probabilities(2, 12, 80, 60, 6)
    peaks = probabilities.amax((1, 2))
    assert 3 <= (peaks >= 0.05).sum() <= 9
    full = dense_crf(image, probabilities, backend=backend, prune=None)
    pruned = dense_crf(image, probabilities.to(device), backend=backend, prune=0.05)
    assert pruned.device.type == device.type
    pruned = pruned.cpu()
    assert agreement(full, pruned) >= 0.9999
    torch.testing.assert_close(pruned.sum(0), torch.ones(80, 60), atol=1e-5, rtol=0)
    assert (full - pruned).abs()[peaks < 0.05].max() <= 0.01


@each_backend
@pytest.mark.parametrize("prune", [None, 1.0])
def test_marginals_sum_to_one_and_repeat_exactly(backend: str, prune: float | None) -> None:
    image, probabilities = make_image("scene", 50, 70), make_probabilities(3, 5, 50, 70)
    q, again = (dense_crf(image, probabilities, backend=backend, prune=prune) for _ in range(2))
    assert q.min() >= 0
    torch.testing.assert_close(q.sum(0), torch.ones(50, 70), atol=1e-5, rtol=0)
    assert torch.equal(q, again)


@each_backend
def test_the_image_may_be_read_only_and_mirrored(backend: str) -> None:
    image, probabilities = make_image("scene", 20, 30), make_probabilities(4, 4, 20, 30)
    plain = dense_crf(np.ascontiguousarray(image[:, ::-1]), probabilities.double().requires_grad_(), backend=backend)
    assert plain.dtype == torch.float32 and not plain.requires_grad
    image.setflags(write=False)
    assert torch.equal(plain, dense_crf(image[:, ::-1], probabilities, backend=backend))


def test_auto_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    image, probabilities = make_image("scene", 20, 30), make_probabilities(5, 4, 20, 30)
    assert torch.equal(dense_crf(image, probabilities), dense_crf(image, probabilities, backend="torch"))
    monkeypatch.setattr(dense_crf_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pydensecrf2"):
        dense_crf(image, probabilities, backend="pydensecrf")


@pytest.mark.parametrize("kind", ["scene", "noise"])
def test_restricted_kernel_is_exact(kind: str) -> None:
    y, x = np.mgrid[:30, :40]
    features = np.stack([x / 20, y / 20, *make_image(kind, 30, 40).transpose(2, 0, 1) / 10])
    kernel = make_kernel(torch.from_numpy(features.reshape(5, -1).astype(np.float32)))
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(1200, generator=rng).topk(90).indices
    values = torch.zeros(1200, 3)
    values[pixels] = torch.randn(90, 3, generator=rng)
    restricted = kernel.restrict(pixels)
    torch.testing.assert_close(restricted(values[pixels]), kernel(values)[pixels])
    assert len(restricted.splat.offsets) < len(kernel.splat.offsets)


@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("favour", [0, 4, 12])
def test_freezing_changes_no_labels(iterations: int, favour: float, monkeypatch: pytest.MonkeyPatch) -> None:
    image, probabilities = make_image("scene", 70, 90), make_probabilities(8, 6, 70, 90, favour, likely=1)
    params = CRFParams(iterations)
    frozen = dense_crf(image, probabilities, params, "torch")
    monkeypatch.setattr(dense_crf_module, "CERTAIN", float("inf"))  # no pixel is decided
    full = dense_crf(image, probabilities, params, "torch")
    assert torch.equal(frozen.argmax(0), full.argmax(0))
    assert_close(frozen, full, 0, "probabilities", slack=2e-4)


def test_memory_that_runs_out(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "val_00001.npy", np.zeros((4, 9, 11), np.float32))
    monkeypatch.setattr(run, "dense_crf", lambda *_, **__: torch.empty(1 << 58))
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    images = EvalDataset([Entry("val_00001")], DataConfig(tiny_data / "JPEGImages", num_classes=4), labels=False)
    with pytest.raises(InputError, match=r"val_00001\.jpg: out of memory in the CRF: .*--n-jobs"):
        run.create_label_maps(images, tmp_path, tmp_path / "crf", run.CRFSettings(CRFParams(), None), n_jobs=1)
    assert threads == [1, torch.get_num_threads()]  # as before, for what runs next in this process


def test_bad_values_are_refused() -> None:
    for change in ({"gaussian_sxy": 0}, {"bilateral_srgb": -3}, {"iterations": -1}):
        with pytest.raises(InputError, match="above 0"):
            CRFParams(**change)
    image, probabilities = make_image("smooth", 6, 8), make_probabilities(6, 3, 6, 8)
    with pytest.raises(InputError, match="too narrow"):
        dense_crf(image, probabilities, CRFParams(bilateral_srgb=1e-3), backend="torch")
    with pytest.raises(InputError, match="not all finite"):
        dense_crf(image, probabilities * torch.nan)
