"""What the tests share: the reference numbers, the weights they were computed with, a tiny data set, scripts."""

import functools
import io
import json
import multiprocessing
import os

# The networks of the tests are too small for threads. The numbers of a run depend on their count, so it is the same
# in all processes. Set before torch is loaded.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")

import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from PIL import Image

from datasets.openmoji.dataset import Recipe, make_dataset
from datasets.voc import palette
from networks.checkpoint import save
from networks.deeplab import Arch, DeepLab
from utils.core.cli import call

# Forking is unsafe beside the threads of pytest-xdist and torch; Python 3.12 warns of it, and 3.14 has forkserver as
# its default. Scripts in processes of their own start their workers as the platform does.
if sys.platform == "linux":
    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload(["torch"])
ROOT = Path(__file__).resolve().parent.parent
THREADS = torch.get_num_threads()  # of scripts in processes of their own; MKL may limit it to the cores
Done = subprocess.CompletedProcess  # how a script ended
DEADLINE = 1800  # seconds; ends a test that hangs, and nothing that is merely slow
REFERENCE = Path(os.environ.get("MDBA_REFERENCE", ROOT / "tests" / "reference"))


def reference_json(name: str) -> dict:
    return json.loads((REFERENCE / name).read_text())


def reference_npz(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / name) as arrays:
        return dict(arrays)


@functools.cache
def _reference_tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor as the reference README says: a function of its key alone."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    x = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        x = np.abs(x) * 0.1 + 1
    elif key.endswith("weight") and x.ndim == 1:
        x = 1 + 0.1 * x
    elif x.ndim == 1:
        x = 0.1 * x
    else:
        x = x * np.float32(np.sqrt(1 / np.prod(x.shape[1:])))
    return torch.from_numpy(x.astype(np.float32))


def load_reference_weights(network: torch.nn.Module) -> torch.nn.Module:
    """Fill a network with the reference weights."""
    state = {key: _reference_tensor(key, tuple(tensor.shape)) for key, tensor in network.state_dict().items()}
    network.load_state_dict(state, strict=True)
    return network


def normal_images(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 60, shape).astype(np.float32))


def assert_close(ours: ArrayLike, theirs: ArrayLike, tolerance: float, what: str = "", slack: float = 0.0) -> None:
    """The largest absolute difference is at most `tolerance` times the largest absolute value, plus `slack`.

    With MDBA_SPREADS, how much of that the difference takes up is appended to that file: `make test-cpus` shows how
    far rounding alone spreads the numbers from one kind of CPU to another.
    """
    ours, theirs = (torch.as_tensor(values).detach().cpu().double() for values in (ours, theirs))
    assert ours.shape == theirs.shape, what
    difference = float((ours - theirs).abs().max())
    allowed = tolerance * float(theirs.abs().max()) + slack
    if path := os.environ.get("MDBA_SPREADS"):
        test = os.environ["PYTEST_CURRENT_TEST"].split(" ")[0].removeprefix("tests/")
        record = {"test": test, "what": what, "difference": difference, "allowed": allowed}
        with open(path, "a") as file:
            file.write(json.dumps(record) + "\n")
    assert difference <= allowed, f"{what} differs by {difference:.2g}, allowed is {allowed:.2g}"


DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The CPU and the GPU, without TF32. Without a GPU, one test of test_cuda.py says so, for all."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    yield torch.device(request.param)
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.fixture
def float64() -> Iterator[None]:
    """Networks and tensors in float64, where rounding cannot be taken for a difference."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """Scripts run in this process; what they set must not reach the next test."""
    yield
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three classes and a few small images in VOC's layout; tests do not change it."""
    root = tmp_path_factory.mktemp("tiny") / "data"
    make_dataset(root, Recipe(("bird", "car", "cat"), simple=12, complex=8, val=4, size=(64, 80), seed=5))
    return root


