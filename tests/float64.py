"""Runs a script of the project in float64: `python tests/float64.py train.py ...`.

Training amplifies rounding. In float64, two ways of computing the same thing still agree to many digits after a few
iterations, on every CPU, while a real difference is as large as in float32.
"""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.core import device
from utils.core.cli import call
from utils.core.files import ROOT


def send(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    """As `device.send`, with images and class vectors in float64."""
    return tensor.to(where, torch.float64 if tensor.is_floating_point() else None)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    device.send = send
    script = ROOT / sys.argv[1]
    os.chdir(script.parent)
    call(str(script), *sys.argv[2:])
