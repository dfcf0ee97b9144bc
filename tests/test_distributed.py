"""Several processes, started by torchrun on the CPU, against one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, data_options, error_line, run_script
from test_resume import step2_options

from datasets.sampling import Stream
from networks.checkpoint import read_checkpoint, read_state, save
from networks.deeplab import Arch, DeepLab

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(script: str, *args: object, status: int = 0) -> str:
    """Run a script in two processes; returns what both said."""
    done = subprocess.run(
        [*TORCHRUN, str(ROOT / script), *map(str, args)], capture_output=True, text=True, timeout=300,
        check=False, cwd=(ROOT / script).parent, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode == 0) == (status == 0), done.stderr
    return done.stdout + done.stderr


def train_options(data: Path, out: Path, *more: object) -> list[object]:
    return [
        *data_options(data), "--list-dir", data / "lists", "--pseudo-label-dir", data / "sal2gt", "--arch", "mini",
        "--restore-from", "none", "--batch-size", 4, "--input-size", 40, "--num-steps", 12, "--denoise-from", 4,
        "--iou-thresholds", "auto", "--save-pred-every", 100, "--log-every", 1, "--iter-size", 2, "--random-mirror",
        "--no-s2c", "--freeze-bn", "--learning-rate", 0.0005, "--snapshot-dir", out, *more,
    ]  # fmt: skip


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_weights(ours: Path, theirs: Path) -> None:
    ours, theirs = read_state(ours), read_state(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_two_processes_train_as_one(tiny_data: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run_script("train.py", *train_options(tiny_data, one))
    said = torchrun("train.py", *train_options(tiny_data, two))
    assert said.count("best val mIoU") == 1
    a, b = lines(one / "log.jsonl"), lines(two / "log.jsonl")
    assert len(a) == len(b) == 12
    for ours, theirs in zip(b, a):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    # ONF's fall-back is the whole batch's: at times one process keeps nothing.
    assert any(line["kept"] < 2 for line in b) and any(line.get("passed") == 0 for line in b)
    for name in ("VOC_best.pth", "VOC_best_D.pth"):
        assert_same_weights(two / name, one / name)
    states = [read_checkpoint(folder / "last.pth") for folder in (one, two)]
    assert states[0]["values"]["thresholds"] == states[1]["values"]["thresholds"]
    assert json.loads((two / "run.json").read_text())["processes"] == 2
    # The number of processes is no part of the recipe: the other may go on.
    assert "going on after 12 of 12" in run_script("train.py", *train_options(tiny_data, two)).stdout


def test_stage_2_trains_as_one(tiny_data: Path, tmp_path: Path) -> None:
    ends = []
    for name in ("one", "two"):
        options = [*step2_options(tiny_data, tmp_path / name), "SOLVER.ITER_SIZE=2", "SOLVER.ITER_MAX=6"]
        run_script("step2/main.py", *options) if name == "one" else torchrun("step2/main.py", *options)
        ends.append(tmp_path / name / "models/voc12/deeplabv2_mini_msc/simple_list")
    assert_same_weights(ends[1] / "checkpoint_final.pth", ends[0] / "checkpoint_final.pth")
    assert lines(ends[1] / "log.jsonl") == [
        pytest.approx(line, rel=1e-4) for line in lines(ends[0] / "log.jsonl")
    ]


def test_a_divided_evaluation_has_the_same_scores(tiny_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(DeepLab(4, Arch((1, 1, 1, 1), 4, True)).state_dict(), tmp_path / "tiny.pth")
    options = [*data_options(tiny_data), "--restore-from", tmp_path / "tiny.pth"]
    options += ["--data-list", tiny_data / "lists/val.txt", "--logit-dir", "logits", "--score-dir", "scores"]
    for name, run in (("one", run_script), ("two", torchrun)):
        folders = {"logits": tmp_path / name / "logits", "scores": tmp_path / name / "scores"}
        run("evaluate.py", *(folders.get(option, option) for option in options))
    for file in (
        "scores/scores.json",
        "scores/confusion.json",
        *(f"logits/val_{i:05d}.npy" for i in range(1, 5)),
    ):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file


def test_a_signal_stops_all_processes_at_one_iteration(tiny_data: Path, tmp_path: Path) -> None:
    # With loading processes: the signal is not for them, or they would leave an iteration half done.
    more = "--num-steps", 2000, "--save-every", 3, "--batch-size", 2, "--iter-size", 4, "--num-workers", 1
    command = [*TORCHRUN, str(ROOT / "train.py"), *map(str, train_options(tiny_data, tmp_path, *more))]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (tmp_path / "last.pth").exists() and process.poll() is None:
        time.sleep(0.05)
    before = read_checkpoint(tmp_path / "last.pth")["iteration"]
    os.kill(process.pid, signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode
    assert stderr.count("the same command goes on from there") == 1, stderr
    assert before < read_checkpoint(tmp_path / "last.pth")["iteration"] < 2000


def test_a_batch_that_does_not_divide(tiny_data: Path, tmp_path: Path) -> None:
    said = torchrun("train.py", *train_options(tiny_data, tmp_path, "--batch-size", 5), status=2)
    assert "error: a batch of 5 does not divide among 2 processes" in said
    line = error_line("train.py", *train_options(tiny_data, tmp_path, "--sync-bn"))
    assert "--sync-bn needs CUDA GPUs" in line


def test_the_parts_of_a_batch_are_the_batch() -> None:
    whole = iter(Stream(7, 6, 3, "simple", start=2))
    parts = [iter(Stream(7, 6, 3, "simple", start=2, part=(k, 3))) for k in range(3)]
    for _ in range(5):
        assert next(whole) == [item for part in parts for item in next(part)]
