"""The parts that run the tests or another benchmark."""

import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter

from benchmarks import crf as crf_benchmark
from benchmarks import evaluate as evaluation_benchmark
from benchmarks import loading as loading_benchmark
from benchmarks.gpu_parts.preset import Context
from utils.core.cli import CORES
from utils.core.files import ROOT


def tests(context: Context) -> None:
    """The tests marked `cuda`; on a CPU, what those of tests/test_cuda.py compute, on the CPU."""
    report = context.record.path.with_suffix(".xml")
    report.unlink(missing_ok=True)
    gpu = context.device.type == "cuda"
    which = ["-m", "cuda"] if gpu else ["-m", "not cuda and not slow", "tests/test_cuda.py"]
    if gpu and importlib.util.find_spec("xdist"):
        which += ["-n", "4"]
    options = ["-p", "no:cacheprovider", "--continue-on-collection-errors", f"--junitxml={report}"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *which], cwd=ROOT, check=False)
    results: Counter[str] = Counter()
    failed = []
    for case in ET.parse(report).iter("testcase"):
        result = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        results[result] += 1
        if result in ("failure", "error"):
            failed.append(f"{case.get('classname')}::{case.get('name')}")
    context.record.update(results=dict(results), failed=failed, exit_status=done.returncode)


def loading(context: Context) -> None:
    """All loaders with one process per core, and the copies to the device."""
    text = f"{context.preset.loading} --workers {context.workers}"
    context.record.update(cores=CORES, **loading_benchmark.main(context.options(text)))


def evaluation(context: Context) -> None:
    """evaluate.py against a loop over the images."""
    text = f"{context.preset.evaluation} --arch {context.arch}"
    context.record.update(**evaluation_benchmark.main(context.options(text)))


def crf(context: Context) -> None:
    """The CRF against pydensecrf, or the torch backend on the CPU."""
    rows = crf_benchmark.main(context.options(context.preset.crf))
    size = context.preset.crf.split("--size ")[1]
    context.record.update(
        rows=[{"classes": n, **row} for n, found in rows.items() for row in found], size=size
    )
