"""How far beliefs lie apart. Each is the closed form, for all pairs ``[Q, N]``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentvars.embedding.search.beliefs import Beliefs, CategoricalBeliefs, DrawnBeliefs, NormalBeliefs
from latentvars.errors import DataError, KindError, ShapeError


def apart(queries: Beliefs, rows: Beliefs, kind: str) -> np.ndarray:
    """Distances of one kind between all queries and all rows, ``[Q, N]``.

    Raises:
        ShapeError: beliefs of another width, or with another number of draws.
        KindError: beliefs of other families, or a kind of distance that these do not have.
        DataError: divergences of normals without spread.
    """
    check_alike(queries, rows)
    table = {NormalBeliefs: NORMAL, CategoricalBeliefs: CATEGORICAL, DrawnBeliefs: DRAWN}[type(rows)]
    if kind not in table:
        raise KindError(
            given=f"kind={kind!r} of {type(rows).__name__}",
            needed=f"one of {', '.join(map(repr, table))}",
            remedy="change kind; draws have no density: beliefs in closed form have more kinds",
        )
    return table[kind](queries, rows)


def check_alike(queries: Beliefs, rows: Beliefs) -> None:
    """Whether beliefs can be compared."""
    if type(queries) is not type(rows):
        raise KindError(
            given=f"{type(queries).__name__} beside {type(rows).__name__}",
            needed="beliefs of one family",
            remedy="draw from both: lv.BeliefIndex(latent.sample(site, draws=1000))",
        )
    if queries.means.shape[1] != rows.means.shape[1]:
        raise ShapeError(
            f"beliefs of width {queries.means.shape[1]} beside beliefs of width {rows.means.shape[1]}",
            "one width",
            "read both from one fit, and one site.",
        )
    if isinstance(queries, DrawnBeliefs) and isinstance(rows, DrawnBeliefs) and len(queries.draws) != len(rows.draws):
        raise ShapeError(
            f"{len(queries.draws)} draws beside {len(rows.draws)}", "as many of both", "draw as many of both, jointly."
        )


def squared_gaps(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """|q − n|² ``[Q, N]``, from differences to a common centre."""
    centre = rows.mean(0)
    queries, rows = queries - centre, rows - centre
    squared = np.square(queries).sum(1)[:, None] + np.square(rows).sum(1) - 2 * queries @ rows.T
    return np.maximum(squared, 0)


def _means(queries: Beliefs, rows: Beliefs) -> np.ndarray:
    return np.sqrt(squared_gaps(queries.means, rows.means))


def _expected(queries: NormalBeliefs, rows: NormalBeliefs) -> np.ndarray:
    return np.sqrt(squared_gaps(queries.loc, rows.loc) + queries.total[:, None] + rows.total)


def _wasserstein(queries: NormalBeliefs, rows: NormalBeliefs) -> np.ndarray:
    """Dowson & Landau 1982: |m − n|² + tr S + tr T − 2 tr (S^½ T S^½)^½."""
    if queries.diagonal and rows.diagonal:
        moved = squared_gaps(np.sqrt(queries.spread), np.sqrt(rows.spread))
        return np.sqrt(squared_gaps(queries.loc, rows.loc) + moved)
    covariance, found = rows.covariance, []
    for root in queries.root:
        value = np.linalg.eigvalsh(root @ covariance @ root)
        found.append(np.sqrt(np.maximum(value, 0)).sum(1))
    moved = queries.total[:, None] + rows.total - 2 * np.stack(found)
    return np.sqrt(np.maximum(squared_gaps(queries.loc, rows.loc) + moved, 0))


def _jeffreys(queries: NormalBeliefs, rows: NormalBeliefs) -> np.ndarray:
    """½ [tr S⁻¹T + tr T⁻¹S + (m − n)ᵀ(S⁻¹ + T⁻¹)(m − n)] − W."""
    size, width = len(queries.loc), rows.loc.shape[1]
    s, t = queries.covariance, rows.covariance
    p, r = _inverse(s), _inverse(t)
    traces = p.reshape(size, -1) @ t.reshape(len(t), -1).T + s.reshape(size, -1) @ r.reshape(len(t), -1).T
    found = np.empty_like(traces)
    for number in range(size):
        gap = rows.loc - queries.loc[number]
        own = np.einsum("nw,nwv,nv->n", gap, p[number] + r, gap, optimize=True)
        found[number] = (traces[number] + own) / 2 - width
    return np.maximum(found, 0)


def _inverse(covariance: np.ndarray) -> np.ndarray:
    least = np.linalg.eigvalsh(covariance)[:, 0]
    if (least <= 0).any():
        raise DataError(
            given=f"{int((least <= 0).sum())} beliefs without spread in some direction",
            needed="spread in all: divergences from a point are infinite",
            remedy="use kind='wasserstein' or kind='expected'",
        )
    return np.linalg.inv(covariance)


def _differ(queries: CategoricalBeliefs, rows: CategoricalBeliefs) -> np.ndarray:
    return np.clip(1 - queries.probabilities @ rows.probabilities.T, 0, 1)


def _by_query(measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[Beliefs, Beliefs], np.ndarray]:
    """A function of probabilities ``[K]`` and ``[N, K]`` for all queries."""
    return lambda queries, rows: np.stack([measure(one, rows.means) for one in queries.means])


def _total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.abs(p - q).sum(1) / 2


def _hellinger(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(np.sqrt(p) - np.sqrt(q)).sum(1) / 2)


def _jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The root of the divergence, which is a metric (Endres & Schindelin 2003)."""
    middle = (p + q) / 2
    return np.sqrt(np.maximum(_divergence(p, middle) + _divergence(q, middle), 0) / 2)


def _symmetrised(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return _divergence(p, q) + _divergence(q, p)


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    from scipy.special import rel_entr

    return rel_entr(p, q).sum(1)


def _expected_of_draws(queries: DrawnBeliefs, rows: DrawnBeliefs) -> np.ndarray:
    pairs = zip(queries.draws, rows.draws, strict=True)
    return np.sqrt(sum(squared_gaps(one, all_) for one, all_ in pairs) / len(rows.draws))


NORMAL = {"mean": _means, "expected": _expected, "wasserstein": _wasserstein, "kl": _jeffreys}
CATEGORICAL = {
    "mean": _means,
    "expected": _differ,
    "total-variation": _by_query(_total_variation),
    "hellinger": _by_query(_hellinger),
    "jensen-shannon": _by_query(_jensen_shannon),
    "kl": _by_query(_symmetrised),
}
DRAWN = {"mean": _means, "expected": _expected_of_draws}
