"""concordance: how far two embeddings of the same rows say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvars.embedding.alignment.neighbourhoods import jaccard, neighbourhoods
from latentvars.embedding.alignment.shared import numbers, shared
from latentvars.embedding.vectors import as_vectors
from latentvars.errors import DataError
from latentvars.randomness import derive

FEWEST = 3


@dataclass(frozen=True)
class Concordance:
    """Agreement of two embeddings on their common rows; each number is 1 where one is the other, turned and scaled.

    Attributes:
        rows: M, common rows.
        cka: linear centred kernel alignment ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) of centred X, Y (Kornblith et al. 2019, eq. 4),
            which is the RV coefficient (Robert & Escoufier 1976). Rises by chance with the widths beside M.
        procrustes: correlation after the best turn, shift and scale, Σ σ(XᵀY) / (‖X‖ ‖Y‖), the root of 1 − m² of a
            Procrustes test (Peres-Neto & Jackson 2001). Rises by chance likewise.
        neighbours: k.
        overlap: mean Jaccard index of the k-neighbourhoods.
        chance: what ``overlap`` is about where the two are independent.
        distances: Spearman correlation of the distances between rows.

    All are between 0 and 1 (the last between −1 and 1), and stay the same when either is turned, mirrored, shifted or
    multiplied by a number other than 0.
    """

    rows: int
    cka: float
    procrustes: float
    neighbours: int
    overlap: float
    chance: float
    distances: float

    def __str__(self) -> str:
        return (
            f"Concordance on {self.rows} common rows: CKA (RV) {self.cka:.3f}, Procrustes {self.procrustes:.3f}, "
            f"overlap of {self.neighbours} neighbours {self.overlap:.3f} (by chance {self.chance:.3f}), "
            f"rank correlation of distances {self.distances:.3f}"
        )


def concordance(a: Any, b: Any, *, neighbours: int = 10, most: int = 2000, seed: int = 0) -> Concordance:
    """Compare two embeddings of the same rows, of any widths and from anywhere: two fits, two models, two seeds.

    Args:
        a, b: vectors ``[N, W]``, ``[N', W']``; rows are matched by id (arrays: by position).
        neighbours: k.
        most: rows between which distances are ranked; a sample where there are more (CKA, the Procrustes correlation
            and neighbourhoods take all).
        seed: of the sample.

    Raises:
        DataError: fewer than 3 common ids, or vectors that are all the same.
        SettingError: as many neighbours as rows.
    """
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    first, second = as_vectors(a), as_vectors(b)
    here, there = shared(first, second, FEWEST)
    x, y = _centred(numbers(first, here)), _centred(numbers(second, there))
    overlap = jaccard(neighbourhoods(x, neighbours), neighbourhoods(y, neighbours))
    size = len(x)
    some = np.arange(size)
    if size > most:
        some = np.sort(np.random.default_rng(derive(seed, 72)).choice(size, max(most, FEWEST), replace=False))
    cross = np.linalg.svd(x.T @ y, compute_uv=False)
    share = neighbours / (size - 1)
    return Concordance(
        rows=size,
        cka=float((cross**2).sum() / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))),
        procrustes=float(cross.sum()),
        neighbours=neighbours,
        overlap=float(overlap.mean()),
        chance=share / (2 - share),
        distances=float(spearmanr(pdist(x[some]), pdist(y[some]))[0]),  # type: ignore[arg-type],
    )


def _centred(points: np.ndarray) -> np.ndarray:
    """About the mean, of norm 1: all measures are invariant, and the products stay in range."""
    centred = points - points.mean(0)
    size = np.linalg.norm(centred)
    if not size > 1e-12 * max(1.0, float(np.abs(points).max())):
        raise DataError("vectors that are all the same", "rows that differ", "look at the fit: it tells no rows apart.")
    return centred / size
