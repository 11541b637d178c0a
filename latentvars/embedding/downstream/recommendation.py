"""recommend: the best items for each user that the user has not seen, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentvars.embedding.search.metrics import check_count
from latentvars.embedding.vectors import Vectors, as_array, as_vectors
from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError

NOTHING = np.empty(0, dtype=np.int64)
NUMBERS = 4_000_000  # scores that are held at a time
# users [U, W], items [I, W] → [U, I], larger is better
SCORES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "inner": lambda users, items: users @ items.T,
    "cosine": lambda users, items: _units(users) @ _units(items).T,
    "euclidean": lambda users, items: -_distances(users, items),
}


@dataclass(frozen=True, eq=False)
class Recommendations:
    """Items for each user, best first.

    Attributes:
        users: ids ``[U]``.
        items: ids of the items ``[U, k]``, "" where a user has seen all but fewer than k.
        positions: of the items ``[U, k]``, -1 likewise.
        scores: ``[U, k]``, −∞ likewise; equal scores stand in the order of the items.
    """

    users: np.ndarray = field(repr=False)
    items: np.ndarray
    positions: np.ndarray = field(repr=False)
    scores: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, user: str) -> list[str]:
        """Items of a user, by id, best first.

        Raises:
            NameUnknownError: no such user.
        """
        found = self.items[np.flatnonzero(self.users == str(user))]
        if not len(found):
            raise NameUnknownError(f"the user {user!r}", f"one of {len(self)} users", "look the id up in .users.")
        return [item for item in found[0].tolist() if item]


def recommend(users: Any, items: Any, k: int = 10, *, seen: Any = None, score: str = "inner") -> Recommendations:
    """The k items of the highest scores for each user, without those that the user has seen; exact, block by block.

    Args:
        users: vectors ``[U, W]``.
        items: vectors ``[I, W]``, of the same fit.
        k: how many; fewer where fewer are left.
        seen: what is left out: a matrix ``[U, I]``, scipy sparse or dense, of which every number but 0 counts, in the
            order of users and items; or user id → ids of items (users that it does not name have seen nothing).
        score: "inner" (inner product), "cosine" or "euclidean" (−distance).

    Raises:
        ShapeError: vectors of different widths, or ``seen`` of another shape.
        DataError: users and items of different fits, no items, or a vector of length 0 where cosines are wanted.
        NameUnknownError: a user or an item in ``seen`` that does not exist.
        KindError: ``seen`` that is neither.
        SettingError: another score, or k below 1.
    """
    users, items = as_vectors(users), as_vectors(items)
    if score not in SCORES:
        raise SettingError(f"score={score!r}", f"one of {list(SCORES)}", "change it.")
    k = check_count("k", k)
    _check(users, items)
    if not len(items):
        raise DataError("no items", "at least one", "pass the items that may be recommended.")
    known, size = _seen(seen, users, items), min(k, len(items))
    positions = np.full((len(users), size), -1, dtype=np.int64)
    scores = np.full((len(users), size), -np.inf)
    step = max(1, NUMBERS // max(1, len(items)))
    table = items.values.astype(np.float64)
    for low in range(0, len(users), step):
        block = SCORES[score](users.values[low : low + step].astype(np.float64), table)
        for place, line in enumerate(block, low):
            line[known(place)] = -np.inf
            best = _best(line, size)
            positions[place, : len(best)], scores[place, : len(best)] = best, line[best]
    named = np.append(items.ids, "")
    return Recommendations(users.ids, named[positions], positions, scores)


def _best(line: np.ndarray, size: int) -> np.ndarray:
    """Positions of the highest numbers in order, of equal ones the first; −∞ is left out."""
    bound = np.partition(line, len(line) - size)[len(line) - size]
    least = np.flatnonzero((line >= bound) & (line > -np.inf))
    return least[np.argsort(-line[least], kind="stable")][:size]


def _seen(given: Any, users: Vectors, items: Vectors) -> Callable[[int], np.ndarray]:
    """User's position → positions of the items that are left out."""
    from scipy.sparse import csr_array, issparse

    if given is None:
        return lambda user: NOTHING
    if isinstance(given, Mapping) and not issparse(given):
        named = {str(user): list(found) for user, found in given.items()}
        if named:
            users.positions(list(named))  # a misspelt user would have seen nothing
        return lambda user: items.positions(found) if (found := named.get(users.ids[user])) else NOTHING
    table: Any = given if issparse(given) else as_array(given)
    if table.dtype.kind not in "biufc" or table.ndim != 2:
        raise KindError(
            given=f"seen of type {type(given).__name__}",
            needed="a matrix [users, items], or a mapping user id -> item ids",
            remedy="write seen={user: [item, ...]}",
        )
    matrix: Any = csr_array(table, copy=True)
    if matrix.shape != (len(users), len(items)):
        raise ShapeError(
            given=f"seen of shape {list(matrix.shape)}",
            needed=f"[{len(users)} users, {len(items)} items]",
            remedy="bring it into their order, or pass user id -> item ids",
        )
    matrix.eliminate_zeros()
    return lambda user: matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]]


def _check(users: Vectors, items: Vectors) -> None:
    if users.width != items.width:
        given = f"users of {users.width} coordinates beside items of {items.width}"
        raise ShapeError(given, "as many", "take both from one fit.")
    fits = users.provenance.fit, items.provenance.fit
    if all(fits) and fits[0] != fits[1]:
        raise DataError(
            given=f"users from {users.provenance} beside items from {items.provenance}",
            needed="vectors of one fit",
            remedy="take both from the same fit: products of different ones say nothing",
        )


def _units(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise DataError("vectors of length 0", "vectors with a direction", "leave them out, or use score='inner'.")
    return vectors / lengths


def _distances(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(users, items)
