"""The number of threads of torch, which is a setting of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# two that set it at once would put back each other's
_SETTING = threading.RLock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread; the number of threads is put back."""
    with _SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
