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
        chosen: objective per row of the start that was kept, nats.
    """

    objectives: tuple[float, ...]
    tolerance: float
    chosen: float

    @property
    def best(self) -> int:
        """The start that was kept."""
        return int(np.nanargmin(np.abs(np.array(self.objectives) - self.chosen)))

    @property
    def replicated(self) -> int:
        """How many starts reached it."""
        return int((np.abs(np.array(self.objectives) - self.chosen) <= self.tolerance).sum())

    @property
    def spurious(self) -> int:
        """How many starts ended higher, with a collapsed component."""
        return int((np.array(self.objectives) > self.chosen + self.tolerance).sum())

    def __str__(self) -> str:
        failed = int(np.isnan(self.objectives).sum())
        text = f"best optimum found {self.replicated} of {len(self.objectives)} times"
        if failed:
            text += f", {failed} starts failed"
        if self.spurious:
            text += f", {self.spurious} ends with a collapsed component set aside"
        if self.replicated == 1 and len(self.objectives) > 1:
            text += ": found once only, raise restarts= before trusting it"
        return text
