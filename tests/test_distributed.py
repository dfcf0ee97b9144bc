"""Several processes, started by torchrun on the CPU, against one.

Both run in float64 (see float64.py), where rounding spreads the numbers compared here by less than 1e-11 from one
kind of CPU to another (`make test-cpus`), so that they are told apart from a wrong reduction at 1e-9.
"""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import DEADLINE, ROOT, assert_close, error_line, read_lines, run_script, train_options
from test_resume import step2_options
from test_scripts import eval_options

from datasets.sampling import InfiniteBatchSampler
from networks.checkpoint import read_checkpoint, read_state, save
from networks.deeplab import build_deeplab

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
FLOAT64 = "tests/float64.py"
TOLERANCE = 1e-9
execute = partial(subprocess.run, capture_output=True, text=True, timeout=DEADLINE, check=False)


def torchrun(script: str | Path, *args: object, status: int = 0) -> str:
    """Run a script in two processes; returns what both printed."""
    done = execute([*TORCHRUN, str(ROOT / script), *map(str, args)], cwd=(ROOT / script).parent)
    assert (done.returncode == 0) == (status == 0), done.stderr
    return done.stdout + done.stderr


in_float64 = partial(run_script, FLOAT64, process=True)  # in one process
two_in_float64 = partial(torchrun, FLOAT64)


def assert_same_end(ours: Path, theirs: Path, *weights: str) -> None:
    """The lines of log.jsonl and the tensors of weights."""
    ends = ours, theirs
    found = ([*read_lines(end / "log.jsonl"), *(read_state(end / name) for name in weights)] for end in ends)
    for a, b in zip(*found, strict=True):
        assert a.keys() == b.keys()
        for name, value in b.items():
            assert_close(a[name], value, TOLERANCE, name)


def options_of(data: Path, out: Path, *more: object) -> list[object]:
    options = "--batch-size 4 --iter-size 2 --num-steps 6 --denoise-from 2 --iou-thresholds 0,1,1 --random-mirror"
    options += " --no-s2c --freeze-bn --learning-rate 0.00005 --high-T 1.7 --low-T 1.6"
    return train_options(data, out, *options.split(), *more)


@pytest.fixture(scope="module")
def start_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with which frozen batch normalization does not let activations grow from block to block."""
    state = build_deeplab("mini", num_classes=4, seed=0).state_dict()
    for name, tensor in state.items():
        if name == "conv1.weight":
            tensor /= 60  # about the deviation of an image
        elif name.endswith("bn3.weight"):
            tensor *= 0.1
        elif name == "layer5.conv2d_list.0.bias":
            tensor += torch.tensor([0.0, 0.5, 0.4, 0.3])  # foreground is predicted everywhere at first
    path = tmp_path_factory.mktemp("weights") / "start.pth"
    save(state, path)
    return path


def test_two_processes_train_as_one(textured_data: Path, start_weights: Path, tmp_path: Path) -> None:
    """The losses, ONF's decisions, the gradients and so the weights are those of the whole batch.

    Each of three mistakes, made on purpose once, fails it. The first quantity beyond the tolerance was:
    - a loss averaged in each process instead of over the whole batch's pixels: loss_seg, by 1e-3;
    - ONF's fall-back decided in each process: kept, by 0.4;
    - gradients summed over the processes instead of averaged: the next iteration's losses, by 2e-5.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    more = "--restore-from", start_weights
    in_float64("train.py", *options_of(textured_data, one, *more))
    said = two_in_float64("train.py", *options_of(textured_data, two, *more))
    assert said.count("best val mIoU") == 1
    assert_same_end(two, one, "VOC_best.pth", "VOC_best_D.pth")
    # Images of the first class pass their threshold of 0, the others never pass 1: in some batches one process has
    # all the images that pass, and the other must not fall back to half the thresholds for its own.
    log = read_lines(two / "log.jsonl")[2:]
    assert any(line["passed"] == line["kept"] < 2 for line in log)
    assert any(0 < line["dropped"] < 1 for line in log)
    assert json.loads((two / "run.json").read_text())["processes"] == 2


def test_thresholds_are_those_of_all_images(textured_data: Path, start_weights: Path, tmp_path: Path) -> None:
    more = "--restore-from", start_weights, "--iou-thresholds", "auto", "--num-steps", 1, "--denoise-from", 0
    run_script("train.py", *options_of(textured_data, tmp_path / "one", *more))
    torchrun("train.py", *options_of(textured_data, tmp_path / "two", *more))
    states = [read_checkpoint(tmp_path / name / "last.pth") for name in ("one", "two")]
    assert states[0]["values"]["thresholds"] == states[1]["values"]["thresholds"]
    # The number of processes is not part of the recipe: a run may resume with another.
    again = run_script("train.py", *options_of(textured_data, tmp_path / "two", *more))
    assert "resuming after 1 of 1" in again.stdout


