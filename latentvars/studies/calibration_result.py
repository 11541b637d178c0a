"""Calibration: ranks of the truth among draws of the posterior, and whether they are uniform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from latentvars.posterior.criticism.uniformity import Uniformity, uniformity

if TYPE_CHECKING:
    import pandas

LEVEL = 0.01


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of the globals that data were simulated from among draws of the posterior given these data.

    Attributes:
        ranks: quantity, as ``loc[0]`` → how many of the L draws are below the truth, of each simulation ``[M]``.
        draws: L.
        failures: what went wrong in each simulation that has no ranks.
        warned: in how many simulations the algorithm gave a warning.
        seed: that decided all data.
        interrupted: whether Ctrl-C ended the simulations early.
    """

    ranks: Mapping[str, np.ndarray] = field(repr=False)
    draws: int
    failures: tuple[str, ...] = ()
    warned: int = 0
    seed: int = 0
    interrupted: bool = False

    @property
    def simulations(self) -> int:
        """Those that have ranks, M."""
        return len(next(iter(self.ranks.values())))

    @cached_property
    def tests(self) -> dict[str, Uniformity]:
        """Of the ranks of each quantity, at every value that a rank can have."""
        cells = self.draws + 1
        return {name: uniformity((ranks + 0.5) / cells, bins=cells) for name, ranks in self.ranks.items()}

    @property
    def p_values(self) -> dict[str, float]:
        """Of the test that the ranks of one quantity are uniform (Säilynoja, Bürkner & Vehtari 2022)."""
        return {name: test.p_value for name, test in self.tests.items()}

    @property
    def p_value(self) -> float:
        """Of the test that all ranks are uniform: the least of :attr:`p_values`, times their number (Bonferroni)."""
        found = self.p_values
        return min(1.0, len(found) * min(found.values()))

    def holds(self, level: float = LEVEL) -> bool:
        """Whether uniform ranks are not rejected at this level."""
        return self.p_value > level

    def table(self) -> pandas.DataFrame:
        """A line for each quantity: ``p_value``; ``shift``, mean of z = Φ⁻¹((rank + ½) / (L + 1)), positive where the
        posterior is too low; ``spread``, standard deviation of z, above 1 where the posterior is too narrow."""
        import pandas
        from scipy.stats import norm

        found = self.p_values
        lines = {}
        for name, ranks in self.ranks.items():
            z = norm.ppf((ranks + 0.5) / (self.draws + 1))
            lines[name] = {"p_value": found[name], "shift": z.mean(), "spread": z.std(ddof=1)}
        return pandas.DataFrame.from_dict(lines, orient="index")

    def __str__(self) -> str:
        table, found = self.table(), self.p_value
        verdict = "uniform ranks are not rejected" if found > LEVEL else "the ranks are not uniform"
        lines = [
            f"calibration over {self.simulations} simulations, ranks among {self.draws} draws: {verdict} "
            f"(p = {found:.3g})",
            f"  {'quantity':<28} {'p':>8} {'shift':>8} {'spread':>8}",
        ]
        for name, line in table.iterrows():
            lines.append(f"  {name!s:<28} {line['p_value']:>8.3g} {line['shift']:>8.2f} {line['spread']:>8.2f}")
        if self.failures:
            lines.append(f"  {len(self.failures)} simulations without ranks, the first: {self.failures[0]}")
        if self.warned:
            lines.append(f"  the algorithm warned in {self.warned} simulations")
        if self.interrupted:
            lines.append("  interrupted: simulations that were done")
        return "\n".join(lines)
