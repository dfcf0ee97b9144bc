"""Starts the ablation: python -m benchmarks.ablation."""

from benchmarks.ablation.run import main
from utils.core.errors import run_script

if __name__ == "__main__":
    run_script(main)
