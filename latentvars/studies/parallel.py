"""Independent pieces of work, in one process or in several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import joblib
import torch

from latentvars.errors import SettingError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

CHUNKS_PER_WORKER = 8
LONGEST_CHUNK = 10
TRIED_SECONDS = 5.0
LONG_SECONDS = 30.0


def worker_count(workers: int | None, pieces: int) -> int:
    """Processes to use: all cores at most, never more than there are pieces of work."""
    if workers is not None and workers < 1:
        raise SettingError(f"workers={workers}", "at least 1, or None for all cores", "write workers=1")
    return max(1, min(workers or joblib.cpu_count(), pieces))


def spread(
    function: Callable[[Sequence[Piece]], Result], pieces: Sequence[Piece], workers: int | None = None
) -> Iterator[Result]:
    """``function`` of chunks of ``pieces``, in the order in which they are done.

    With several workers processes are started, in which ``function`` has to arrive: what it holds is pickled (by value
    where it was defined in ``__main__``); each uses one thread.

    Args:
        function: of a chunk of pieces.
        pieces: the work.
        workers: processes; 1: everything runs here; None: here too, until it is seen to take so long that a process
            for each core, which takes some seconds to start, is worth it.
    """
    count = worker_count(workers, len(pieces))
    began, done = time.monotonic(), 0
    while done < len(pieces) and (count == 1 or (workers is None and not _is_long(began, done, len(pieces)))):
        yield function(pieces[done : done + 1])
        done += 1
    if done < len(pieces):
        yield from _in_processes(function, pieces[done:], count)


def _is_long(began: float, done: int, total: int) -> bool:
    seconds = time.monotonic() - began
    return seconds > TRIED_SECONDS and seconds / max(1, done) * (total - done) > LONG_SECONDS


def _in_processes(
    function: Callable[[Sequence[Piece]], Result], pieces: Sequence[Piece], count: int
) -> Iterator[Result]:
    size = max(1, min(LONGEST_CHUNK, len(pieces) // (CHUNKS_PER_WORKER * count)))
    chunks = [pieces[first : first + size] for first in range(0, len(pieces), size)]
    with joblib.parallel_config(backend="loky", n_jobs=count, inner_max_num_threads=1):
        parallel: Any = joblib.Parallel(return_as="generator_unordered")
        yield from parallel(joblib.delayed(_alone)(function, chunk) for chunk in chunks)


def _alone(function: Callable[[Any], Any], chunk: Any) -> Any:
    torch.set_num_threads(1)
    return function(chunk)
