"""Errors for the user: one line on stderr instead of a traceback, where the user can act on it."""

import atexit
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm


class InputError(Exception):
    """Invalid input. The message is one line that names the file or option and gives a hint."""


def error_reason(error: Exception) -> str:
    """An error's message on one line, or its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


def import_optional(name: str, hint: str) -> Any:
    """Import a package that can be left out; `hint` ends the message if it is missing."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # compiled parts for another version of torch or numpy raise any exception
        raise InputError(f"the package {name} cannot be imported ({error_reason(error)}): {hint}") from None


LESS = (
    "training needs less with a smaller --batch-size and a larger --iter-size (stage 2: SOLVER.BATCH_SIZE.TRAIN,"
    " SOLVER.ITER_SIZE)"
)
MEMORY = ("out of memory", "allocate", "MemoryError")  # of a GPU, of numpy and torch on a CPU, of Python
MANY_FILES = "Too many open files"
DISK_FULL = ("No space left", "quota exceeded", "File too large")
# Faults of the machine: words in messages of the system, torch, numpy and the data loaders, and the hint.
FAULTS = (
    (
        ("DataLoader worker (pid", "Pin memory thread exited", "EOFError", "Connection re"),
        "a data loading process was killed, possibly for lack of memory: use fewer (--num-workers; stage 2:"
        " DATALOADER.NUM_WORKERS)",
    ),
    (MEMORY[:1], f"out of GPU memory: {LESS}, and with --amp bf16"),
    (MEMORY, f"out of memory: {LESS}, and with fewer data loading processes"),
    (("gloo/transport", "NCCL"), "another process of this run, or NCCL itself, has failed; see its message"),
    ((MANY_FILES,), "the limit of open files is too low: raise it (ulimit -n), or use fewer --num-workers"),
    (
        DISK_FULL,
        "no space left in a place without a name, possibly /dev/shm: use --num-workers 0 (stage 2:"
        " DATALOADER.NUM_WORKERS=0; CRF: --n-jobs 1), or in a container docker run --shm-size=1g",
    ),
)
RERUN = "finished files are kept; rerun the command to resume"


def run_script(main: Callable[[], object]) -> None:
    """Run the `main` function of a script and report errors that the user can act on as one line on stderr.

    The exit status is 2 for invalid input and errors of files, 1 for lack of memory and killed processes, and 130 for
    Ctrl-C. All other errors keep their traceback.
    """
    status: object = 1
    try:
        # Twice: at the signal of a killed data loading process, torch raises wherever Python is, also in here.
        _report_errors(lambda: _report_errors(main))
        status = 0
    except SystemExit as stop:
        status = stop.code
        raise
    finally:
        if "TORCHELASTIC_RUN_ID" in os.environ:  # set by torchrun
            atexit.register(_end_process, status)


def _end_process(status: object) -> None:
    """End this process, after the other exit functions, without finalizing the interpreter.

    A thread of gloo needs the GIL to release the tensor of a collective operation, some time after the main thread
    has received the result. If it waits for the GIL when finalization begins, Python (before 3.14) ends it with
    pthread_exit, at which C++ aborts the process: "terminate called without an active exception".
    """
    atexit.unregister(_end_process)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # as of a closed pipe
            stream.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def _report_errors(main: Callable[[], object]) -> None:
    try:
        main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        message, status = _explain(error)
        if not message:
            raise
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()  # so that the message starts on a line of its own
        # With torchrun, each process prints a line. An error found by all is shown without a number by the first.
        rank = os.environ.get("RANK", "0")
        print(f"error{f' (process {rank})' if rank != '0' else ''}: {message}", file=sys.stderr)
        raise SystemExit(status) from None


def _explain(error: Exception) -> tuple[str, int]:
    """One line for the user and the exit status; no line for an error that the user cannot act on."""
    message = str(error).strip() or type(error).__name__
    last = message.splitlines()[-1]
    if isinstance(error, InputError):
        # The worker of a data loader wraps the error into a traceback, whose last line is the message.
        return last.removeprefix(f"{InputError.__module__}.InputError: "), 2
    if isinstance(error, OSError) and error.filename and MANY_FILES not in message:
        space = f": free some space; {RERUN}" if any(text in message for text in DISK_FULL) else ""
        return f"{error.filename}: {error.strerror or error}{space}", 2
    if isinstance(error, OSError | RuntimeError | MemoryError | EOFError):
        for texts, hint in FAULTS:
            if any(text in message for text in texts):
                return f"{hint} ({last[:200]}); {RERUN}", 1
    return "", 1


@contextlib.contextmanager
def memory_hint(message: str) -> Iterator[None]:
    """Raise InputError with the message if the host or the device runs out of memory in the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch has an error class for CUDA only
        if isinstance(error, MemoryError) or any(text in str(error) for text in MEMORY):
            raise InputError(message) from None
        raise
