"""Work beside the main thread: writing results while the network computes the next ones."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """Runs calls in threads of its own, in a `with` block that ends when all are done.

    At most `ahead` calls wait or run, so that memory stays bounded however slow they are; one more waits for the
    first. An error in a call is raised by a later one, or at the end of the block, and ends it; so does one in the
    block. Calls that have not begun by then are dropped.
    """

    def __init__(self, threads: int = 2, ahead: int = 8) -> None:
        self.executor, self.ahead = ThreadPoolExecutor(threads), ahead
        self.pending: deque[Future] = deque()

    def __enter__(self) -> "Background":
        return self

    def __call__(self, function: Callable, *args: object) -> None:
        """Have `function(*args)` run."""
        while self.pending and (len(self.pending) >= self.ahead or self.pending[0].done()):
            self.pending.popleft().result()
        self.pending.append(self.executor.submit(function, *args))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            while kind is None and self.pending:
                self.pending.popleft().result()
        finally:
            self.executor.shutdown(cancel_futures=True)