def test_stage_2_trains_as_one(textured_data: Path, start_weights: Path, tmp_path: Path) -> None:
    ends = []
    for name, run in (("one", in_float64), ("two", two_in_float64)):
        options = [*step2_options(textured_data, tmp_path / name), "SOLVER.ITER_SIZE=2", "SOLVER.ITER_MAX=3"]
        options += [f"MODEL.INIT_MODEL={start_weights}", "MODEL.N_BLOCKS=[1, 1, 2, 1]"]
        run("step2/main.py", *options)
        ends.append(tmp_path / name / "models/voc12/deeplabv2_mini_msc/simple_list")
    assert_same_end(ends[1], ends[0], "checkpoint_final.pth")


def test_a_divided_evaluation_has_the_same_scores(tiny_data: Path, weights: Path, tmp_path: Path) -> None:
    for name, run in (("one", run_script), ("two", torchrun)):
        run("evaluate.py", *eval_options(tiny_data, weights, tmp_path / name))
    for file in ("scores/scores.json", "scores/confusion.json", *(f"logit_val/val_{i:05}.npy" for i in range(1, 5))):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file


def test_a_signal_stops_all_processes_at_one_iteration(tiny_data: Path, tmp_path: Path) -> None:
    # With loading processes: the signal is not for them, or they would leave an iteration half done.
    more = "--num-steps", 2000, "--save-every", 3, "--batch-size", 2, "--iter-size", 4, "--num-workers", 1
    command = [*TORCHRUN, str(ROOT / "train.py"), *map(str, options_of(tiny_data, tmp_path, *more))]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    while not (tmp_path / "last.pth").exists() and process.poll() is None:
        time.sleep(0.02)
    before = read_checkpoint(tmp_path / "last.pth")["iteration"]
    os.kill(process.pid, signal.SIGTERM)
    stderr = process.communicate(timeout=DEADLINE)[1]
    assert process.returncode
    assert stderr.count("rerun the command (without --no-resume) to resume") == 1, stderr
    assert before < read_checkpoint(tmp_path / "last.pth")["iteration"] < 2000


LEAVING = """
import atexit, sys, time

def release():  # the last exit function, since it is registered first
    print("released", flush=True)
    sys.setswitchinterval(1000)  # seconds; the main thread keeps the GIL
    other.allreduce([torch.zeros(())])  # completes the all-reduce of `group`
    start = time.monotonic()
    while time.monotonic() < start + 0.5:
        pass

atexit.register(release)
import torch
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from torch.distributed import HashStore, ProcessGroupGloo
from utils.core.errors import run_script

def main():
    global group, other, tensor
    store = HashStore()
    with ThreadPoolExecutor(2) as executor:
        join = lambda rank: ProcessGroupGloo(store, rank, 2, timedelta(minutes=30))
        group, other = executor.map(join, range(2))
    tensor = torch.zeros(())
    group.allreduce([tensor])
    sys.exit(int(sys.argv[1]))

run_script(main)
"""


@pytest.mark.parametrize("status", [0, 143])
def test_a_thread_that_releases_a_tensor_does_not_abort_the_process(status: int) -> None:
    """After the last exit function, a thread of gloo waits for the GIL, to release `tensor`."""
    torchruns = os.environ | {"TORCHELASTIC_RUN_ID": "1"}
    done = execute([sys.executable, "-c", LEAVING, str(status)], cwd=ROOT, env=torchruns)
    assert (done.returncode, done.stdout) == (status, "released\n"), done.stderr


def test_a_batch_that_does_not_divide(tiny_data: Path, tmp_path: Path) -> None:
    said = torchrun("train.py", *options_of(tiny_data, tmp_path, "--batch-size", 5), status=2)
    assert "a batch of 5 does not divide among 2 processes" in said  # from either process
    line = error_line("train.py", *options_of(tiny_data, tmp_path, "--sync-bn"))
    assert "--sync-bn needs CUDA GPUs" in line


def test_the_parts_of_a_batch_are_the_batch() -> None:
    whole = iter(InfiniteBatchSampler(7, 6, 3, "simple", start=2))
    parts = [iter(InfiniteBatchSampler(7, 6, 3, "simple", start=2, part=(k, 3))) for k in range(3)]
    for _ in range(5):
        assert next(whole) == [item for part in parts for item in next(part)]
