"""What a machine does to a training: each fault is one line, the last saved state stands, the status is not 0."""

import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEADLINE, assert_close, contents, error_line, read_lines, run_script, the_error, train_options
from test_resume import start

import utils.core.errors
from networks.checkpoint import read_checkpoint, save
from networks.deeplab import build_deeplab
from utils.core.device import Precision
from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.training.log import LOW_LINES, TrainLog
from utils.training.optim import build_sgd
from utils.training.resume import TrainState

PROC = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


@pytest.mark.skipif(not PROC.exists(), reason="this kernel does not list a process's children")
def test_a_killed_worker(tiny_data: Path, tmp_path: Path) -> None:
    options = train_options(tiny_data, tmp_path, "--num-workers", 1, "--num-steps", 5000)
    process = start("train.py", options, "KILL_WORKER")
    # Torch raises whenever a loading process ends, wherever Python is then; its own message may come last.
    last = process.communicate(timeout=DEADLINE)[1].splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("error: a data loading process was killed") or "is killed by signal" in last
    assert read_checkpoint(tmp_path / "last.pth")["iteration"] >= 2


def fail(error: Exception) -> None:
    raise error


KILLED = "a data loading process was killed"
NO_MEMORY = "out of memory: training needs less with a smaller --batch-size"


@pytest.mark.parametrize(
    ("function", "value", "says"),
    [
        (fail, EOFError(), KILLED),
        (fail, ConnectionResetError(104, "Connection reset by peer"), KILLED),
        (fail, OSError(28, "No space left on device"), "no space left in a place without a name, possibly /dev/shm"),
        (torch.empty, 1 << 58, NO_MEMORY),
        (np.empty, 1 << 58, NO_MEMORY),
        (bytearray, 1 << 58, NO_MEMORY),
    ],
)
def test_faults_of_the_machine(function: Callable, value: object, says: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        utils.core.errors.run_script(lambda: function(value))
    assert stop.value.code == 1 and the_error(capsys.readouterr().err).startswith(f"error: {says}")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        utils.core.errors.run_script(lambda: fail(RuntimeError("a bug")))


def test_a_full_disk(tiny_data: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it: writing fails in the same way."""
    run_script("train.py", *train_options(tiny_data, tmp_path))
    before = (tmp_path / "last.pth").read_bytes()
    limit = len(before) // 2
    options = train_options(tiny_data, tmp_path, "--no-resume")
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    process = start("train.py", options, **limits)
    line = the_error(process.communicate(timeout=DEADLINE)[1])
    assert process.returncode == 2
    assert re.search(r"(last|VOC_best)\.pth: File too large: free some space", line)
    # What was there is kept, but the same command without --no-resume must not go on from it.
    assert (tmp_path / "last.old.pth").read_bytes() == before and not (tmp_path / "last.pth").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_loss_that_is_no_number(tiny_data: Path, tmp_path: Path) -> None:
    options = train_options(tiny_data, tmp_path, "--num-steps", 60, "--learning-rate", 1e20, "--no-c2s")
    line = error_line("train.py", *options)
    assert "the loss is not finite" in line and "lower learning rate" in line
    assert not list(tmp_path.glob("*.pth"))


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    network = torch.nn.BatchNorm2d(2)
    run = TrainState(tmp_path / "last.pth", [network], [], {"amp": "fp16"})
    network.running_var[0] = float("nan")
    with pytest.raises(InputError, match="nothing has been saved yet"):
        run.save(1)
    network.running_var[0] = 1
    run.save(1)
    before = (tmp_path / "last.pth").read_bytes()
    network.weight.data[0] = float("inf")
    with pytest.raises(InputError, match=r"or --amp bf16; .*last\.pth is unchanged"):
        run.save(2)
    assert (tmp_path / "last.pth").read_bytes() == before


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("old")
    for error, says in ((OSError(28, "No space left on device"), r"x\.json"), (RuntimeError("a bug"), "^a bug$")):
        with pytest.raises(type(error), match=says), atomic_write(tmp_path / "x.json"):
            fail(error)
    assert contents(tmp_path) == {"x.json": b"old"}


def test_a_figure_that_stays_low_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [0.001] * 10 + [0.3] + [0.001] * 50 + [0.3] + [0.001] * 50
    said = []
    with TrainLog(tmp_path, ["log.jsonl"], range(len(values)), 0, "i", 8, None) as log:
        for n, value in enumerate(values):
            log(n, 0.1, {"loss_D": value, "kept": 0}, ())
            said += [n] * capsys.readouterr().err.count("warning: loss_D")
    assert said == [11 + LOW_LINES - 1]


def test_warnings_of_a_network_that_predicts_background_only(tiny_data: Path, tmp_path: Path) -> None:
    """Its classifier prefers background everywhere, so that no image passes ONF."""
    state = build_deeplab("mini", 4, seed=0).state_dict()
    state["layer5.conv2d_list.0.bias"][0] = 1e4
    save(state, tmp_path / "background.pth")
    more = "--restore-from", tmp_path / "background.pth", "--learning-rate", 1e-9, "--save-pred-every", 10
    more += "--denoise-from", 1, "--num-steps", LOW_LINES + 3
    stderr = run_script("train.py", *train_options(tiny_data, tmp_path, *more)).stderr
    assert stderr.count("warning: the network predicts background only") == 1
    assert stderr.count("warning: passed below 0.001 in 20 log lines: no image") == 1
    assert "foreground=0%" in stderr and "img/s" in stderr and "mem=" in stderr
    assert {line["foreground"] for line in read_lines(tmp_path / "log.jsonl")} == {0}


def test_mixed_precision_is_close_and_resumes(tiny_data: Path, tmp_path: Path) -> None:
    def options(amp: str | None) -> list[object]:
        # No denoising in the first iteration: rounding decides on which side of PND's threshold a pixel lies.
        more = "--denoise-from", 1, *(("--amp", amp) if amp else ())
        return train_options(tiny_data, tmp_path / str(amp), *more)

    ends = {}
    for amp in (None, "bf16", "fp16"):
        run_script("train.py", *options(amp))
        ends[amp] = read_lines(tmp_path / str(amp) / "log.jsonl")
    for amp in ("bf16", "fp16"):
        first = {k: v for k, v in ends[amp][0].items() if k.startswith("loss")}
        for name, value in first.items():
            assert_close(value, ends[None][0][name], 0.02, f"{name} with {amp}")
        assert first != {k: ends[None][0][k] for k in first}
    # The scale of fp16's losses is part of the state.
    assert read_checkpoint(tmp_path / "fp16/last.pth")["optimizers"][-1]["scale"] > 1
    done = run_script("train.py", *options("fp16"))
    assert "resuming after 8 of 8" in done.stdout


@pytest.mark.parametrize("skip", [False, True])
def test_fp16_steps_as_full_precision(skip: bool) -> None:
    """Repeated steps take the same gradient each time, and a first step that fp16 skips leaves no trace."""
    ends = []
    for name in (None, "fp16"):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False)))
        optimizer, precision = build_sgd(network, 0.1), Precision(name)
        for value in [torch.inf, 1.0, 1.0, 1.0] if skip and name == "fp16" else [1.0] * 3:
            optimizer.zero_grad()
            precision.backward(network(torch.full((2, 3), value)).square().sum())
            precision.step([optimizer])
        ends.append(network[0][0].weight.detach())
    assert optimizer.param_groups[0]["steps"] == 2 and ends[0].isfinite().all()
    assert_close(ends[1], ends[0], 1e-6, "weights")


def test_tensorboard(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logdir = tmp_path / "board"
    run_script("train.py", *train_options(tiny_data, tmp_path / "out", "--logdir", logdir))
    board = event_accumulator.EventAccumulator(str(logdir)).Reload()
    assert {"loss_seg", "loss_D", "kept", "lr"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("loss_seg")] == list(range(8))
    assert board.Tags()["images"] == ["simple images"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    options = train_options(tiny_data, tmp_path / "out2", "--logdir", logdir)
    assert "--logdir needs it: pip install tensorboard" in error_line("train.py", *options)
