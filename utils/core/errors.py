"""Errors for the user: one line on stderr instead of a traceback, where the user can act on it."""

import atexit
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType

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
DEVICE_FULL, HOST_FULL = "out of memory", "allocate"
# Faults of the machine, recognized by words in the messages of torch, numpy and the data loaders, and their hints.
FAULTS = {
    "DataLoader worker (pid": KILLED,
    "Pin memory thread exited": KILLED,
    DEVICE_FULL: f"out of GPU memory: {LESS}, and with --amp bf16",
    "gloo/transport": "another process of this run has failed; see its message",
    "NCCL": "another process of this run, or NCCL itself, has failed",
    HOST_FULL: f"out of memory: {LESS}, and with fewer data loading processes",
}
LOST_CONNECTION = (EOFError, ConnectionError)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# With a file name, the user can act on these.
FILE_ERRORS = (
    *NO_SPACE,
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.EIO,
)
RERUN = "finished files are kept; rerun the command to resume"


def run_script(main: Callable[[], object]) -> None:
    """Run the `main` function of a script and report errors that the user can act on as one line on stderr.

    The exit status is 2 for invalid input and file errors, 1 for lack of memory and killed processes, and 130 for
    Ctrl-C. All other errors keep their traceback.
    """
    status: object = 1
    try:
        _report_errors(main)
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
    pthread_exit, at which C++ aborts the process: "terminate called without an active exception". Destroying the
    process group does not end its threads while DistributedDataParallel or torch itself refers to it.
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
    hide_lost_connections()
    try:
        main()
    except InputError as error:
        # The worker of a data loader wraps the error into a traceback, whose last line is the message.
        message = str(error).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")
        _print_error(message)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except (RuntimeError, MemoryError, *LOST_CONNECTION) as error:
        if hasattr(signal, "SIGCHLD"):
            # Otherwise torch would raise again for each further data loading process that ends.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        message = str(error).strip() or type(error).__name__
        hint = _hint(error, message)
        if hint is None:
            raise
        _print_error(f"{hint} ({message.splitlines()[-1][:200]}); {RERUN}")
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in FILE_ERRORS or not error.filename:
            raise
        space = f": free some space; {RERUN}" if error.errno in NO_SPACE else ""
        _print_error(f"{error.filename}: {error.strerror or error}{space}")
        raise SystemExit(2) from None


def hide_lost_connections() -> None:
    """Print no traceback of what the main thread reports anyway when a data loading process is killed.

    Threads of multiprocessing meet connections that another process has closed, and `multiprocessing.resource_sharer`
    calls `sys.excepthook` itself. Torch raises at a signal, also in a generator that is just being closed, where
    Python can only print the error.
    """
    if getattr(sys.excepthook, "hides_lost_connections", False):
        return
    shown, shown_in_thread, shown_unraisable = sys.excepthook, threading.excepthook, sys.unraisablehook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, LOST_CONNECTION):
            shown(kind, error, trace)

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, LOST_CONNECTION):
            shown_in_thread(args)

    def unraisable_hook(args: "sys.UnraisableHookArgs") -> None:
        if not isinstance(args.exc_value, Exception) or _hint(args.exc_value, str(args.exc_value)) is None:
            shown_unraisable(args)

    setattr(hook, "hides_lost_connections", True)  # noqa: B010 (functions declare no attributes)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hook, thread_hook, unraisable_hook


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device is out of memory; torch has an error class for CUDA only."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in (DEVICE_FULL, HOST_FULL))


def _hint(error: Exception, message: str) -> str | None:
    """The fault of the machine and what to do about it; None for other errors."""
    if isinstance(error, MemoryError):
        message = HOST_FULL  # the message of Python's own MemoryError is empty
    if isinstance(error, LOST_CONNECTION):
        return KILLED
    return next((text for word, text in FAULTS.items() if word in message), None)


def _print_error(message: str) -> None:
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()  # so that the message starts on a line of its own
    # With torchrun, each process prints a line. An error found by all is shown without a number by the first.
    rank = os.environ.get("RANK", "0")
    print(f"error{f' (process {rank})' if rank != '0' else ''}: {message}", file=sys.stderr)
