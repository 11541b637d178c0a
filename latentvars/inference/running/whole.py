"""All rows of a fit, of which this process may have a share and memory a sample."""

from __future__ import annotations

from dataclasses import dataclass

from latentvars.errors import SettingError
from latentvars.inference.running.backend import Backend, Local
from latentvars.rows import Overview, Rows
from latentvars.rows.overview import SEEN, joined


@dataclass(frozen=True)
class Whole:
    """All rows of a fit.

    Attributes:
        backend: the processes that share them.
        rows: their number, N.
        least: number in the smallest share.
        weight: sum of their weights.
        size: weight of the rows, or of steps.
        own: the share of this process.
        overview: some of them, the same in every process; None where this process has all in memory.
    """

    backend: Backend
    rows: int
    least: int
    weight: float
    size: float
    own: Rows
    overview: Overview | None = None

    @staticmethod
    def of(rows: Rows, backend: Backend) -> Whole:
        """Count the rows of all processes, and have some of them in each."""
        weight = float(rows.weights.sum())
        size = weight if rows.lengths is None else float((rows.weights * rows.lengths).sum())
        if backend.size == 1 or backend.spreads_starts:
            return Whole(backend, len(rows), len(rows), weight, size, rows, rows.overview if rows.streamed else None)
        numbers = rows.steps * sum(value.shape[1:].numel() for value in rows.columns.values())
        shares = backend.gather((len(rows), weight, size, numbers))
        total, numbers = sum(share[0] for share in shares), sum(share[3] for share in shares)
        part = rows.overview.thinned(max(1, int(len(rows) * min(1.0, SEEN / numbers))))
        return Whole(
            backend,
            total,
            min(share[0] for share in shares),
            sum(share[1] for share in shares),
            sum(share[2] for share in shares),
            rows,
            joined(backend.gather(part)),
        )

    @staticmethod
    def local(rows: Rows) -> Whole:
        """Rows that this process has all of."""
        return Whole.of(rows, Local())

    @property
    def seen(self) -> Rows:
        """Rows in memory that stand for all, the same in every process."""
        return self.own if self.overview is None else self.overview.sample

    @property
    def first(self) -> Rows:
        """Rows of which the first ones are the first of all."""
        return self.own if self.overview is None else self.overview.first

    @property
    def telling(self) -> Rows:
        """Rows that show whether something can be estimated: extremes are among them."""
        if self.overview is None or self.overview.whole:
            return self.seen
        return Rows.joined([self.overview.sample, self.overview.extremes])

    @property
    def shared(self) -> bool:
        """Whether other processes have rows too."""
        return self.backend.size > 1 and not self.backend.spreads_starts

    @property
    def scattered(self) -> str:
        """Why not all rows are in the memory of this process; "" where they are."""
        if self.shared:
            return f"the rows are spread over {self.backend.size} processes"
        return "the rows stay in their files" if self.own.streamed else ""

    def check_updates(self, updates: int) -> None:
        """Every process has to have a row for each of the updates of a pass.

        Raises:
            SettingError: one has fewer.
        """
        if updates > self.least:
            raise SettingError(
                given=f"{updates} updates a pass, and a process with {self.least} rows",
                needed="at least one row for each update in every process",
                remedy="raise batch_size, or share the rows out more evenly",
            )
