"""The surroundings in which a user's Pyro code runs: precision, validation, and a parameter store of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch


@contextmanager
def surroundings(dtype: torch.dtype, *, validate: bool = False) -> Iterator[None]:
    """Run Pyro code with ``dtype`` as the default, with or without validation; everything is put back afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with pyro.validation_enabled(validate):
            yield
    finally:
        torch.set_default_dtype(before)
