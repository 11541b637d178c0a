"""Where contributions are added up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Word:
    """What a process says beside its contribution, and what all have said together.

    Attributes:
        interrupted: whether it (any of them) was asked to end.
        seconds: how long it (they, on average) has been running.
    """

    interrupted: bool = False
    seconds: float = 0.0


class Backend(Protocol):
    """The processes of a run, as each of them sees it. What one of them does all do, in the same order."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    @property
    def spreads_starts(self) -> bool:
        """Whether every process has all rows and some of the starts, rather than some of the rows."""
        ...

    def joined(self) -> Backend:
        """The processes, once they have met; a backend that needs no meeting is its own."""
        ...

    def sum(self, work: Callable[[], Any], say: Callable[[], Word]) -> tuple[Any, Word]:
        """The sum of what ``work`` gives in every process, and of what they say after it.

        Raises:
            ProcessError: ``work`` failed in another process, or one of them is gone; its own error where it fails here.
        """
        ...

    def together(self, work: Callable[[], T]) -> T:
        """``work`` of this process, once all have done theirs; errors as :meth:`sum`."""
        ...

    def gather(self, value: T) -> list[T]:
        """What each process has, in their order."""
        ...


@dataclass(frozen=True)
class Local:
    """One process: the total is the sum."""

    rank: int = 0
    size: int = 1
    spreads_starts: bool = False

    def joined(self) -> Local:
        return self

    def sum(self, work: Callable[[], Any], say: Callable[[], Word]) -> tuple[Any, Word]:
        found = work()
        return found, say()

    def together(self, work: Callable[[], T]) -> T:
        return work()

    def gather(self, value: T) -> list[T]:
        return [value]


def first(backend: Backend, value: T) -> T:
    """What the first process has, in all of them."""
    return value if backend.size == 1 else backend.gather(value if backend.rank == 0 else None)[0]  # type: ignore[return-value]
