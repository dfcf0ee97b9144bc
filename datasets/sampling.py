"""Seeded sampling: every random draw is a function of (seed, purpose, position), never of a worker's state."""

import zlib
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


def generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """The random generator of one purpose at one position (an epoch, an iteration, an image of the stream)."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *position])


class Stream(Sampler[list[tuple[int, int]]]):
    """Endless batches over a list of `length` images, shuffled anew each time it runs out.

    A batch is a list of (position, index): the image's place in the stream, which seeds its augmentation,
    and its place in the list. All batches are full; one may straddle two shuffles.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        purpose: str,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Args:
        batch_size: of a whole batch.
        start: the first batch's number, for a run that goes on.
        part: (k, n) yields the k-th of n equal parts of each batch, k from 0 on.
        """
        self.length, self.batch_size, self.seed, self.purpose = length, batch_size, seed, purpose
        self.start = start
        share = batch_size // part[1]
        self.slice = slice(part[0] * share, (part[0] + 1) * share)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order, batch = -1, None, []
        position = self.start * self.batch_size
        while True:
            if position // self.length != epoch:
                epoch = position // self.length
                order = generator(self.seed, f"order of {self.purpose}", epoch).permutation(self.length)
            batch.append((position, int(order[position % self.length])))
            position += 1
            if len(batch) == self.batch_size:
                yield batch[self.slice]
                batch = []
