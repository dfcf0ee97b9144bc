"""The benchmarks run, and what they compare gives the same numbers; nothing here depends on time."""

import pytest
from conftest import assert_close

from benchmarks import bench
from benchmarks.trainer import (
    CASES,
    Setting,
    Trainer,
    gradient_difference,
    gradients_of,
    loss_difference,
    make_batches,
    only_losses,
)


@pytest.mark.parametrize("case", ["denoising", "denoising+cutmix"])
@pytest.mark.parametrize("threshold", [0.3, 0.8, 2.0])  # some are kept; some at half of it; none, so all
def test_baseline_filters_as_we_do(threshold: float, case: str) -> None:
    s = Setting("mini", crop=49, batch_size=4, iou_threshold=threshold)
    ours, theirs = Trainer("ours", s), Trainer("baseline", s)
    found, first = (trainer.gradients(make_batches(s), case) for trainer in (ours, theirs))
    assert loss_difference(only_losses(found), only_losses(first)) < 1e-5
    assert gradient_difference(gradients_of(ours), gradients_of(theirs)) < 1e-3
    assert 0 < found["dropped"] < 1
    assert (found["kept"] == 4) == (threshold == 2)
    for buffer, expected in zip(ours.G.buffers(), theirs.G.buffers(), strict=True):
        assert_close(buffer, expected, 1e-4, "running statistics")


def test_all_parts(capsys: pytest.CaptureFixture) -> None:
    small = "--device cpu --arch mini --crop 33 --images 1 --iterations 1 --rounds 1 --num-workers 0"
    found = bench.main(small.split())
    out = capsys.readouterr().out
    assert all(bench.as_text(*part) in out for part in found.values())
    rows = found["iteration"][1]
    assert len(rows) == (len(CASES) + 1) * len(bench.MODES)
    for case, mode, *_, difference in rows:
        assert case == "whole run" or difference < (0.05 if "bf16" in mode else 1e-4)
    assert {row[-1] for row in found["crf"][1]} == {100}
    assert all(row[-1] < 1e-4 for row in found["evaluation"][1])
