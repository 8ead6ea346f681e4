"""Random numbers for procedural scenes; they are equal on every machine and numpy release.

Only ``Generator.random`` is used (53 bits of PCG64, whose bit stream numpy keeps stable), because
the algorithms behind ``integers``, ``shuffle`` and ``normal`` may change.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draw:
    """One stream of random numbers and choices.

    Args:
        key: name of the stream; equal names give equal numbers.
    """

    def __init__(self, key: str) -> None:
        digest = hashlib.sha256(key.encode()).digest()
        self.generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))

    def uniform(self, low: float | int = 0.0, high: float | int = 1.0) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * float(self.generator.random())

    def integer(self, low: int, high: int) -> int:
        """Return a whole number in [low, high], both ends included."""
        return low + int(self.uniform() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.uniform() < probability

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return options[int(self.uniform() * len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Return the options in random order."""
        keys = [self.uniform() for _ in options]
        return [options[i] for i in sorted(range(len(options)), key=keys.__getitem__)]

    def noise(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return nearly normal float32 numbers of this shape, with mean 0 and standard deviation 1.

        They are sums of four uniform numbers.
        """
        total = self.generator.random(shape, dtype=np.float32)
        for _ in range(3):
            total += self.generator.random(shape, dtype=np.float32)
        return (total - np.float32(2)) * np.float32(3**0.5)