@pytest.fixture
def own_data(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_data` that a test may change."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


def tiny_network(seed: int = 0) -> DeepLab:
    torch.manual_seed(seed)
    return DeepLab(4, Arch((1, 1, 1, 1), 4, True))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `tiny_network`."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    save(tiny_network().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def textured_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_data`, but noise in lossless files: the same pixels with every version of the libraries."""
    root, rng = tmp_path_factory.mktemp("textured") / "data", np.random.default_rng(5)
    for folder in ("JPEGImages", "SegmentationClassAug", "sal2gt", "lists"):
        (root / folder).mkdir(parents=True)
    entries: dict[str, list[str]] = {}
    for name, count in {"simple_list": 12, "complex_list": 8, "val": 4}.items():
        for n in range(count):
            classes = [n % 3] if name == "simple_list" else [n % 3, (n + 1) % 3]
            image, label = rng.integers(0, 256, (64, 80, 3), np.uint8), np.zeros((64, 80), np.uint8)
            for k, c in enumerate(classes):
                top, left = 5 + 30 * k + n, 8 + 20 * k + n
                box = slice(top, top + 16), slice(left, left + 24)
                image[box] = image[box] // 4 + np.array((190, 20, 100), np.uint8) * (c + 1) % 192
                label[box] = c + 1
            label[: 2 * n] = 255  # more in some images than in others
            Image.fromarray(image).save(root / f"JPEGImages/{name}_{n}.png")
            folder = "SegmentationClassAug" if name == "val" else "sal2gt"
            Image.fromarray(label).save(root / f"{folder}/{name}_{n}.png")
            entries.setdefault(name, []).append(" ".join(map(str, (f"{name}_{n}", *classes))))
    entries["train_cls"] = entries["simple_list"] + entries["complex_list"]
    for name, lines in entries.items():
        (root / f"lists/{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def flags(**options: object) -> list[object]:
    """Command-line words: flags(data_list="a.txt", n_jobs=1) -> ["--data-list", "a.txt", "--n-jobs", 1]."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


def data_options(root: Path) -> list[object]:
    return flags(data_dir=root, num_classes=4, device="cpu", num_workers=0)


def train_options(data: Path, out: Path, *more: object) -> list[object]:
    """Eight iterations of a small network; an option in `more` counts instead of the same one before it."""
    folders = flags(list_dir=data / "lists", pseudo_label_dir=data / "sal2gt", snapshot_dir=out)
    options = "--arch mini --restore-from none --batch-size 2 --input-size 40 --num-steps 8 --save-every 2"
    return [*data_options(data), *folders, *options.split(), "--log-every", 1, *more]


def read_mask(path: Path) -> np.ndarray:
    """The labels in a mask of the project, which is a PNG with VOC's palette."""
    with Image.open(path) as mask:
        assert mask.format == "PNG" and mask.mode == "P" and mask.getpalette() == palette().ravel().tolist()
        return np.array(mask)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_script(script: str, *args: object, cwd: Path = ROOT, status: int = 0, process: bool = False) -> Done:
    """Run a script of the project as a user does and check its exit status.

    In this process, for loading torch takes longer than most of the tests; with `process` in one of its own.
    """
    words = [script if script.startswith("-m ") else str(ROOT / script), *map(str, args)]
    if process:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=DEADLINE, check=False)
    else:
        done = _run_here(words, cwd)
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def _run_here(words: list[str], cwd: Path) -> Done:
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.chdir(cwd)
        try:
            call(*words)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Done(words, status, stdout.getvalue(), stderr.getvalue())


def error_line(script: str, *args: object, cwd: Path = ROOT, process: bool = False) -> str:
    """Run a script on a bad input: status 2 and one line on stderr."""
    return the_error(run_script(script, *args, cwd=cwd, status=2, process=process).stderr)


def the_error(stderr: str) -> str:
    """The last line of stderr, which is its only error, without a traceback."""
    lines = [line for line in stderr.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:] and "Traceback" not in stderr, stderr
    return errors[0]
