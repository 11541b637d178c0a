"""When a run ends: rules over the history of the objective, and the message for each end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from latentvars.errors import SettingError


class Status(Enum):
    """How a run ended; the value is the message."""

    CONVERGED = "converged: the objective per row changed by less than the tolerance"
    PLATEAU = "converged: the smoothed objective per row stopped improving"
    LIMIT = "stopped at the limit of passes before it converged"
    TIME = "stopped at the time limit before it converged"
    INTERRUPTED = "interrupted: this is the fit so far"
    FAILED = "broken off by an error: this is the fit before it"
    GIVEN = "made from given parameters, not fitted"
    DRAWN = "drawn: every chain came to its end"

    @property
    def converged(self) -> bool:
        return self in (Status.CONVERGED, Status.PLATEAU)


class StopRule(Protocol):
    """A rule sees the objective per row after each pass (nats) and the seconds run; it returns an end or None."""

    def __call__(self, history: Sequence[float], seconds: float) -> Status | None: ...


@dataclass(frozen=True)
class Tolerance:
    """Converged once the objective per row changes by less than ``per_row`` nats between passes."""

    per_row: float = 1e-9

    def __post_init__(self) -> None:
        if not self.per_row >= 0:
            raise SettingError(f"per_row={self.per_row}", "a tolerance of at least 0 nats", "write Tolerance(1e-8)")

    def __call__(self, history: Sequence[float], seconds: float) -> Status | None:
        if len(history) > 1 and abs(history[-1] - history[-2]) < self.per_row:
            return Status.CONVERGED
        return None


@dataclass(frozen=True)
class Plateau:
    """Converged once the mean of the last ``window`` passes is less than ``per_row`` nats above the window before.

    The comparison also allows for noise: the gain must exceed its own standard error to count as one.
    """

    window: int = 50
    per_row: float = 1e-5

    def __post_init__(self) -> None:
        if self.window < 2:
            raise SettingError(f"window={self.window}", "at least 2 passes", "write Plateau(window=50)")

    def __call__(self, history: Sequence[float], seconds: float) -> Status | None:
        if len(history) < 2 * self.window:
            return None
        recent, before = np.array(history[-self.window :]), np.array(history[-2 * self.window : -self.window])
        noise = np.sqrt((recent.var(ddof=1) + before.var(ddof=1)) / self.window)
        return Status.PLATEAU if recent.mean() - before.mean() < max(self.per_row, noise) else None


@dataclass(frozen=True)
class TimeLimit:
    """Stop after this many seconds."""

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise SettingError(f"seconds={self.seconds}", "at least 0 seconds", "write TimeLimit(60)")

    def __call__(self, history: Sequence[float], seconds: float) -> Status | None:
        return Status.TIME if seconds >= self.seconds else None


@dataclass(frozen=True)
class AnyOf:
    """The first of several rules that says so."""

    rules: tuple[StopRule, ...]

    def __call__(self, history: Sequence[float], seconds: float) -> Status | None:
        return next((end for rule in self.rules if (end := rule(history, seconds)) is not None), None)


@dataclass(frozen=True)
class Never:
    """Run to the limit of passes."""

    def __call__(self, history: Sequence[float], seconds: float) -> Status | None:
        return None
