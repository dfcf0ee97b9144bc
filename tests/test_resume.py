"""A run that is stopped, killed or changed in the middle."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import DEADLINE, ROOT, error_line, run_script, train_options

from networks.checkpoint import read_checkpoint, read_state
from utils.training.log import open_log
from utils.training.resume import lock_folder

STEPS = 40


def options_of(data: Path, out: Path, *more: object) -> list[object]:
    options = "--denoise-from 12 --iou-thresholds auto --save-every 3 --save-pred-every 15 --iter-size 2"
    options += " --random-mirror --random-scale"
    return train_options(data, out, "--num-steps", STEPS, *options.split(), *more)


def step2_options(data: Path, out: Path) -> list[object]:
    config = {
        "EXP.OUTPUT_DIR": out,
        "DATASET.ROOT": data,
        "DATASET.PSEUDO_LABELS": data / "sal2gt",
        "DATASET.N_CLASSES": 4,
        "DATASET.SPLIT.TRAIN": data / "lists/simple_list.txt",
        "DATALOADER.NUM_WORKERS": 0,
        "IMAGE.SIZE.TRAIN": 40,
        "MODEL.NAME": "DeepLabV2_Mini_MSC",
        "MODEL.INIT_MODEL": "null",
        "MODEL.N_BLOCKS": [1, 1, 1, 1],
        "SOLVER.ITER_MAX": STEPS,
        "SOLVER.BATCH_SIZE.TRAIN": 2,
        "SOLVER.ITER_SAVE": 10,
    }
    options = ["train", "--config-path", ROOT / "step2/configs/voc12.yaml", "--cpu", "--save-every", 3]
    return [*options, *(f"{key}={value}" for key, value in config.items())]


def start(script: str, options: list[object], action: str | None = None, **limits: Callable) -> subprocess.Popen:
    """Run a script in a session of its own, so that a signal to its group reaches its loading processes too.

    `action` is what at_first_save.py does to it after its first saved state.
    """
    command = [str(ROOT / script)] if action is None else [str(ROOT / "tests/at_first_save.py"), action, script]
    command = [sys.executable, *command, *map(str, options)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes, **limits)


def same(a: object, b: object) -> bool:
    """Equal to the bit, through containers."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def uninterrupted(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run_script("train.py", *options_of(tiny_data, out))
    return out


def check_same_end(ours: Path, theirs: Path) -> None:
    assert {p.name for p in ours.iterdir()} == {p.name for p in theirs.iterdir()}
    for name in ("last.pth", "VOC_best.pth", "VOC_best_D.pth"):
        assert same(read_checkpoint(ours / name), read_checkpoint(theirs / name)), name
    for name in ("log.jsonl", "val.jsonl"):
        assert (ours / name).read_text() == (theirs / name).read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on(number: int, uninterrupted: Path, tiny_data: Path, tmp_path: Path) -> None:
    # Ctrl-C goes to the whole group, `kill` to the process alone.
    options = options_of(tiny_data, tmp_path, "--num-workers", 1)
    process = start("train.py", options, signal.Signals(number).name)
    stderr = process.communicate(timeout=DEADLINE)[1]
    assert process.returncode == 128 + number, stderr
    assert "rerun the command" in stderr and "Traceback" not in stderr
    assert 0 < read_checkpoint(tmp_path / "last.pth")["iteration"] < STEPS
    done = run_script("train.py", *options_of(tiny_data, tmp_path))
    assert "resuming after" in done.stdout
    check_same_end(tmp_path, uninterrupted)


def test_kills_at_random_moments(uninterrupted: Path, tiny_data: Path, tmp_path: Path) -> None:
    rng, options, log = random.Random(7), options_of(tiny_data, tmp_path), tmp_path / "log.jsonl"
    for kill in range(8):
        before = log.read_bytes() if log.exists() else b""
        process = start("train.py", options)
        # Half of the moments lie anywhere from the start on, half within a few iterations.
        while kill % 2 and process.poll() is None and (not log.exists() or log.read_bytes() == before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4) if kill % 2 else rng.uniform(0, 4))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for path in tmp_path.glob("*.pth"):
            read_checkpoint(path)
    run_script("train.py", *options)
    check_same_end(tmp_path, uninterrupted)


