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
        unfinished: how many starts were left after a short run that had not come to its end: they may have been on
            their way to the same optimum.
        failure: why the first start failed that did.
        alone: why the starts could not be run together; "" where they were.
    """

    objectives: tuple[float, ...]
    tolerance: float
    chosen: float
    unfinished: int = 0
    failure: str = ""
    alone: str = ""

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

    @property
    def failed(self) -> int:
        """How many starts failed."""
        return int(np.isnan(self.objectives).sum())

    def __str__(self) -> str:
        text = f"best optimum found {self.replicated} of {len(self.objectives)} times"
        if self.failed:
            text += f", {self.failed} start{'s' * (self.failed > 1)} failed"
            text += f" (the first: {self.failure})" if self.failure else ""
        if self.unfinished:
            text += f", {self.unfinished} short run{'s' * (self.unfinished > 1)} cut off before the end"
        if self.spurious:
            text += f", {self.spurious} ends with a collapsed component set aside"
        if self.replicated == 1 and len(self.objectives) > 1:
            text += ": found once only, raise restarts= before trusting it"
        if self.alone:
            text += f"\n  starts ran one after the other: {self.alone}"
        return text
