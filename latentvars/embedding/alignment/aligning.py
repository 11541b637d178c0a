"""align_vectors: vectors of a refit in the axes of those that are already stored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from latentvars.embedding.alignment.maps import fitted, kind_of
from latentvars.embedding.alignment.shared import numbers, shared
from latentvars.embedding.vectors import Provenance, Vectors, as_vectors
from latentvars.errors import DataError, SettingError, ShapeError
from latentvars.randomness import derive

HALVES = 10  # times that the common rows are cut in two


@dataclass(frozen=True, eq=False)
class VectorAlignment:
    """The map v → v A + b from the space of a refit to an old one.

    Attributes:
        kind: "sign", "permutation", "signed permutation", "rotation" or "rotation+scale".
        matrix: A ``[W, W]``.
        offset: b ``[W]``, zero without a shift.
        rows: M, from how many common rows it was learnt.
        residual: share of the old vectors' sum of squares about their mean that is left between the two: 0 where the
            refit is the old fit in other axes, near 1 or above where they have nothing in common. Of rows that the map
            was not learnt from, wherever there are 2 W rows or more.
        names: of the old coordinates, W.
        source: where vectors come from that it takes.
        target: where they belong to afterwards.
    """

    kind: str
    matrix: np.ndarray = field(repr=False)
    offset: np.ndarray = field(repr=False)
    rows: int
    residual: float
    names: tuple[str, ...] = field(repr=False)
    source: Provenance
    target: Provenance

    def apply(self, vectors: Any) -> Vectors:
        """Vectors of the refit, any rows of it, in the old space ``[N, W]``.

        They have the old provenance, so that an index of old vectors takes them, with a note of what was done in its
        field ``aligned``; in the metadata column "aligned" it stays with each row among others. Standard deviations
        are those of v A where the errors of the coordinates are uncorrelated, √(std² (A∘A)): exact for signs and
        permutations; a rotation needs covariances for more.

        Raises:
            ShapeError: vectors of another width.
            DataError: vectors from elsewhere than those it was learnt from.
        """
        given = as_vectors(vectors)
        if given.width != len(self.offset):
            raise ShapeError(
                given=f"vectors of {given.width} coordinates",
                needed=f"{len(self.offset)}",
                remedy="pass vectors of the refit that the map was learnt from",
            )
        if given.provenance.space != self.source.space:
            raise DataError(
                given=f"vectors from {given.provenance}",
                needed=f"vectors from {self.source}",
                remedy="pass vectors of the refit that the map was learnt from",
            )
        values = (numbers(given) @ self.matrix + self.offset).astype(given.values.dtype)
        std = None
        if given.std is not None:
            std = np.sqrt(given.std.astype(np.float64) ** 2 @ self.matrix**2).astype(given.std.dtype)
        note = f"{self.kind} from {self.source}"
        metadata = {**given.metadata, "aligned": np.full(len(given), note)}
        return Vectors(values, given.ids, self.names, std, metadata, replace(self.target, aligned=note))

    def __str__(self) -> str:
        return (
            f"{self.kind} of {len(self.offset)} coordinates from {self.source} to {self.target}, learnt from "
            f"{self.rows} common rows: {self.residual:.1%} of the sum of squares is left"
        )


def vector_alignment(
    new: Any, old: Any, kind: str = "rotation", *, ids: Any = None, shift: bool = False, seed: int = 0
) -> VectorAlignment:
    """Learn the map that brings new vectors closest to the old ones of the same ids, by least squares.

    "sign" and "permutation" are for coordinates with a meaning of their own (probabilities of components: permutation;
    factors in an order: sign), "rotation" for latents that are known up to a turn (factor analysis without a
    criterion, a VAE under a normal prior). Reflections count as rotations. Assignment by the Hungarian algorithm,
    rotations by orthogonal Procrustes (Schönemann 1966); with "rotation+scale" the scale is the best for that turn.

    Args:
        new: vectors ``[N, W]`` of the refit.
        old: vectors ``[N', W]`` in whose axes they are wanted.
        kind: of the map.
        ids: common ids to learn from (such as rows that are known not to have changed); None: all.
        shift: whether origins may differ; a normal prior about zero says that they do not.
        seed: of the halves by which ``residual`` is found.

    Raises:
        ShapeError: vectors of different widths.
        DataError: fewer common ids than the map needs.
        NameUnknownError: an id that one of them does not have.
        SettingError: no such kind.
    """
    new, old, chosen = as_vectors(new), as_vectors(old), kind_of(kind)
    if new.width != old.width:
        raise ShapeError(
            given=f"{new.width} coordinates beside {old.width}",
            needed="as many",
            remedy="refit with the same latents; lv.concordance compares vectors of any widths",
        )
    here, there = (new.positions(ids), old.positions(ids)) if ids is not None else shared(new, old)
    least = new.width + shift if chosen.turns else 1 + shift
    if len(here) < least:
        raise DataError(
            given=f"{len(here)} common rows for a {kind} of {new.width} coordinates",
            needed=f"at least {least}",
            remedy="embed more of the old rows with the new fit",
        )
    points, goals = numbers(new, here), numbers(old, there)
    matrix, offset = fitted(chosen, points, goals, shift)
    left = _left(chosen, points, goals, shift, least, seed)
    return VectorAlignment(kind, matrix, offset, len(here), left, tuple(old.names), new.provenance, old.provenance)


def align_vectors(
    new: Any,
    old: Any,
    kind: str = "rotation",
    *,
    ids: Any = None,
    shift: bool = False,
    tolerance: float = 0.5,
    seed: int = 0,
) -> Vectors:
    """All new vectors in the space of the old, by a map that is learnt from the ids common to both.

    ``index.add(lv.align_vectors(lv.Embedding(refit).vectors(x, ids=ids), stored))``. For the map itself, to bring
    later rows of the same refit along, use :func:`vector_alignment`; its ``apply`` has what becomes of ids, standard
    deviations and provenance.

    Args:
        new, old, kind, ids, shift, seed: as for :func:`vector_alignment`.
        tolerance: the largest ``residual`` at which the spaces still count as one.

    Raises:
        DataError: what is left is more than the tolerance: the refit found something else.
        ShapeError, NameUnknownError, SettingError: as for :func:`vector_alignment`.
    """
    if not tolerance > 0:
        raise SettingError(f"tolerance={tolerance}", "a share above 0", "write tolerance=0.5")
    found = vector_alignment(new, old, kind, ids=ids, shift=shift, seed=seed)
    if not found.residual <= tolerance:
        raise DataError(
            given=f"a {kind} that leaves {found.residual:.0%} of the old vectors' sum of squares about their mean",
            needed=f"at most {tolerance:.0%} (tolerance=)",
            remedy="try another kind= or shift=True; if lv.concordance(new, old) is low too, the refit learnt "
            "something else: embed all rows anew",
        )
    return found.apply(new)


def _left(kind: Any, points: np.ndarray, goals: np.ndarray, shift: bool, least: int, seed: int) -> float:
    """The residual, of rows outside the half that a map was learnt from where halves are large enough."""
    size = len(points)
    spread = ((goals - goals.mean(0)) ** 2).sum() / size
    if size < 2 * max(least, points.shape[1]):
        matrix, offset = fitted(kind, points, goals, shift)
        errors = [((points @ matrix + offset - goals) ** 2).sum() / size]
    else:
        chance, errors = np.random.default_rng(derive(seed, 71)), []
        for _ in range(HALVES):
            order = chance.permutation(size)
            for learn, judge in ((order[: size // 2], order[size // 2 :]), (order[size // 2 :], order[: size // 2])):
                matrix, offset = fitted(kind, points[learn], goals[learn], shift)
                errors.append(((points[judge] @ matrix + offset - goals[judge]) ** 2).sum() / len(judge))
    return float(np.mean(errors) / spread) if spread > 0 else float(np.mean(errors) > 0)
