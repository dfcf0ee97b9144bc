"""What a result was made with: options, versions, device and the revision of the code, written beside it."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from utils.core import distributed
from utils.core.files import save_json

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy", "opencv-python-headless", "pillow", "torchvision", "pydensecrf2")


def save_provenance(path: Path, options: dict, device: torch.device) -> None:
    """Write run.json: how the run was started, and on what.

    Args:
        options: the command line's, defaults included.
    """
    save_json(
        path,
        {
            "command": shlex.join(sys.argv),
            "options": {key: _plain(value) for key, value in options.items()},
            "versions": versions(),
            "device": device_name(device),
            "processes": distributed.world_size(),
            "git": git_revision(),
        },
    )


def versions() -> dict[str, str | None]:
    """Of Python, torch and what else has a say in the numbers; None for what is not there."""
    found: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return found | {"cuda": torch.version.cuda, "cudnn": str(cudnn) if cudnn else None}


def device_name(device: torch.device) -> str:
    """The device and what it is: `cuda:0 (NVIDIA H100)`, `cpu (x86_64, 2 threads)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"


def git_revision() -> str | None:
    """The commit of the code, `-dirty` behind it where files have changed since; None outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--match="],
            cwd=ROOT, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _plain(value: object) -> object:
    """An option as JSON has it: paths as text, tuples as lists."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
