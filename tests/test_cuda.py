"""The GPU computes what the CPU does. Without one, a case of each test runs, which compares the CPU with itself."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import DEVICES, assert_close, flags, train_options

from benchmarks.runner import (
    CASES,
    Runner,
    Setting,
    gradient_difference,
    gradients_of,
    loss_difference,
    make_batches,
    moved,
)
from networks.checkpoint import read_state
from train import train
from utils.core.device import send
from utils.training.options import parse_args
from utils.training.stage1 import MDBATrainer

each_case = pytest.mark.parametrize("case", CASES if torch.cuda.is_available() else ["denoising+cutmix"])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: all tests run on the CPU only")
def test_a_gpu_is_tested() -> None:
    assert len(DEVICES) == 2


def setting(tested: torch.device, device: torch.device | str, iou_threshold: float = 0.3) -> Setting:
    """The published network if a GPU is tested, else a small one; ONF drops some of the images."""
    arch = "resnet101" if tested.type == "cuda" else "mini"
    return Setting(arch, crop=65, batch_size=3, iou_threshold=iou_threshold, device=str(device))


def run(mode: str, case: str, s: Setting, dtype: torch.dtype = torch.float32) -> tuple[dict, list[torch.Tensor]]:
    """The figures and the gradients of an iteration."""
    runner = Runner(mode, s)

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    figures = runner.gradients(moved(make_batches(s), convert), case)
    return {name: torch.as_tensor(value).cpu() for name, value in figures.items()}, gradients_of(runner)


@each_case
def test_iteration_in_float64(case: str, device: torch.device, float64: None) -> None:
    """Rounding cannot hide a difference; test_reference_steps.py compares iterations in float32."""
    ours, theirs = (run("ours+float32", case, setting(device, d), torch.float64) for d in (device, "cpu"))
    assert loss_difference(ours[0], theirs[0]) <= 1e-9
    assert gradient_difference(ours[1], theirs[1]) <= 1e-7
    assert ours[0].keys() == theirs[0].keys()
    assert ("keep_simple" in ours[0]) == case.startswith("denoising")
    for name in ours[0].keys() & {"keep_simple", "keep_gt", "kept"}:
        assert torch.equal(ours[0][name], theirs[0][name]), name


@each_case
def test_bf16_is_finite_and_close(case: str, device: torch.device) -> None:
    s = setting(device, device, iou_threshold=0)  # rounding does not change ONF's decisions
    runner = Runner("ours+channels-last+bf16", s)
    losses = runner.gradients(make_batches(s), case)
    first, _ = run("baseline", case, s)
    assert loss_difference(losses, first) < 0.05
    assert all(gradient.isfinite().all() for gradient in gradients_of(runner))
    for optimizer in runner.optimizers:
        optimizer.step()
    assert all(p.isfinite().all() for network in (runner.G, runner.D) for p in network.parameters())


def test_a_resumed_run_ends_as_an_uninterrupted_one(
    device: torch.device, textured_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def options(name: str) -> list[str]:
        more = flags(device=device, save_pred_every=3, num_steps=6, denoise_from=2)
        return list(map(str, train_options(textured_data, tmp_path / name, "--deterministic", *more)))

    train(parse_args("", options("whole")))
    with monkeypatch.context() as patch:
        patch.setattr(MDBATrainer, "validate", Mock(side_effect=ArithmeticError))  # after iteration 3
        with pytest.raises(ArithmeticError):
            train(parse_args("", options("stopped")))
    train(parse_args("", options("stopped")))
    tolerance = 0 if device.type == "cpu" else 1e-3  # some of torch's operations are not deterministic on a GPU
    for name in ("VOC_best.pth", "VOC_best_D.pth"):
        ours, theirs = (read_state(tmp_path / run / name) for run in ("stopped", "whole"))
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert_close(tensor, theirs[key], tolerance, key)


def test_sent_batches_are_those_of_the_host(device: torch.device) -> None:
    """Asynchronous copies from pinned memory, while the device computes."""
    batches = [torch.from_numpy(np.random.default_rng(k).normal(size=(4, 3, 65, 65))) for k in range(8)]
    if device.type == "cuda":
        batches = [batch.pin_memory() for batch in batches]
    busy = torch.randn(512, 512, device=device)
    for _ in range(20):
        busy = (busy @ busy).tanh()
    sent = [send(batch, device) for batch in batches]
    assert all(torch.equal(batch, copy.cpu()) for batch, copy in zip(batches, sent))
