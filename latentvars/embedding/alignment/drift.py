"""drift: what became of stored vectors, row by row and as a distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvars.embedding.alignment.neighbourhoods import jaccard, neighbourhoods
from latentvars.embedding.alignment.shared import numbers, shared
from latentvars.embedding.alignment.two_samples import Samples, Shift, shift
from latentvars.embedding.vectors import Vectors, as_vectors
from latentvars.errors import DataError, SettingError
from latentvars.randomness import derive

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Drift:
    """Vectors then and now, in one space.

    Attributes:
        ids: M common ids, in the order of the old.
        moved: how far each of them went, in units of the old vectors' spread (root mean square distance from their
            mean) ``[M]``.
        standardised: the same in standard deviations of the difference, the root of the mean over coordinates of
            Δ² / (std² + std'²), about 1 where only the noise of both is seen; None where the vectors have
            no standard deviations.
        overlap: Jaccard index of each one's k-neighbourhoods among the common rows, then and now; None for fewer than
            ``neighbours`` + 2 of them.
        neighbours: k.
        new, lost: ids of one only.
        names: of the coordinates, W.
        shift: tests of equal distributions of all old and all new vectors.
        tested: rows of the old and of the new that the tests took.
    """

    ids: np.ndarray = field(repr=False)
    moved: np.ndarray = field(repr=False)
    standardised: np.ndarray | None = field(repr=False)
    overlap: np.ndarray | None = field(repr=False)
    neighbours: int
    new: np.ndarray = field(repr=False)
    lost: np.ndarray = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    shift: Shift = field(repr=False)
    tested: tuple[int, int]

    def farthest(self, rows: int = 10) -> pd.DataFrame:
        """The common rows that moved most: how far, and what is left of their neighbourhood."""
        import pandas as pd

        first = np.argsort(-self.moved, kind="stable")[:rows]
        columns = {"moved": self.moved, "standardised": self.standardised, "overlap": self.overlap}
        known = {name: column[first] for name, column in columns.items() if column is not None}
        return pd.DataFrame(known, index=pd.Index(self.ids[first], name="id"))

    def table(self) -> pd.DataFrame:
        """Coordinate → Kolmogorov–Smirnov distance and its p-value, corrected for their number."""
        import pandas as pd

        columns = {"distance": self.shift.statistics, "p": self.shift.p_values}
        return pd.DataFrame(columns, index=pd.Index(self.names, name="coordinate"))

    def __str__(self) -> str:
        lines = [f"Drift: {len(self.ids)} common ids, {len(self.new)} new, {len(self.lost)} lost"]
        if len(self.ids):
            middle, high = np.quantile(self.moved, [0.5, 0.95])
            line = f"  moved, in units of the old spread: median {middle:.3g}, 95 % below {high:.3g}"
            if self.standardised is not None:
                line += f"; in standard deviations: median {np.median(self.standardised):.3g}"
            lines.append(line)
        if self.overlap is not None:
            lines.append(f"  {self.neighbours} neighbours then and now: overlap {self.overlap.mean():.3f}")
        lines.append(
            f"  distribution: energy distance² {self.shift.energy:.3g}, p = {self.shift.p_value:.3g} "
            f"({self.tested[0]} against {self.tested[1]} rows, by permutation)"
        )
        lines.append(f"  kernel of the median distance: MMD² {self.shift.mmd:.3g}, p = {self.shift.mmd_p_value:.3g}")
        worst = int(self.shift.statistics.argmax())
        lines.append(
            f"  coordinate that differs most: {self.names[worst]}, Kolmogorov–Smirnov "
            f"{self.shift.statistics[worst]:.3f}, p = {self.shift.p_values[worst]:.3g} "
            f"(corrected for {len(self.names)} coordinates)"
        )
        return "\n".join(lines)


def drift(old: Any, new: Any, *, neighbours: int = 10, draws: int = 499, most: int = 2000, seed: int = 0) -> Drift:
    """Compare vectors that were stored with those of today: of the same rows, of other rows, or of some of both.

    Both have to be of one space: vectors of one fit, or of a refit after :func:`latentvars.align_vectors`. The tests
    exchange old and new vectors; for ids that stand on both sides they do so within the pair, so that p-values hold
    for the same rows embedded twice as well as for new data under an old fit. With pairs the tests see changes that
    are far too small to matter, if they go one way for all rows: ``moved`` says whether they matter. There are three:
    energy distance, for which far rows count most, maximum mean discrepancy, which looks at the scale of the median
    distance, and Kolmogorov–Smirnov coordinate by coordinate. Choose one beforehand: the smallest of the three is no
    p-value.

    Args:
        old, new: vectors ``[N, W]``, ``[N', W]``; arrays are matched by position.
        neighbours: k.
        draws: permutations.
        most: rows of each that the tests take, a sample where there are more.
        seed: of permutations and samples.

    Raises:
        ShapeError: vectors of different widths.
        DataError: vectors of different spaces, or fewer than two on one side.
        SettingError: no draws, or no rows to test.
    """
    if draws < 1 or most < 2 or neighbours < 1:
        given = f"draws={draws}, most={most}, neighbours={neighbours}"
        raise SettingError(given, "draws and neighbours from 1, most from 2", "raise them.")
    old, new = as_vectors(old), as_vectors(new)
    old.check_comparable(new)
    if min(len(old), len(new)) < 2:
        raise DataError(f"{len(old)} old and {len(new)} new vectors", "at least two of each", "pass more rows.")
    here, now = shared(old, new, 0)
    samples = _samples(old, new, here, now, most, seed)
    common = len(here) >= neighbours + 2
    return Drift(
        ids=old.ids[here],
        moved=np.linalg.norm(numbers(new, now) - numbers(old, here), axis=1) / _spread(numbers(old)),
        standardised=_standardised(old.take(here), new.take(now)),
        overlap=jaccard(neighbourhoods(numbers(old, here), neighbours), neighbourhoods(numbers(new, now), neighbours))
        if common
        else None,
        neighbours=neighbours,
        new=np.delete(new.ids, now),
        lost=np.delete(old.ids, here),
        names=tuple(old.names),
        shift=shift(samples, draws, derive(seed, 74)),
        tested=(samples.first, len(samples.points) - samples.first),
    )


def _spread(points: np.ndarray) -> float:
    found = float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))
    if not found > 0:
        raise DataError(
            "old vectors that are all the same", "rows that differ", "look at the fit: it tells no rows apart."
        )
    return found


def _standardised(old: Vectors, new: Vectors) -> np.ndarray | None:
    if old.std is None or new.std is None:
        return None
    variance = old.std.astype(np.float64) ** 2 + new.std.astype(np.float64) ** 2
    squares = (numbers(new) - numbers(old)) ** 2
    return np.sqrt(np.divide(squares, variance, out=np.where(squares > 0, np.inf, 0.0), where=variance > 0).mean(1))


def _samples(old: Vectors, new: Vectors, here: np.ndarray, now: np.ndarray, most: int, seed: int) -> Samples:
    """Rows for the tests, pairs first: a random sample of each side, by lots that the two of a pair share, so that
    most pairs are in it whole; of a pair that is not, the other stands alone."""
    chance = np.random.default_rng(derive(seed, 73))
    lots, others = chance.random(len(old)), chance.random(len(new))
    others[now] = lots[here]
    mine, theirs = _lowest(lots, most), _lowest(others, most)
    whole = mine[here] & theirs[now]
    mine[here[whole]] = theirs[now[whole]] = False
    first = np.concatenate([here[whole], np.flatnonzero(mine)])
    second = np.concatenate([now[whole], np.flatnonzero(theirs)])
    return Samples(np.concatenate([numbers(old, first), numbers(new, second)]), len(first), int(whole.sum()))


def _lowest(lots: np.ndarray, most: int) -> np.ndarray:
    """Which of them are among the lowest."""
    found = np.zeros(len(lots), dtype=bool)
    found[np.argsort(lots, kind="stable")[:most]] = True
    return found
