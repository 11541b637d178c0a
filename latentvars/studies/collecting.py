"""Numbered pieces of work, collected until they are done or Ctrl-C ends them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from tqdm import tqdm

from latentvars.studies.parallel import spread


class Numbered(Protocol):
    """What a piece of work gives: its number, and whether Ctrl-C cut it off."""

    @property
    def number(self) -> int: ...

    @property
    def interrupted(self) -> bool: ...


Item = TypeVar("Item", bound=Numbered)


def collected(
    work: Callable[[int], Item], size: int, workers: int | None, progress: bool | None, unit: str
) -> tuple[list[Item], bool]:
    """What ``work`` makes of 0 … size − 1, in the order of the numbers, and whether Ctrl-C ended it early.

    Args:
        work: of a number; in another process it has to arrive there.
        size: of the work.
        workers: processes, as :func:`latentvars.studies.parallel.spread`.
        progress: show a bar; None: where standard error is a terminal.
        unit: of the bar.
    """
    done: list[Item] = []
    hidden = None if progress is None else not progress
    try:
        with tqdm(total=size, disable=hidden, unit=unit) as bar:
            for found in spread(partial(_some, work), range(size), workers):
                done += [item for item in found if not item.interrupted]
                bar.update(len(found))
                if any(item.interrupted for item in found):
                    return _ordered(done), True
    except KeyboardInterrupt:
        if not done:
            raise
        return _ordered(done), True
    return _ordered(done), False


def _ordered(done: list[Item]) -> list[Item]:
    return sorted(done, key=lambda item: item.number)


def _some(work: Callable[[int], Item], numbers: Sequence[int]) -> list[Item]:
    """Some of it, in this process."""
    found = []
    for number in numbers:
        found.append(work(number))
        if found[-1].interrupted:
            break
    return found
