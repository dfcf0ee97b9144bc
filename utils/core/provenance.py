"""Records how a result was produced: options, versions, device and git revision."""

import json
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from utils.core import distributed
from utils.core.files import ROOT, save_json

PACKAGES = ("numpy", "opencv-python-headless", "pillow", "torchvision", "pydensecrf2")


def save_provenance(path: Path, options: dict, device: torch.device) -> None:
    """Write the provenance of a run, with all its options, as JSON."""
    record = {
        "command": shlex.join(sys.argv),
        "options": json.loads(json.dumps(options, default=str)),  # paths as text
        "versions": versions(),
        "device": device_name(device),
        "processes": distributed.world_size(),
        "git": git_revision(),
    }
    save_json(path, record)


def versions() -> dict[str, str | None]:
    """Versions of what affects results; None if not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return found | {"cuda": torch.version.cuda, "cudnn": str(cudnn) if cudnn else None}


def device_name(device: torch.device) -> str:
    """The device and its hardware: `cuda:0 (NVIDIA H100)`, `cpu (x86_64, 2 threads)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"


def git_revision() -> str | None:
    """The commit of the code, with the suffix `-dirty` if files have changed; None outside a git repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--match="]
        return subprocess.check_output(command, cwd=ROOT, stderr=subprocess.DEVNULL, text=True, timeout=10).strip()
    except (OSError, subprocess.SubprocessError):
        return None
