"""Random numbers that repeat: every draw is a function of a seed and of what it is for, never of what ran before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from latentvars.errors import SettingError
from latentvars.kernels import _core


def derive(seed: int, *purpose: int) -> int:
    """A 63-bit seed for one purpose (step, batch, restart ...), independent of every other purpose.

    Whole numbers are mixed as numpy's ``SeedSequence`` mixes them, in a tenth of its time.

    Raises:
        SettingError: a negative seed.
    """
    numbers = (int(seed), *map(int, purpose))
    if min(numbers) < 0:
        raise SettingError(f"seed={min(numbers)}", "a whole number of at least 0", "write seed=0")
    if max(numbers) >> 64:
        numbers = tuple(word for number in numbers for word in _words(number))
    low, high = _core.seed_words(*numbers)
    return (low << 31) ^ high


def _words(number: int) -> list[int]:
    """A number of any size as numbers of 32 bits, the lowest first; 0 is one of them."""
    return [(number >> shift) & 0xFFFFFFFF for shift in range(0, max(number.bit_length(), 1), 32)]


def generator(seed: int, *purpose: int) -> torch.Generator:
    """A private torch generator for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: int) -> Iterator[None]:
    """Lend torch's global generator, from which Pyro's distributions draw, for one purpose; its state is given back."""
    lent = torch.default_generator  # torch.manual_seed would also visit every other device, at length
    state = lent.get_state()
    try:
        lent.manual_seed(derive(seed, *purpose))
        yield
    finally:
        lent.set_state(state)
