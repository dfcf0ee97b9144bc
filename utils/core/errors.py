"""The one kind of error a user is meant to read, and how a script ends with it."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm


class InputError(Exception):
    """Something the user gave is missing or wrong. The text is one line: it names the file and the mend."""


KILLED = (
    "a loading process was killed, perhaps for memory: try fewer of them (--num-workers; stage 2:"
    " DATALOADER.NUM_WORKERS)"
)
LESS = (
    "a training needs less with a smaller --batch-size and a larger --iter-size (stage 2: SOLVER.BATCH_SIZE.TRAIN,"
    " SOLVER.ITER_SIZE)"
)
DEVICE_FULL, HOST_FULL = "out of memory", "allocate"
# What the machine refuses, by a word of torch's, numpy's or the loaders' message, and what mends it.
FAULTS = {
    "DataLoader worker (pid": KILLED,
    "Pin memory thread exited": KILLED,
    DEVICE_FULL: f"out of GPU memory: {LESS}, and with --amp bf16",
    "gloo/transport": "another of the processes has ended; what it says is the reason",
    "NCCL": "another of the processes has ended, or NCCL itself failed",
    HOST_FULL: f"out of memory: {LESS}, and with fewer loading processes",
}
LOST_CONNECTION = (EOFError, ConnectionError)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STAYS = "what is finished stays, the same command goes on from there"


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; what goes wrong becomes one line on stderr.

    Exit status 2 for a bad input or a full disk, 1 for memory that ran out or a process that was killed, 130 for
    Ctrl-C. Files are whole in any case, and a training goes on from its last saved state.
    """
    hide_lost_connections()
    try:
        main()
    except InputError as error:
        # A data loader's worker wraps the error in its traceback; the message is the last line.
        message = str(error).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.InputError: ")
        _print_error(message)
        raise SystemExit(2) from None
    except (RuntimeError, MemoryError, EOFError, ConnectionError) as error:
        if hasattr(signal, "SIGCHLD"):
            # Of a killed loading process torch would tell again at every other's end, from wherever we are.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        said = str(error).strip() or type(error).__name__
        hint = _hint(error, said)
        if hint is None:
            raise  # a bug of ours, whose traceback is wanted
        _print_error(f"{hint} ({said.splitlines()[-1][:200]}); {STAYS}")
        raise SystemExit(1) from None
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        stays = f": make room; {STAYS}" if error.errno in NO_ROOM else ""
        _print_error(f"{name}{error.strerror or error}{stays}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None


def hide_lost_connections() -> None:
    """Let no thread of this process print a traceback about a connection that another process has closed.

    That is what multiprocessing's threads meet when a data loading process is killed while it hands over a batch; the
    main thread reports the cause. Its `resource_sharer` calls `sys.excepthook` from a thread of its own.
    """
    if getattr(sys.excepthook, "hides_lost_connections", False):
        return
    shown, shown_in_thread = sys.excepthook, threading.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, LOST_CONNECTION):
            shown(kind, error, trace)

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, LOST_CONNECTION):
            shown_in_thread(args)

    hook.hides_lost_connections = True
    sys.excepthook, threading.excepthook = hook, thread_hook


def _hint(error: Exception, said: str) -> str | None:
    """What happened and what to do about it, None where it is no fault of the machine."""
    if isinstance(error, MemoryError):
        said = HOST_FULL  # Python's own says nothing
    if isinstance(error, LOST_CONNECTION):
        return KILLED  # while it was handing over a batch
    return next((text for word, text in FAULTS.items() if word in said), None)


def is_memory(error: BaseException) -> bool:
    """Whether the memory ran out, the host's or the device's: torch has an error of its own for CUDA alone."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in (DEVICE_FULL, HOST_FULL))


def _print_error(message: str) -> None:
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()  # else the line would stand behind an open bar
    # With torchrun each process has a line; what all of them find is best read in the first one's.
    process = os.environ.get("RANK", "0")
    print(f"error{f' (process {process})' if process != '0' else ''}: {message}", file=sys.stderr)
