"""benchmarks/gpu.py on a CPU: its parts, their limits, and what it derives from their results."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, error_line, run_script
from torch.autograd import DeviceType

from benchmarks import gpu
from benchmarks.gpu_parts import summary
from benchmarks.gpu_parts.preset import BF16, FULL, SMALL, TF32, Record
from benchmarks.gpu_parts.profiling import summarize
from benchmarks.gpu_parts.training import seconds_per_iteration
from benchmarks.train_step import mode
from benchmarks.trainer import CASES

ON_CPU = ["--device", "cpu", "--arch", "mini", "--out"]


TABLES = {"crf": "rows", "loading": "rates", "evaluation": "ways"}
RESULTS = (ROOT / "benchmarks/RESULTS.md").read_text()


def headings(text: str) -> list[str]:
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


def test_a_part_over_its_limit_does_not_stop_the_others(tmp_path: Path) -> None:
    # `compiled` takes minutes; in one second it does not even load torch.
    options = ["--parts", "compiled", "crf", "loading", "--limits", "compiled=1"]
    stdout = run_script("benchmarks/gpu.py", *ON_CPU, tmp_path, *options, status=1).stdout
    results, text = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()
    parts = results["parts"]
    assert [part["status"] for part in parts.values()] == [
        "stopped at its limit of 1 s",
        "finished",
        "finished",
    ]
    assert "stopped at its limit" in stdout and "stopped at its limit" in text
    assert {"Aims on an H100", "Dense CRF", "Data loading", "Parts"} <= set(headings(text))
    assert all(summary.markdown_table(rows).partition("\n")[0] in RESULTS for rows in tables(parts))
    assert parts["crf"]["rows"] and parts["loading"]["rates"]


def test_a_part_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "parts/crf.json").mkdir(parents=True)  # cannot be written
    with pytest.raises(OSError):
        Record(tmp_path / "parts/crf.json").update(rows=[])
    args = gpu.parse_args([*ON_CPU, str(tmp_path), "--parts", "evaluation"])
    args.arch = "unknown"
    part = gpu.run_part("evaluation", 60, args)
    assert re.match(r"failed with exit status 2: .*--arch", part["status"])


def tables(parts: dict) -> Iterator[list[dict]]:
    """Those with rows in RESULTS.md."""
    yield from (parts[part][name] for part, name in TABLES.items() if part in parts)


@pytest.mark.slow
def test_all_parts(tmp_path: Path) -> None:
    run_script("benchmarks/gpu.py", *ON_CPU, tmp_path)
    results, text = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()
    assert list(results["parts"]) == list(gpu.PARTS)
    assert {part["status"] for part in results["parts"].values()} == {"finished"}
    rows = results["parts"]["iteration"]["rows"]
    assert {(row["mode"], row["case"]) for row in rows} == {(m, case) for m in SMALL.modes for case in CASES}
    assert all(row["seconds"] > 0 for row in rows)
    assert all(profile["launches"] > 100 for profile in results["parts"]["iteration"]["profiles"])
    assert not any("errors" in part for part in results["parts"].values())
    assert results["parts"]["compiled"]["rows"] and not results["parts"]["tests"]["failed"]
    assert len(results["parts"]["kernels"]["profiles"][0]["kernels"]) == 20
    assert results["parts"]["training"]["finite"]
    assert all(aim["measured"] for aim in results["aims"])
    assert all(
        summary.markdown_table(rows).partition("\n")[0] in RESULTS for rows in tables(results["parts"])
    )
    assert (
        summary.markdown_table(summary.training_row(results["parts"]["training"])).partition("\n")[0]
        in RESULTS
    )
    titles = headings(text)
    for title in ("Training iteration", "Dense CRF", "Data loading", "Evaluation", "Training run", "Parts"):
        assert title in titles
    assert sum(title.startswith("Most expensive kernels") for title in titles) == 2


def test_limits_add_up_to_less_than_nine_minutes() -> None:
    assert sum(part.limit for part in gpu.PARTS.values()) <= gpu.BUDGET <= 9 * 60 - 10
    for name in {*FULL.modes, *FULL.compiled, *SMALL.modes, *SMALL.compiled}:
        assert mode(name) == name


def test_bad_options(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        assert "--device cuda is not available" in error_line("benchmarks/gpu.py", "--out", tmp_path)
    run_script("benchmarks/gpu.py", "--limits", "lunch=3", status=2)


def iteration_row(name: str, case: str, seconds: float, peak: float) -> dict:
    row = {"mode": name, "case": case, "format": "bf16" if "bf16" in name else "TF32", "seconds": seconds}
    row |= {
        "host_seconds": seconds / 2,
        "launches": 9,
        "waits": 0,
        "kernel_seconds": seconds,
        "peak_bytes": peak,
    }
    return row | {"losses": {"loss_seg": 2.0}, "operations": 14e12}


def test_aims() -> None:
    speeds = {"baseline": (0.2, 40e9), BF16: (0.05, 22e9), TF32: (0.16, 30e9), "ours+bf16": (0.06, 20e9)}
    rows = [iteration_row(name, case, *speed) for name, speed in speeds.items() for case in CASES]
    rows[0]["seconds"] = 0.32  # one case of the baseline: a 24th of the run
    parts = {
        "iteration": {"rows": rows, "rates": {"bf16": 8e14, "TF32": 4e14}},
        "crf": {
            "rows": [{"s/image": "0.9", "labels %": "100"}, {"s/image": "0.0271", "labels %": "99.9951"}]
        },
        "loading": {"rates": [{"iterations/s": 30.0}]},
        "tests": {"failed": []},
        "training": {"finite": False},
    }
    found = {aim["aim"]: (aim["measured"], aim["met"]) for aim in summary.aims(parts)}
    assert list(found.values()) == [
        ("50.0 ms", "yes"),
        ("4.10 times", "yes"),
        ("1.28 times", "no"),
        ("55 %", "yes"),
        ("27.1 ms", "no"),
        ("99.9951 %", "yes"),
        ("1.50 times", "yes"),
        ("0", "yes"),
        ("1", "no"),
    ]
    table = summary.Iterations(parts).table()
    assert summary.markdown_table(table).partition("\n")[0] in RESULTS
    assert len(table) == 4 * 5 and table[-1]["iteration"] == "run"
    assert [row["speed-up"] for row in table[:4]] == ["1.00", "6.40", "2.00", "5.33"]
    assert table[1]["share of the matrix rate"] == "35 %"
    assert {aim["met"] for aim in summary.aims({})} == {""}


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    record = Record(tmp_path / "parts/iteration.json")
    nan = iteration_row(BF16, "warm-up", 0.1, 1e9) | {"losses": {"loss_seg": float("nan")}}
    record.append("rows", iteration_row("baseline", "warm-up", 0.2, 1e9), nan)
    first, second = summary.Iterations({"iteration": record.read()}).table()
    assert (first["losses differ by"], second["losses differ by"]) == ("0.0e+00", "not finite")


def event(key: str, count: int, microseconds: float = 0, on_device: bool = False) -> SimpleNamespace:
    kind = DeviceType.CUDA if on_device else DeviceType.CPU
    return SimpleNamespace(key=key, count=count, self_device_time_total=microseconds, device_type=kind)


def test_profile_of_a_gpu() -> None:
    events = [
        event("cudaLaunchKernel", 30),
        event("cuLaunchKernelEx", 4),
        event("cudaLaunchKernelExC", 5),
        event("cudaGraphLaunch", 1),
        event("cudaMemcpyAsync", 7),
        event("cudaStreamSynchronize", 3),
        event("cudaDeviceSynchronize", 1),
        event("void gemm<float>(...)", 30, 800, True),
        event("Memcpy HtoD (Pinned -> Device)", 7, 900, True),
        event("Optimizer.step#RepeatedSGD.step", 1, 5000, True),
    ]
    found = summarize(events, gpu=True)
    assert (found.launches, found.waits) == (40, 3)
    assert [kernel.calls for kernel in found.kernels] == [7, 30]
    assert found.kernels[0].seconds == pytest.approx(9e-4)
    assert summarize(events[7:], gpu=True).launches == 30  # without the runtime's calls


def test_time_of_a_training_run() -> None:
    assert seconds_per_iteration({0: 0.0, 10: 50.0, 20: 51.0, 30: 52.0}, start=10) == pytest.approx(0.1)
