"""What an algorithm is: three methods, of which the second adds up over batches and machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from latentvars.contract import LatentModel
from latentvars.inference.running.stopping import Status
from latentvars.inference.running.whole import Whole
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows


@dataclass(frozen=True)
class Problem:
    """What a run works on.

    Attributes:
        program: the model bound to its roles.
        rows: all data, or the share of this process.
        start: constrained starting values of the globals.
        seed: from which every random number of the run is derived.
        whole: all data; None: ``rows`` is.
    """

    program: Program
    rows: Rows
    start: Mapping[str, Tensor]
    seed: int
    whole: Whole | None = None

    @property
    def all(self) -> Whole:
        """All data."""
        return self.whole or Whole.local(self.rows)

    @property
    def size(self) -> int:
        """Number of rows in all processes, N."""
        return len(self.rows) if self.whole is None else self.whole.rows

    @property
    def own_seed(self) -> int:
        """Of the noise that belongs to the rows of this process."""
        rank = self.whole.backend.rank if self.whole is not None and self.whole.shared else 0
        return derive(self.seed, 15, rank) if rank else self.seed

    @property
    def model(self) -> LatentModel:
        return self.program.model


@dataclass(frozen=True)
class Screened:
    """A start after its short run.

    Attributes:
        values: constrained globals.
        objective: nats; NaN where the run failed.
        degenerate: whether a component has collapsed onto a few rows.
        ended: whether the short run came to its end, or was cut off.
        history: objective after each pass of the short run, nats per row, where the long run goes on from it.
        state: that of the algorithm, to go on from; None: the long run begins at ``values``.
    """

    values: dict[str, Tensor]
    objective: float
    degenerate: bool = False
    ended: bool = True
    history: tuple[float, ...] = ()
    state: Any = None


@dataclass(frozen=True)
class OneByOne:
    """The starts of a model cannot be run together.

    Attributes:
        reason: why; for the report.
    """

    reason: str


class Total(Protocol):
    """What a batch contributes; totals of disjoint batches add up to the total of their union.

    Attributes:
        objective: share of the objective, nats.
    """

    @property
    def objective(self) -> float: ...

    def __add__(self, other: Any) -> Any: ...


class GlobalsPosterior(Protocol):
    """What a run knows of the globals at its end."""

    @property
    def point(self) -> dict[str, Tensor]:
        """One value for each global, constrained."""
        ...

    def draws(self, size: int, seed: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Draws ``[size, *shape]`` and their log density q ``[size]``, None where it is a point mass."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything that has to be stored to rebuild it."""
        ...


class OneGo(ABC):
    """An algorithm without passes: it has all rows in memory, and leaves no state to go on from."""

    @property
    @abstractmethod
    def starts(self) -> int:
        """Starting points that it is given."""

    @abstractmethod
    def sample(
        self, program: Program, rows: Rows, starts: Sequence[Tensor], seed: int, progress: bool | None
    ) -> tuple[GlobalsPosterior, Status]:
        """What is known of the globals at its end, and how it ended.

        Args:
            program: the model.
            rows: all data.
            starts: as many as :attr:`starts`, unconstrained ``[P]``.
            seed: of the run.
            progress: whether to show a bar; None: where standard error is a terminal.
        """


class Algorithm(Protocol):
    """Hyper-parameters as fields of a frozen dataclass; the state is a separate value."""

    @property
    def passes(self) -> int:
        """Most passes over the data."""
        ...

    @property
    def restarts(self) -> int:
        """Number of starts."""
        ...

    def rows_per_batch(self, rows: Sized) -> int | None:
        """Rows in memory at a time; None: all. ``rows`` are as many as there are."""
        ...

    def batches_per_update(self, rows: Sized) -> int:
        """Batches that are added up for an update."""
        ...

    def shuffles(self) -> bool: ...

    def ended(self, state: Any, history: Sequence[float], seconds: float) -> Status | None:
        """Whether the run is over, from the objective per row after each pass."""
        ...

    def reached(self, history: Sequence[float]) -> tuple[float, float]:
        """The objective per row at the end of a run, and the difference below which two runs ended alike, nats."""
        ...

    def screen(self, problem: Problem, starts: Sequence[Mapping[str, Tensor]]) -> Sequence[Screened] | OneByOne | None:
        """Short runs of all starts together; or why each has to run by itself, None where that goes without saying."""
        ...

    def init(self, problem: Problem) -> Any:
        """The state before the first pass."""
        ...

    def contribution(self, state: Any, batch: Batch, position: int) -> Any:
        """The additive share of one batch; ``position`` counts the batches of one update."""
        ...

    def objective(self, state: Any, total: Any) -> float:
        """What is recorded in the history for an update, nats."""
        ...

    def update(self, state: Any, total: Any) -> Any:
        """The next state."""
        ...

    def collapsed(self, state: Any) -> Sequence[str]:
        """The elements of globals that have collapsed: the optimum is then spurious."""
        ...

    def posterior(self, state: Any) -> GlobalsPosterior: ...

    def log_likelihood(self, state: Any, batch: Batch) -> float | None:
        """Σ wₙ log p(xₙ) of a batch at the end, nats, where that is less work than to score them; None: they are to be.

        Not finite where a row has no finite score.
        """
        ...
