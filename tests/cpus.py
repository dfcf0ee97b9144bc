"""Runs the tests as other CPUs and other numbers of threads would, and prints one table.

    python tests/cpus.py                              every environment, the whole suite
    python tests/cpus.py --numerical oldest newest    the tests that compare numbers, in two of them

Other CPUs are imitated by limiting the instruction sets that torch (ATEN_CPU_CAPABILITY) and oneDNN
(ONEDNN_MAX_CPU_ISA) may use. Two columns show how close the comparisons came to their tolerances, as a share of
them: those with the reference numbers, whose tolerances come with the numbers (a pixel whose loss lies next to PND's
threshold takes up most of one), and those of two ways of computing the same thing, which should stay below 0.1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUMERICAL = ("reference", "reference_steps", "method", "networks", "step2", "crf", "distributed", "resume")
REFERENCE = re.compile(r"test_(reference|step2|crf\.py::test_published)")  # tests of the reference numbers
ENVIRONMENTS = {  # instruction sets of torch and oneDNN, None: all that this CPU has; threads
    "newest": (None, None, 1),
    "avx512": (None, "AVX512_CORE", 1),
    "avx2": ("avx2", "AVX2", 1),
    "avx2-sse41": ("avx2", "SSE41", 1),
    "oldest": ("default", "SSE41", 1),
    "2-threads": (None, None, 2),
    "4-threads": (None, None, 4),
}


def run(name: str, tests: list[str], jobs: int) -> tuple[str, ...]:
    """One run of the tests, and its row of the table; what pytest prints goes on to the terminal."""
    aten, onednn, threads = ENVIRONMENTS[name]
    limits = {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn}
    # MKL, and torch with it, otherwise uses no more threads than there are cores.
    variables = {"OMP_NUM_THREADS": str(threads), "MKL_DYNAMIC": "FALSE"} | {k: v for k, v in limits.items() if v}
    with tempfile.TemporaryDirectory() as folder:
        spreads = Path(folder, "spreads.jsonl")
        command = [sys.executable, "-m", "pytest", "-m", "not slow", "-n", str(jobs), "--dist", "loadfile", *tests]
        environment, start, last = os.environ | variables | {"MDBA_SPREADS": str(spreads)}, time.monotonic(), ""
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                last = line.strip() or last
        records = [json.loads(line) for line in spreads.read_text().splitlines()] if spreads.exists() else []
    counts = re.sub(r" in [\d.]+s.*", "", last) + (" (FAILED)" if process.returncode else "")
    shares = [closest([r for r in records if bool(REFERENCE.match(r["test"])) == published]) for published in (1, 0)]
    return name, f"{time.monotonic() - start:.0f}", counts, *shares


def closest(records: list[dict]) -> str:
    """The comparison whose difference is the largest share of what is allowed."""
    shares = [(r["difference"] / r["allowed"] if r["allowed"] else 0.0, r["test"], r["what"]) for r in records]
    share, test, what = max(shares, default=(0.0, "-", "-"))
    return f"{share:.2g} ({test.split('::')[-1]}, {what})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"environments, of {', '.join(ENVIRONMENTS)}")
    parser.add_argument("--numerical", action="store_true", help="only the tests that compare numbers")
    parser.add_argument("--jobs", type=int, default=2, help="test processes at a time (default: 2)")
    args = parser.parse_args()
    tests = [f"tests/test_{name}.py" for name in NUMERICAL] if args.numerical else []
    rows = [("environment", "seconds", "result", "of reference tolerance", "of two ways' tolerance")]
    for name in args.names or ENVIRONMENTS:
        print(f"\n=== {name}", flush=True)
        rows.append(run(name, tests, args.jobs))
    for row in rows:
        print("{:<16} {:>7}  {:<36} {:<60} {}".format(*row))
    raise SystemExit(any("FAILED" in row[2] for row in rows))


if __name__ == "__main__":
    main()
