"""Records how a result was produced: options, versions, device and git revision."""

import json
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from utils.core import distributed
from utils.core.files import ROOT, save_json

PACKAGES = ("numpy", "opencv-python-headless", "pillow", "torchvision", "pydensecrf2")


def save_provenance(path: Path, options: dict, device: torch.device) -> None:
    """Write the provenance of a run, with all its options, as JSON."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    versions |= {"cudnn": torch.backends.cudnn.version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    threads = f"{platform.machine()}, {torch.get_num_threads()} threads"
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    record = {
        "command": shlex.join(sys.argv),
        "options": json.loads(json.dumps(options, default=str)),  # paths as text
        "versions": versions,
        "device": f"{device} ({hardware})",
        "processes": distributed.world_size(),
        "git": git_revision(),
    }
    save_json(path, record)


def git_revision() -> str | None:
    """The commit of the code, with the suffix `-dirty` if files have changed; None outside a git repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--match="]
        return subprocess.check_output(command, cwd=ROOT, stderr=subprocess.DEVNULL, text=True, timeout=10).strip()
    except (OSError, subprocess.SubprocessError):
        return None
