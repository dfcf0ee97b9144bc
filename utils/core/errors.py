"""Errors for the user: one line on stderr instead of a traceback, where the user can act on it."""

import atexit
import errno
import os
import sys
from collections.abc import Callable

from tqdm import tqdm


class InputError(Exception):
    """Invalid input. The message is one line that names the file or option and gives a hint."""


KILLED = (
    "a data loading process was killed, possibly for lack of memory: use fewer processes (--num-workers; stage 2:"
    " DATALOADER.NUM_WORKERS)"
)
LESS = (
    "training needs less with a smaller --batch-size and a larger --iter-size (stage 2: SOLVER.BATCH_SIZE.TRAIN,"
    " SOLVER.ITER_SIZE)"
)
DEVICE_FULL, HOST_FULL, MANY_FILES = "out of memory", "allocate", "Too many open files"
# Faults of the machine, recognized by words in the messages of torch, numpy and the data loaders, and their hints.
FAULTS = {
    "DataLoader worker (pid": KILLED,
    "Pin memory thread exited": KILLED,
    DEVICE_FULL: f"out of GPU memory: {LESS}, and with --amp bf16",
    "gloo/transport": "another process of this run has failed; see its message",
    "NCCL": "another process of this run, or NCCL itself, has failed",
    HOST_FULL: f"out of memory: {LESS}, and with fewer data loading processes",
    MANY_FILES: "the limit of open files is too low: raise it (ulimit -n), or use fewer processes (--num-workers)",
}
SHARED_MEMORY_FULL = (
    "no space left in a place without a name, possibly /dev/shm: use --num-workers 0 (stage 2:"
    " DATALOADER.NUM_WORKERS=0; CRF: --n-jobs 1), or in a container docker run --shm-size=1g"
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
    code = status if isinstance(status, int) else int(status is not None)
    atexit.unregister(_end_process)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        code = code or 120  # as Python does
    os._exit(code)


def _report_errors(main: Callable[[], object]) -> None:
    try:
        main()
    except InputError as error:
        # The worker of a data loader wraps the error into a traceback, whose last line is the message.
        message = str(error).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")
        _exit(message, 2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if MANY_FILES in str(error):
            _exit(f"{FAULTS[MANY_FILES]}; {RERUN}", 1)
        if error.filename:
            space = f": free some space; {RERUN}" if error.errno in NO_SPACE else ""
            _exit(f"{error.filename}: {error.strerror or error}{space}", 2)
        if error.errno in NO_SPACE:
            _exit(f"{SHARED_MEMORY_FULL} ({error}); {RERUN}", 1)
        if not isinstance(error, ConnectionError):
            raise
        _exit(f"{KILLED} ({error}); {RERUN}", 1)
    except EOFError as error:  # like a lost connection, from a data loading process
        _exit(f"{KILLED} ({type(error).__name__}); {RERUN}", 1)
    except (RuntimeError, MemoryError) as error:
        # The message of Python's own MemoryError is empty.
        message = HOST_FULL if isinstance(error, MemoryError) else str(error).strip()
        hint = next((text for words, text in FAULTS.items() if words in message), None)
        if hint is None:
            raise
        _exit(f"{hint} ({message.splitlines()[-1][:200]}); {RERUN}", 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device is out of memory; torch has an error class for CUDA only."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in (DEVICE_FULL, HOST_FULL))


def _exit(message: str, status: int) -> None:
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()  # so that the message starts on a line of its own
    # With torchrun, each process prints a line. An error found by all is shown without a number by the first.
    rank = os.environ.get("RANK", "0")
    print(f"error{f' (process {rank})' if rank != '0' else ''}: {message}", file=sys.stderr)
    raise SystemExit(status) from None
