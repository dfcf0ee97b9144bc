"""Runs the tests as other machines would, and prints one table.

    python tests/cpus.py                              every environment, the whole suite
    python tests/cpus.py --numerical oldest newest    the tests that compare numbers, in two of them

Other CPUs are imitated by limiting the instruction sets that torch (ATEN_CPU_CAPABILITY) and oneDNN
(ONEDNN_MAX_CPU_ISA) may use. Two columns show how close the comparisons came to their tolerances, as a share of
them: those with the reference numbers, whose tolerances come with the numbers (a pixel whose loss lies next to PND's
threshold takes up most of one), and those of two ways of computing the same thing, which should stay below 0.1.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NUMERICAL = ("reference", "reference_steps", "method", "networks", "step2", "crf", "distributed", "resume")
REFERENCE = re.compile(r"test_(reference|step2|crf\.py::test_published)")  # tests of the reference numbers
VENV = ROOT / ".venv-newest"


class Environment(NamedTuple):
    """What differs from the machine as it is."""

    aten: str | None = None
    onednn: str | None = None
    threads: int = 1
    busy: bool = False
    latest: bool = False  # the latest releases of all dependencies

    def variables(self) -> dict[str, str]:
        found = {"ATEN_CPU_CAPABILITY": self.aten, "ONEDNN_MAX_CPU_ISA": self.onednn}
        # MKL, and torch with it, otherwise uses no more threads than there are cores.
        threads = {"OMP_NUM_THREADS": str(self.threads), "MKL_DYNAMIC": "FALSE"}
        return {name: value for name, value in found.items() if value} | threads


ENVIRONMENTS = {
    "newest": Environment(),  # all that this CPU has
    "avx512": Environment(None, "AVX512_CORE"),
    "avx2": Environment("avx2", "AVX2"),
    "avx2-sse41": Environment("avx2", "SSE41"),
    "oldest": Environment("default", "SSE41"),
    "2-threads": Environment(threads=2),
    "4-threads": Environment(threads=4),
    "busy": Environment(busy=True),
    "latest-releases": Environment(latest=True),
}


class Result(NamedTuple):
    counts: str
    seconds: float
    reference: str  # the comparison closest to its tolerance, and the share of it
    two_ways: str


@contextlib.contextmanager
def busy_cores(busy: bool) -> Iterator[None]:
    """Another program on every core, which also ends if this process is killed."""
    command = [sys.executable, "-c", "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"]
    spinners = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)] if busy else []
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def latest_python() -> str:
    """The newest Python 3 that can be started by name."""
    for minor in range(20, 9, -1):
        found = shutil.which(f"python3.{minor}")
        # A version manager's shim may stand for a version that is not active.
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    return sys.executable


def latest_releases() -> str:
    """Python in an environment of the latest releases of what the requirements files name."""
    files = sorted(ROOT.glob("requirements*.txt"))
    lines = [line.partition("#")[0].strip() for file in files for line in file.read_text().splitlines()]
    names = sorted({re.split(r"[=<>~!; ]", line)[0] for line in lines if line} - {"pydensecrf2"})
    python = str(VENV / "bin/python")
    subprocess.run([latest_python(), "-m", "venv", "--clear", VENV], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", *names], check=True)
    return python


def run(environment: Environment, tests: list[str], jobs: int) -> Result:
    """One run of the tests; what pytest prints goes on to the terminal."""
    python = latest_releases() if environment.latest else sys.executable
    with tempfile.TemporaryDirectory() as folder, busy_cores(environment.busy):
        spreads = Path(folder) / "spreads.jsonl"
        command = [python, "-m", "pytest", "-m", "not slow", "-n", str(jobs), "--dist", "loadfile", *tests]
        variables = environment.variables() | {"MDBA_SPREADS": str(spreads)}
        start, last = time.monotonic(), ""
        with subprocess.Popen(
            command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                last = line.strip() or last
        records = [json.loads(line) for line in spreads.read_text().splitlines()] if spreads.exists() else []
    counts = re.sub(r" in [\d.]+s.*", "", last) + ("" if process.returncode == 0 else " (FAILED)")
    published = [record for record in records if REFERENCE.match(record["test"])]
    others = [record for record in records if not REFERENCE.match(record["test"])]
    return Result(counts, time.monotonic() - start, closest(published), closest(others))


def closest(records: list[dict]) -> str:
    """The comparison whose difference is the largest share of what is allowed."""
    shares = [(r["difference"] / r["allowed"] if r["allowed"] else 0.0, r) for r in records]
    share, record = max(shares, key=lambda item: item[0], default=(0.0, None))
    return f"{share:.2g} ({record['test'].split('::')[-1]}, {record['what']})" if record else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(ENVIRONMENTS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"environments (default: all): {names}")
    parser.add_argument("--numerical", action="store_true", help="only the tests that compare numbers")
    parser.add_argument("--jobs", type=int, default=2, help="test processes at a time (default: 2)")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in ENVIRONMENTS]:
        parser.error(f"no environment is called {unknown[0]}: {names}")
    tests = [f"tests/test_{name}.py" for name in NUMERICAL] if args.numerical else []
    results = {}
    for name in args.names or ENVIRONMENTS:
        print(f"\n=== {name}: {ENVIRONMENTS[name]}", flush=True)
        results[name] = run(ENVIRONMENTS[name], tests, args.jobs)
    row = "{:<16} {:>7}  {:<36} {:<24} {}"
    print("\n" + row.format("environment", "seconds", "result", "of reference tolerance", "of two ways' tolerance"))
    for name, result in results.items():
        share = result.reference.partition(" ")[0]
        print(row.format(name, f"{result.seconds:.0f}", result.counts, share, result.two_ways))
    raise SystemExit(any("FAILED" in result.counts for result in results.values()))


if __name__ == "__main__":
    main()
