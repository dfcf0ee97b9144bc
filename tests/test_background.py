"""Writing beside the main thread: all of it is done, errors come out, memory is bounded."""

import threading
from collections.abc import Callable

import pytest

from utils.core.background import Background


def test_everything_is_done_at_the_end() -> None:
    done = []
    with Background(threads=1, ahead=3) as later:
        for k in range(20):
            later(done.append, k)
    assert done == list(range(20))


def test_no_more_than_asked_for_wait() -> None:
    gate, begun = threading.Event(), []

    def work() -> None:
        begun.append(1)
        gate.wait(5)

    with Background(threads=1, ahead=2) as later:
        later(work)
        later(work)
        third = threading.Thread(target=later, args=(work,))
        third.start()
        third.join(0.1)
        assert third.is_alive() and len(begun) == 1  # it waits for the first
        gate.set()
        third.join(5)
    assert len(begun) == 3


def fail() -> None:
    raise OSError("disk full")


def call_all(functions: list[Callable[[], object]], ahead: int = 8) -> None:
    with Background(threads=1, ahead=ahead) as later:
        for function in functions:
            later(function)


def test_an_error_comes_out_and_ends_the_work() -> None:
    done = []
    with pytest.raises(OSError, match="disk full"):
        call_all([fail] + [lambda: done.append(1)] * 100, ahead=2)
    assert len(done) < 100
    with pytest.raises(OSError, match="disk full"):
        call_all([lambda: done.append(1), fail])  # the last call's, too


def test_an_error_in_the_block_drops_what_has_not_begun() -> None:
    gate, done = threading.Event(), []

    def stopped() -> None:
        with Background(threads=1) as later:
            later(gate.wait, 5)
            later(done.append, 1)
            threading.Timer(0.2, gate.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not done
