"""Seeded sampling: every random draw is a function of (seed, purpose, position), never of a worker's state."""

import zlib
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


def generator(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """A generator for one purpose at one position, such as an epoch, an iteration or a sample number."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *position])


class InfiniteBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches over a data set of `length`, which is reshuffled each time it is exhausted.

    A batch is a list of (position, index): the sample's number since the start of training, which seeds its
    augmentation, and its index in the data set. All batches are full; a batch may span two epochs. `start` is the
    number of the first batch; `part` (k, n) yields the k-th (0-based) of n equal parts of each.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, purpose: str, start: int = 0, part: tuple[int, int] = (0, 1)
    ) -> None:
        self.length, self.batch_size, self.seed, self.purpose = length, batch_size, seed, purpose
        self.start = start
        part_size = batch_size // part[1]
        self.slice = slice(part[0] * part_size, (part[0] + 1) * part_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        samples = self._samples()
        while True:
            yield [next(samples) for _ in range(self.batch_size)][self.slice]

    def _samples(self) -> Iterator[tuple[int, int]]:
        """(position, index) pairs from batch `start` on."""
        epoch, offset = divmod(self.start * self.batch_size, self.length)
        while True:
            order = generator(self.seed, f"order of {self.purpose}", epoch).permutation(self.length)
            for i in range(offset, self.length):
                yield epoch * self.length + i, int(order[i])
            epoch, offset = epoch + 1, 0
