"""Ward's hierarchical groups of weighted points, in memory of the size of the points."""

from __future__ import annotations

import numpy as np


def ward(points: np.ndarray, weights: np.ndarray, groups: int) -> np.ndarray:
    """Groups of the tree of least growth of the within-group squares (Ward 1963), cut where there are ``groups``.

    Built along chains of nearest neighbours (Murtagh 1983), which for Ward's distance
    ``w_a w_b / (w_a + w_b) |c_a − c_b|²`` finds the same tree as merging the closest pair each time.

    Args:
        points: ``[S, P]``.
        weights: ``[S]``, positive; weight 2 is a point that stands there twice.
        groups: at most S.

    Returns:
        ``[S]`` int, from 0, numbered by their first points.
    """
    merges = _merges(points.astype(float).copy(), weights.astype(float).copy())
    parent = np.arange(len(points))
    for a, b, _ in sorted(merges, key=lambda merge: merge[2])[: max(0, len(points) - groups)]:
        parent[_root(parent, b)] = _root(parent, a)
    roots = np.array([_root(parent, k) for k in range(len(points))])
    first = {root: None for root in roots.tolist()}
    number = {root: k for k, root in enumerate(first)}
    return np.array([number[root] for root in roots.tolist()])


def _merges(centres: np.ndarray, weights: np.ndarray) -> list[tuple[int, int, float]]:
    """The pairs that become one (the first keeps its place) and the growth of the squares at each."""
    alive = np.ones(len(centres), dtype=bool)
    found: list[tuple[int, int, float]] = []
    chain: list[int] = []
    while len(found) < len(centres) - 1:
        if not chain:
            chain.append(int(alive.argmax()))
        tip = chain[-1]
        growth = ((centres - centres[tip]) ** 2).sum(1) * weights * weights[tip] / (weights + weights[tip])
        growth[~alive] = np.inf
        growth[tip] = np.inf
        closest = int(growth.argmin())
        if len(chain) > 1 and growth[chain[-2]] <= growth[closest]:  # the one before wins ties: no cycles
            a, b = sorted((tip, chain[-2]))
            found.append((a, b, float(growth[chain[-2]])))
            total = weights[a] + weights[b]
            centres[a] = (weights[a] * centres[a] + weights[b] * centres[b]) / total
            weights[a], alive[b] = total, False
            del chain[-2:]
        else:
            chain.append(closest)
    return found


def _root(parent: np.ndarray, k: int) -> int:
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = int(parent[k])
    return k
