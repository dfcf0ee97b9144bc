"""Training on two nodes, simulated by two torchrun on this machine that meet on a loopback port."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEADLINE, ROOT
from test_distributed import TORCHRUN, train_options
from test_resume import wait_for

from networks.checkpoint import read_checkpoint

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
NODE = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
STEPS = 24
# Replacements for Slurm's commands; srun starts the job's two tasks.
SRUN = f"""#!{sys.executable}
import signal, subprocess, sys
nodes = [subprocess.Popen(sys.argv[1:]) for _ in range(2)]
signal.signal(signal.SIGTERM, lambda *_: [node.terminate() for node in nodes])
sys.exit(any([node.wait() for node in nodes]))
"""
SCONTROL = '#!/bin/sh\nif [ "$1" = show ]; then echo localhost; else echo "$@"; fi\n'


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def command(data: Path, out: Path) -> list[str]:
    more = "--num-steps", STEPS, "--save-every", 3, "--cutmix-probability", 0.5
    options = [option for option in train_options(data, out, *more) if option != "--no-s2c"]
    return ["train.py", *map(str, options)]


@pytest.fixture(scope="module")
def one_node(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The log of two processes on one machine."""
    out = tmp_path_factory.mktemp("one_node")
    words = [*TORCHRUN, *command(tiny_data, out)]
    subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, check=True, timeout=DEADLINE, stderr=subprocess.DEVNULL)
    return (out / "log.jsonl").read_text()


def test_two_nodes_train_as_one(tiny_data: Path, tmp_path: Path, one_node: str) -> None:
    meet = ["--rdzv-backend", "c10d", "--rdzv-id", "1", "--rdzv-endpoint", f"localhost:{free_port()}"]
    words = [*NODE, *meet, *command(tiny_data, tmp_path)]
    nodes = [subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [node.wait(timeout=DEADLINE) for node in nodes] == [0, 0]
    assert (tmp_path / "log.jsonl").read_text() == one_node


def test_slurm_job_is_requeued_and_resumes(tiny_data: Path, tmp_path: Path, one_node: str) -> None:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = ENVIRONMENT | {
        "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SLURM_JOB_ID": str(os.getpid()),  # the port depends on it
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }
    out = tmp_path / "snapshots"

    def job() -> subprocess.Popen:
        words = ["bash", "docs/slurm.sh", *command(tiny_data, out)]
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    first = job()
    wait_for(out / "last.pth", first)
    first.send_signal(signal.SIGUSR1)  # Slurm's notice that the time limit is near
    stdout, _ = first.communicate(timeout=DEADLINE)
    assert first.returncode
    requeue = f"requeue {os.getpid()}\n"
    assert requeue in stdout
    assert 0 < read_checkpoint(out / "last.pth")["iteration"] < STEPS

    second = job()
    stdout, _ = second.communicate(timeout=DEADLINE)
    assert second.returncode == 0
    assert requeue not in stdout
    assert (out / "log.jsonl").read_text() == one_node
