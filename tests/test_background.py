"""Writing beside the main thread: all of it is done, errors come out, memory is bounded."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from utils.core.background import Background


def test_everything_is_done_at_the_end() -> None:
    done = []
    with Background(threads=1, max_pending=3) as later:
        for k in range(20):
            later(done.append, k)
    assert done == list(range(20))


def test_no_more_than_asked_for_wait() -> None:
    gate, begun, called = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        gate.wait()

    with Background(threads=1, max_pending=2) as later:

        def call() -> None:
            for n in range(3):
                later(work)
                called.append(n)

        caller = threading.Thread(target=call)
        caller.start()
        begun.wait()
        while len(called) < 2:
            time.sleep(0.001)
        caller.join(0.05)  # time for the third call to return, if it did not wait for the first
        assert called == [0, 1] and len(later.pending) <= 2
        gate.set()
        caller.join()
    assert called == [0, 1, 2]


def fail() -> None:
    raise OSError("disk full")


def call_all(functions: list[Callable[[], object]], max_pending: int = 8) -> None:
    with Background(threads=1, max_pending=max_pending) as later:
        for function in functions:
            later(function)


def test_an_error_comes_out_and_ends_the_work() -> None:
    done = []
    with pytest.raises(OSError, match="disk full"):
        call_all([fail] + [lambda: done.append(1)] * 100, max_pending=2)
    assert len(done) < 100
    with pytest.raises(OSError, match="disk full"):
        call_all([lambda: done.append(1), fail])  # the last call's, too


def test_an_error_in_the_block_drops_what_has_not_begun() -> None:
    gate, done = threading.Event(), []

    def open_gate(waiting: Future) -> None:
        while not waiting.cancelled():
            time.sleep(0.001)
        gate.set()

    def stopped() -> None:
        with Background(threads=1) as later:
            later(gate.wait)
            later(done.append, 1)
            threading.Thread(target=open_gate, args=(later.pending[1],)).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not done
