"""What a section of the calibration is given, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How much is simulated.

    Attributes:
        simulations: data sets of each case.
        workers: processes; None: all cores where it is worth it.
        seed: that decides all data.
    """

    simulations: int
    workers: int | None
    seed: int


@dataclass(frozen=True)
class Check:
    """One number that must lie between two bounds; without bounds it is only shown."""

    what: str
    value: float
    low: float = float("-inf")
    high: float = float("inf")
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        bounded = self.low > float("-inf") or self.high < float("inf")
        verdict = f"[{self.low:g}, {self.high:g}] {'ok' if self.holds else 'FAILED'}" if bounded else ""
        return f"{self.what:<52} {self.value:>9.4f}  {verdict}  {self.note}".rstrip()
