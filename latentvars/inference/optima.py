"""Where the starts of a run ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Optima:
    """The optimum that every start reached.

    Attributes:
        objectives: objective per row at the end of each start, nats; NaN where a start failed.
        tolerance: difference per row below which two ends count as the same optimum.
    """

    objectives: tuple[float, ...]
    tolerance: float

    @property
    def best(self) -> int:
        """The start that reached the best optimum."""
        return int(np.nanargmax(self.objectives))

    @property
    def replicated(self) -> int:
        """How many starts reached it."""
        gap = np.nanmax(self.objectives) - np.array(self.objectives)
        return int((gap <= self.tolerance).sum())

    def __str__(self) -> str:
        failed = int(np.isnan(self.objectives).sum())
        text = f"best optimum found {self.replicated} of {len(self.objectives)} times"
        if failed:
            text += f", {failed} starts failed"
        if self.replicated == 1 and len(self.objectives) > 1:
            text += ": found once only, raise restarts= before trusting it"
        return text
