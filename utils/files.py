"""Files that are either whole or absent, and the one kind of error a user is meant to read."""

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
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
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STAYS = "what is finished stays, the same command goes on from there"


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; what goes wrong becomes one line on stderr.

    Exit status 2 for a bad input or a full disk, 1 for memory that ran out or a process that was killed, 130 for
    Ctrl-C. Files are whole in any case, and a training goes on from its last saved state.
    """
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
        mend = _mend(error, said)
        if mend is None:
            raise  # a bug of ours, whose traceback is wanted
        _print_error(f"{mend} ({said.splitlines()[-1][:200]}); {STAYS}")
        raise SystemExit(1) from None
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        stays = f": make room; {STAYS}" if error.errno in NO_ROOM else ""
        _print_error(f"{name}{error.strerror or error}{stays}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None


def _mend(error: Exception, said: str) -> str | None:
    """What happened and what to do about it, None where it is no fault of the machine."""
    if isinstance(error, MemoryError):
        said = HOST_FULL  # Python's own says nothing
    if isinstance(error, EOFError | ConnectionError):
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


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` once the block has ended well.

    A killed run leaves the old file or none, never half a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name for each file: what a killed run leaves there is overwritten by the next.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, mode) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a disk that is full does not say where
        raise


def save_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON; NaN is refused, for JSON has none."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")


def save_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write one array as `.npy`."""
    with atomic_write(path) as file:
        np.save(file, array)


def save_image(path: str | os.PathLike, image: Image.Image) -> None:
    """Write a picture as PNG, with the texts of its `info`, or as JPEG, by the ending of `path`."""
    with atomic_write(path) as file:
        if Path(path).suffix.lower() == ".png":
            texts = PngInfo()
            for key, value in image.info.items():
                if isinstance(value, str):
                    texts.add_text(key, value)
            image.save(file, "PNG", pnginfo=texts)
        else:
            image.save(file, "JPEG", quality=92)


def read_array(path: str | os.PathLike, mend: str) -> np.ndarray:
    """Read one `.npy`; InputError, with the mend, where it is missing or damaged."""
    try:
        return np.load(path)
    except FileNotFoundError:
        raise InputError(f"{path} not found: {mend}") from None
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}): {mend}") from None


def claim_folder(
    folder: Path, made_by: dict, pattern: str, overwrite: bool = False, replaceable: Container[str] = ()
) -> None:
    """Note in `folder` what makes its files; what was made otherwise must not pass for finished work.

    Args:
        pattern: of the files that the note is about; those made otherwise are deleted.
        overwrite: whether that was asked for.
        replaceable: stems of files that may be deleted unasked, for the script makes them again.

    Raises:
        InputError: the folder holds other files that were made otherwise, and they are not to be overwritten.
    """
    note = folder / "made_by.json"
    try:
        earlier = json.loads(note.read_text())
    except (OSError, ValueError):
        earlier = {}
    if earlier == made_by:
        return
    files = list(folder.glob(pattern))
    lost = sorted(path.name for path in files if path.stem not in replaceable)
    if lost and not overwrite:
        changed = " and ".join(key for key in made_by if earlier.get(key) != made_by[key])
        origin = f"files made with other {changed}" if earlier else "files of another program"
        raise InputError(
            f"{folder} holds {origin} (first {lost[0]}): delete the folder or name another"
            f"{'' if replaceable else ', or give --overwrite'}"
        )
    for path in files:
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # a process of another shard has just written the same
        save_json(note, made_by)
