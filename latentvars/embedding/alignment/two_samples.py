"""Two-sample tests by permutation, where some rows may stand in both samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# permutations that are worked on at a time, in numbers of one array
NUMBERS = 2_000_000


@dataclass(frozen=True, eq=False)
class Samples:
    """Two samples in one table, the rows of both in the same order first.

    Attributes:
        points: ``[R, W]``: the first sample, then the second.
        first: N, rows of the first.
        pairs: M: row m of the first and row m of the second are the same individual.
    """

    points: np.ndarray
    first: int
    pairs: int

    @property
    def weights(self) -> np.ndarray:
        """1/N on the first sample, −1/N' on the second, ``[R]``."""
        return self._signed(np.arange(len(self.points)) < self.first)

    def shuffled(self, draws: int, chance: np.random.Generator) -> np.ndarray:
        """Weights of permutations under which nothing differs, ``[draws, R]``.

        The two of a pair are exchanged or left; the others are dealt out anew.
        """
        size, single = len(self.points), self._singles()
        members = np.zeros((draws, size), dtype=bool)
        left = chance.random((draws, self.pairs)) < 0.5
        members[:, : self.pairs] = left
        members[:, self.first : self.first + self.pairs] = ~left
        mine = np.zeros(len(single), dtype=bool)
        mine[: self.first - self.pairs] = True
        if len(single):
            members[:, single] = chance.permuted(np.broadcast_to(mine, (draws, len(mine))), axis=1)
        return self._signed(members)

    def _singles(self) -> np.ndarray:
        own = np.ones(len(self.points), dtype=bool)
        own[: self.pairs] = own[self.first : self.first + self.pairs] = False
        return np.flatnonzero(own)

    def _signed(self, members: np.ndarray) -> np.ndarray:
        return np.where(members, 1 / self.first, -1 / (len(self.points) - self.first))


def energy(distances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """2 E|X−Y| − E|X−X'| − E|Y−Y'| (Székely & Rizzo 2004) of samples by weights ``[..., R]``: −aᵀ D a."""
    return -((weights @ distances) * weights).sum(-1)


def median_kernel(distances: np.ndarray) -> np.ndarray:
    """exp(−d² / 2 s²) with s the median of the distances between different points ``[R, R]`` (Gretton et al. 2012)."""
    apart = distances[np.triu_indices(len(distances), 1)]
    apart = apart[apart > 0]
    return np.exp(-((distances / (np.median(apart) if len(apart) else 1.0)) ** 2) / 2)


def discrepancy(kernel: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Squared maximum mean discrepancy (Gretton et al. 2012, eq. 5) of samples by weights ``[..., R]``: aᵀ K a."""
    return ((weights @ kernel) * weights).sum(-1)


def kolmogorov_smirnov(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The largest difference of two distribution functions, coordinate by coordinate: ``[..., W]``."""
    found = []
    for column in points.T:
        order = np.argsort(column, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(column[order]) > 0, True))  # of runs of equal numbers
        found.append(np.abs(np.cumsum(weights[..., order], -1)[..., ends]).max(-1))
    return np.stack(found, -1)


@dataclass(frozen=True, eq=False)
class Shift:
    """What tests by permutation found.

    Attributes:
        energy: squared energy distance.
        p_value: of it.
        mmd: squared maximum mean discrepancy under a normal kernel as wide as the median distance.
        mmd_p_value: of it.
        statistics: Kolmogorov–Smirnov distance of each coordinate ``[W]``.
        p_values: of each, corrected for looking at all of them ``[W]``.
    """

    energy: float
    p_value: float
    mmd: float
    mmd_p_value: float
    statistics: np.ndarray
    p_values: np.ndarray


def shift(samples: Samples, draws: int, seed: int) -> Shift:
    """Tests of equal distributions; p = (1 + how many permutations are as large) / (1 + draws).

    The coordinates are compared with the largest of all coordinates in each permutation (Westfall & Young 1993,
    single-step max T), which keeps the chance of any false alarm, however they are correlated.
    """
    from scipy.spatial.distance import pdist, squareform

    chance, distances = np.random.default_rng(seed), squareform(pdist(samples.points))
    kernel, each = median_kernel(distances), kolmogorov_smirnov(samples.points, samples.weights)
    measures = ((energy, distances), (discrepancy, kernel))
    seen = [float(measure(table, samples.weights)) for measure, table in measures]
    larger, beyond, done = np.zeros(2), np.zeros(len(each)), 0
    while done < draws:
        some = min(draws - done, max(1, NUMBERS // len(samples.points)))
        weights = samples.shuffled(some, chance)
        for number, (measure, table) in enumerate(measures):
            larger[number] += (measure(table, weights) >= seen[number] - 1e-12 * abs(seen[number])).sum()
        largest = kolmogorov_smirnov(samples.points, weights).max(-1)
        beyond += (largest[:, None] >= each - 1e-12).sum(0)
        done += some
    p_values = (1 + larger) / (1 + draws)
    return Shift(seen[0], float(p_values[0]), seen[1], float(p_values[1]), each, (1 + beyond) / (1 + draws))
