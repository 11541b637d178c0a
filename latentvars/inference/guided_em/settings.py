"""What variational and Monte-Carlo EM have in common: their settings, and when they end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from latentvars.errors import SettingError
from latentvars.inference.em.m_step import collapsed
from latentvars.inference.guided_em.guide_steps import GuideSteps
from latentvars.inference.guided_em.steps import GuidedState, Share, drift, of_e_steps, start
from latentvars.inference.guided_em.weighed_draws import Draws
from latentvars.inference.guides.posteriors import PointMass
from latentvars.inference.running.algorithm import Problem
from latentvars.inference.running.settings import check_at_least, check_share
from latentvars.inference.running.stopping import Plateau, Status, StopRule
from latentvars.inference.svi.svi import BATCH_ROWS, FULL_BATCH_ROWS
from latentvars.rows import Batch

LAST = 10


@dataclass(frozen=True)
class GuidedEM(ABC):
    """EM whose continuous locals are drawn by the model's guide; how draws are weighed is left to the kinds.

    Attributes:
        passes: most passes over the data, those of guide steps included.
        guide_steps: how the guide is trained between M-steps; ``GuideSteps(passes=0, warmup=0)``: not at all.
        draws: draws of each row in the first E-step.
        growth: factor by which they grow with each M-step.
        most_draws: most draws of a row. For globals without closed forms every draw of every row is in memory in an
            M-step, and read again at each step of L-BFGS.
        batch_size: rows per guide step, and in memory at a time; None: all rows up to 1,024, else 256.
        variance_floor: as in :class:`latentvars.EM`.
        stop: when it has converged; sees the objective of the passes with an M-step.
        drift: also wait until no global moved, between the last two windows of ten M-steps, by more than this many of
            its standard deviations within one; None: do not.
        restarts: number of starts.
    """

    name: ClassVar[str]

    passes: int = 10_000
    guide_steps: GuideSteps = field(default_factory=GuideSteps)
    draws: int = 20
    growth: float = 1.2
    most_draws: int = 500
    batch_size: int | None = None
    variance_floor: float = 1e-6
    stop: StopRule = field(default_factory=lambda: Plateau(window=15, per_row=1e-6))
    drift: float | None = 1.0
    restarts: int = 1

    def __post_init__(self) -> None:
        check_at_least("passes", self.passes, 0)
        check_at_least("restarts", self.restarts, 1)
        if self.batch_size is not None:
            check_at_least("batch_size", self.batch_size, 1)
        check_share("variance_floor", self.variance_floor)
        self.growing.after(0)
        if self.drift is not None and not self.drift > 0:
            raise SettingError(f"drift={self.drift}", "a number above 0", "write drift=1.0, or None not to wait")

    @property
    def growing(self) -> Draws:
        """How many draws an E-step takes."""
        return Draws(self.draws, self.growth, self.most_draws)

    def rows_per_batch(self, rows: Sized) -> int | None:
        if self.batch_size is not None:
            return self.batch_size
        return None if len(rows) <= FULL_BATCH_ROWS else BATCH_ROWS

    def batches_per_update(self, rows: Sized) -> int:
        return 1

    def shuffles(self) -> bool:
        return True

    def ended(self, state: GuidedState, history: Sequence[float], seconds: float) -> Status | None:
        """Whether the rule says so after a pass with an M-step, and no global drifts where it says converged."""
        if not state.rested:
            return None
        status = self.stop(of_e_steps(history, state.period), seconds)
        still = self.drift is None or drift(state) <= self.drift
        return None if status is not None and status.converged and not still else status

    def reached(self, history: Sequence[float]) -> tuple[float, float]:
        """The mean of the last passes; ends within their noise count as alike."""
        last = torch.tensor(history[-LAST:], dtype=torch.float64)
        return float(last.mean()), max(1e-3, 2 * float(last.std(correction=0)))

    def screen(self, problem: Problem, starts: Sequence[Mapping[str, Tensor]]) -> None:
        """Every start runs by itself."""
        return None

    def init(self, problem: Problem) -> GuidedState:
        """Plan the M-step and build the optimiser.

        Raises:
            SupportError: no continuous locals, or no globals.
        """
        return start(problem, self.guide_steps, self.variance_floor, self.name)

    @abstractmethod
    def contribution(self, state: GuidedState, batch: Batch, position: int) -> Share:
        """The gradient of the guide on a batch, or expected statistics, as the pass wants."""

    def objective(self, state: GuidedState, total: Share) -> float:
        return total.objective

    @abstractmethod
    def update(self, state: GuidedState, total: Share) -> GuidedState:
        """A step of the guide, or once all rows were met, the M-step.

        Raises:
            NumericalError: a gradient or a global that is not finite.
        """

    def collapsed(self, state: GuidedState) -> tuple[str, ...]:
        """Components whose variance stands at the floor, around a few rows only."""
        return collapsed(state.plan, state.values)

    def posterior(self, state: GuidedState) -> PointMass:
        return PointMass(dict(state.values))

    def log_likelihood(self, state: GuidedState, batch: Batch) -> None:
        """None: rows have to be scored."""
        return None
