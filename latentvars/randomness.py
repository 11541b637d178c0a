"""Random numbers that repeat: every draw is a function of a seed and of what it is for, never of what ran before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from latentvars.errors import SettingError
from latentvars.kernels import _core


def derive(seed: int, *purpose: int) -> int:
    """A 63-bit seed for one purpose (step, batch, restart ...), independent of every other purpose.

    Whole numbers below 2**64 are mixed as numpy's ``SeedSequence`` mixes them, in a tenth of its time.

    Raises:
        SettingError: a negative seed.
    """
    if seed < 0:
        raise SettingError(f"seed={seed}", "a whole number of at least 0", "write seed=0")
    low, high = _core.seed_words(int(seed), *map(int, purpose))
    return (low << 31) ^ high


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