def test_changed_options_are_named_and_refused(uninterrupted: Path, tiny_data: Path, tmp_path: Path) -> None:
    line = error_line("train.py", *options_of(tiny_data, uninterrupted, "--learning-rate", 0.5, "--no-pnd"))
    assert "learning_rate (was 0.00025, is 0.5)" in line and "no_pnd (was False, is True)" in line
    assert "batch_size" not in line
    # Options that the version which saved the state did not know yet.
    state = read_checkpoint(uninterrupted / "last.pth")
    for name in ("no_pnd", "restore_from_D"):
        del state["options"][name]
    torch.save(state, uninterrupted / "last.pth")
    more = "--num-workers", 1, "--log-every", 2, "--save-pred-every", 7
    done = run_script("train.py", *options_of(tiny_data, uninterrupted, *more))
    assert "resuming after 40 of 40" in done.stdout and "val mIoU" in done.stdout


def test_no_resume_starts_over(tiny_data: Path, tmp_path: Path) -> None:
    options = options_of(tiny_data, tmp_path, "--num-steps", 2, "--denoise-from", 1, "--iou-thresholds", 0.3)
    run_script("train.py", *options)
    before = read_state(tmp_path / "VOC_best.pth")
    assert "resuming" not in run_script("train.py", *options, "--no-resume").stdout
    assert same(read_state(tmp_path / "VOC_best.pth"), before)
    # Weights that a run starts from are where they were when it goes on.
    again = [*options, "--restore-from", tmp_path / "VOC_best.pth", "--save-every", 1]
    run_script("train.py", *again, "--no-resume")
    assert same(read_state(tmp_path / "VOC_best.old.pth"), before)
    assert "resuming after 2 of 2" in run_script("train.py", *again).stdout
    (tmp_path / "last.pth").write_bytes((tmp_path / "last.pth").read_bytes()[:9999])
    line = error_line("train.py", *options)
    assert "last.pth cannot be read" in line and line.endswith("delete it, or use --no-resume")
    torch.save({"a": torch.zeros(1)}, tmp_path / "last.pth")
    assert "last.pth is not the state of a training run" in error_line("train.py", *options)


def test_stage_2_goes_on_to_the_same_end(tiny_data: Path, tmp_path: Path) -> None:
    ends = []
    for name in ("whole", "stopped"):
        options = step2_options(tiny_data, tmp_path / name)
        models = tmp_path / name / "models/voc12/deeplabv2_mini_msc/simple_list"
        if name == "stopped":
            process = start("step2/main.py", options, "SIGINT")
            stderr = process.communicate(timeout=DEADLINE)[1]
            assert process.returncode == 130, stderr
            assert not (models / "checkpoint_final.pth").exists()
        run_script("step2/main.py", *options)
        ends.append(models)
    assert {p.name for p in ends[0].iterdir()} == {p.name for p in ends[1].iterdir()}
    for name in ("checkpoint_10.pth", "checkpoint_final.pth"):
        assert same(read_state(ends[0] / name), read_state(ends[1] / name))
    options = step2_options(tiny_data, tmp_path / "whole")
    line = error_line("step2/main.py", *options, "SOLVER.LR=1.0")
    assert "other options: SOLVER.LR (was 0.00025, is 1.0): use the same options" in line
    options += ["DATALOADER.NUM_WORKERS=1", "SOLVER.ITER_SAVE=40", "CRF.ITER_MAX=1"]
    assert f"resuming after {STEPS} of {STEPS}" in run_script("step2/main.py", *options).stdout
    run_script("step2/main.py", *options, "--no-resume")
    assert {p.name for p in ends[0].glob("*_10*.pth")} == {"checkpoint_10.old.pth"}


def test_log_lines_of_lost_iterations_go(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"i": i}) + "\n" for i in range(5)) + '{"i": 5, "lo')
    with open_log(path, "i", 3) as log:
        log.write('{"i": 3}\n')
    assert path.read_text() == '{"i": 0}\n{"i": 1}\n{"i": 2}\n{"i": 3}\n'


def test_two_runs_do_not_share_a_folder(tiny_data: Path, tmp_path: Path) -> None:
    options = options_of(tiny_data, tmp_path, "--num-steps", 2, "--denoise-from", 1, "--no-val")
    with lock_folder(tmp_path):
        line = error_line("train.py", *options, process=True)
        assert f"{tmp_path} is used by another run, process {os.getpid()} on" in line
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert "weights of the last iteration (no validation)" in run_script("train.py", *options).stdout
