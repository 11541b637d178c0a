"""The map of a kind that brings some points closest to others, by least squares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from latentvars.errors import SettingError

# points [M, W] and where they should come to [M, W] → a matrix to the right of the points, [W, W]
Finder = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """A family of maps v → v A.

    Attributes:
        find: its best member.
        turns: whether coordinates are mixed, so that W rows are needed to tell the map.
    """

    find: Finder
    turns: bool


def _sign(points: np.ndarray, goals: np.ndarray) -> np.ndarray:
    return np.diag(np.where((points * goals).sum(0) < 0, -1.0, 1.0))


def _permutation(points: np.ndarray, goals: np.ndarray) -> np.ndarray:
    return _assigned(points.T @ goals)


def _signed_permutation(points: np.ndarray, goals: np.ndarray) -> np.ndarray:
    products = points.T @ goals
    return _assigned(np.abs(products)) * np.where(products < 0, -1.0, 1.0)


def _assigned(gain: np.ndarray) -> np.ndarray:
    """The permutation of largest gain; lengths stay, so that it is also the one of least squares."""
    from scipy.optimize import linear_sum_assignment

    found = np.zeros_like(gain)
    found[linear_sum_assignment(gain, maximize=True)] = 1.0
    return found


def _rotation(points: np.ndarray, goals: np.ndarray) -> np.ndarray:
    return _procrustes(points, goals)[0]


def _scaled_rotation(points: np.ndarray, goals: np.ndarray) -> np.ndarray:
    turn, trace = _procrustes(points, goals)
    return turn * (trace / max((points**2).sum(), np.finfo(float).tiny))


def _procrustes(points: np.ndarray, goals: np.ndarray) -> tuple[np.ndarray, float]:
    from scipy.linalg import orthogonal_procrustes

    return orthogonal_procrustes(points, goals)


KINDS: Mapping[str, Kind] = {
    "sign": Kind(_sign, False),
    "permutation": Kind(_permutation, False),
    "signed permutation": Kind(_signed_permutation, False),
    "rotation": Kind(_rotation, True),
    "rotation+scale": Kind(_scaled_rotation, True),
}


def kind_of(name: str) -> Kind:
    """The kind of a name.

    Raises:
        SettingError: there is none.
    """
    if name not in KINDS:
        raise SettingError(f"kind={name!r}", f"one of {list(KINDS)}", "change kind=.")
    return KINDS[name]


def fitted(kind: Kind, points: np.ndarray, goals: np.ndarray, shift: bool) -> tuple[np.ndarray, np.ndarray]:
    """A ``[W, W]`` and b ``[W]`` of the map v → v A + b; b is zero without a shift."""
    if not shift:
        return kind.find(points, goals), np.zeros(goals.shape[1])
    here, there = points.mean(0), goals.mean(0)
    matrix = kind.find(points - here, goals - there)
    return matrix, there - here @ matrix
