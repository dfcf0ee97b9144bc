"""Runs calls in background threads, such as writing results while the network computes the next ones."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """A thread pool with bounded memory, used as a context manager that waits for all calls.

    An exception in a call is raised by a later call or at the end of the block. After an exception, in a call or in
    the block, calls that have not started are dropped.

    Args:
        threads: number of threads.
        max_pending: number of calls that may wait or run; one more blocks until the first is done.
    """

    def __init__(self, threads: int = 2, max_pending: int = 8) -> None:
        self.executor, self.max_pending = ThreadPoolExecutor(threads), max_pending
        self.pending: deque[Future] = deque()

    def __enter__(self) -> "Background":
        return self

    def __call__(self, function: Callable, *args: object) -> None:
        """Run `function(*args)` in the background."""
        while self.pending and (len(self.pending) >= self.max_pending or self.pending[0].done()):
            self.pending.popleft().result()
        self.pending.append(self.executor.submit(function, *args))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            while kind is None and self.pending:
                self.pending.popleft().result()
        finally:
            self.executor.shutdown(cancel_futures=True)
