"""Threads for compiled kernels, which let go of the interpreter: as many as torch uses, and scratch memory for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

KEPT = 2**24  # doubles: larger scratch is given back at once

_own = threading.local()


def each(work: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Does the work of every item, on as many threads as torch uses (``torch.set_num_threads``).

    Items are taken in order by whichever thread is free: what an item gives must not depend on who does it.
    """
    workers = min(torch.get_num_threads(), len(items))
    if workers <= 1:
        for item in items:
            work(item)
        return
    left = iter(items)
    lock = threading.Lock()

    def run() -> None:
        while True:
            with lock:
                item = next(left, left)
            if item is left:
                return
            work(item)

    others = [_pool().submit(run) for _ in range(workers - 1)]
    run()
    for other in others:
        other.result()


def scratch(name: str, size: int) -> np.ndarray:
    """Uninitialised doubles that belong to the calling thread, kept between calls: fresh pages cost more than the work
    done on them."""
    if size > KEPT:
        return np.empty(size)
    held = _own.__dict__.setdefault("held", {})
    if name not in held or len(held[name]) < size:
        held[name] = np.empty(size)
    return held[name]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(64, "latentvars")
