"""Beliefs as numbers: normal, categorical, or draws. What is known of where each row lies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, final

import numpy as np
from torch.distributions import Categorical, Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from latentvars.embedding.vectors import Vectors, as_array
from latentvars.errors import DataError, KindError, NameUnknownError, ShapeError
from latentvars.posterior.latent import LatentPosterior, has_labels, is_discrete


class Beliefs(ABC):
    """Where each of N rows lies, as far as is known."""

    @property
    @abstractmethod
    def means(self) -> np.ndarray:
        """``[N, W]``; probabilities ``[N, K]`` of categories."""

    @abstractmethod
    def draw(self, number: int, noise: np.random.Generator) -> np.ndarray:
        """One draw of all rows, ``[N, W]``, or categories ``[N]``."""

    @abstractmethod
    def take(self, positions: np.ndarray) -> Beliefs:
        """Those of some rows."""

    @property
    def what(self) -> str:
        """For people."""
        return f"{len(self.means)} {type(self).__name__} of width {self.means.shape[1]}"


@final
@dataclass(frozen=True, eq=False)
class NormalBeliefs(Beliefs):
    """z_n ~ N(loc_n, covariance_n), independent of one another.

    Attributes:
        loc: ``[N, W]``.
        spread: covariances ``[N, W, W]``, or variances ``[N, W]`` of independent coordinates; 0 where z is known.
    """

    loc: np.ndarray = field(repr=False)
    spread: np.ndarray = field(repr=False)

    @property
    def means(self) -> np.ndarray:
        return self.loc

    @property
    def diagonal(self) -> bool:
        return self.spread.ndim == 2

    @property
    def total(self) -> np.ndarray:
        """Traces of the covariances ``[N]``."""
        return self.spread.sum(1) if self.diagonal else np.trace(self.spread, axis1=1, axis2=2)

    @property
    def covariance(self) -> np.ndarray:
        """``[N, W, W]``."""
        return self.spread[:, :, None] * np.eye(self.loc.shape[1]) if self.diagonal else self.spread

    @cached_property
    def root(self) -> np.ndarray:
        """Symmetric roots of the covariances ``[N, W, W]``."""
        value, axes = np.linalg.eigh(self.covariance)
        return (axes * np.sqrt(np.maximum(value, 0))[:, None, :]) @ axes.swapaxes(1, 2)

    def draw(self, number: int, noise: np.random.Generator) -> np.ndarray:
        standard = noise.standard_normal(self.loc.shape)
        if self.diagonal:
            return self.loc + np.sqrt(self.spread) * standard
        return self.loc + np.einsum("nwv,nv->nw", self.root, standard)

    def take(self, positions: np.ndarray) -> NormalBeliefs:
        return NormalBeliefs(self.loc[positions], self.spread[positions])


@final
@dataclass(frozen=True, eq=False)
class CategoricalBeliefs(Beliefs):
    """z_n = k with probability p_nk, independent of one another. Two rows lie 0 apart in one category, or else 1.

    Attributes:
        probabilities: ``[N, K]``.
    """

    probabilities: np.ndarray = field(repr=False)

    @property
    def means(self) -> np.ndarray:
        return self.probabilities

    def draw(self, number: int, noise: np.random.Generator) -> np.ndarray:
        below = self.probabilities.cumsum(1) / self.probabilities.sum(1, keepdims=True)
        return (noise.random((len(below), 1)) >= below[:, :-1]).sum(1)

    def take(self, positions: np.ndarray) -> CategoricalBeliefs:
        return CategoricalBeliefs(self.probabilities[positions])


@final
@dataclass(frozen=True, eq=False)
class DrawnBeliefs(Beliefs):
    """Draws of all rows.

    Attributes:
        draws: ``[S, N, W]``.
        joint: whether a draw of other rows with its number belongs to it: what they share, as globals, is the same.
    """

    draws: np.ndarray = field(repr=False)
    joint: bool = True

    @property
    def means(self) -> np.ndarray:
        return self.draws.mean(0)

    def draw(self, number: int, noise: np.random.Generator) -> np.ndarray:
        return self.draws[number % len(self.draws)]

    def take(self, positions: np.ndarray) -> DrawnBeliefs:
        return DrawnBeliefs(self.draws[:, positions], self.joint)


def joined_beliefs(first: Beliefs, second: Beliefs) -> Beliefs:
    """Beliefs of one family and width, one behind the other.

    Raises:
        KindError: draws that rows share beside draws of each row alone.
    """
    if isinstance(first, NormalBeliefs) and isinstance(second, NormalBeliefs):
        alike = first.diagonal == second.diagonal
        spread = [one.spread if alike else one.covariance for one in (first, second)]
        return NormalBeliefs(np.concatenate([first.loc, second.loc]), np.concatenate(spread))
    if isinstance(first, CategoricalBeliefs) and isinstance(second, CategoricalBeliefs):
        return CategoricalBeliefs(np.concatenate([first.probabilities, second.probabilities]))
    assert isinstance(first, DrawnBeliefs) and isinstance(second, DrawnBeliefs)
    if first.joint != second.joint:
        raise KindError(
            given="draws of each row alone beside draws that rows share",
            needed="draws of one kind",
            remedy="draw all rows together: lv.BeliefIndex(fit.draw_latents(...))",
        )
    return DrawnBeliefs(np.concatenate([first.draws, second.draws], axis=1), first.joint)


def beside(queries: Beliefs) -> Beliefs:
    """Queries as they are drawn beside rows: draws that are not joint may come from the same seed, so that those of
    one number are not independent, but those of the next are."""
    if isinstance(queries, DrawnBeliefs) and not queries.joint:
        return DrawnBeliefs(np.roll(queries.draws, 1, axis=0), joint=False)
    return queries


def read_beliefs(given: Any, site: str | None, draws: int, seed: int) -> tuple[Beliefs, list[str] | None]:
    """Beliefs and, where they are known, the ids of their rows.

    Args:
        given: a :class:`LatentPosterior`, :class:`Vectors` with standard deviations, or draws ``[S, N, W]``, also by
            site.
        site: of a posterior with several.
        draws: of beliefs that are neither normal nor categorical.
        seed: of these.

    Raises:
        KindError: vectors without standard deviations, or beliefs about whole sequences.
        ShapeError: draws of another shape.
        DataError: draws that are not finite.
        NameUnknownError: another site.
    """
    if isinstance(given, Beliefs):
        return given, None
    if isinstance(given, LatentPosterior):
        names = list(map(str, given.names))
        return _of_latent(given, site, draws, seed), names
    if isinstance(given, Vectors):
        if given.std is None:
            _without_spread("vectors without standard deviations")
        return NormalBeliefs(given.values.astype(float), np.square(given.std, dtype=float)), given.ids.tolist()
    if isinstance(given, Mapping):
        given = _of_site(given, site)
    array = as_array(given) if hasattr(given, "shape") else None
    if array is not None and array.dtype.kind not in "fiub":
        raise KindError(f"an array of type {array.dtype}", "numbers", "pass draws [S, N, W].")
    array = None if array is None else array.astype(float)
    if array is None or array.ndim == 2:
        _without_spread(f"a {type(given).__name__}" if array is None else f"an array of shape {list(array.shape)}")
    if array.ndim != 3 or not array.size:
        raise ShapeError(f"draws of shape {list(array.shape)}", "[draws, rows, coordinates]", "pass draws so.")
    if not np.isfinite(array).all():
        raise DataError("draws that are not finite", "finite numbers", "leave these rows or draws out.")
    return DrawnBeliefs(array), None


def _of_site(drawn: Mapping[str, Any], site: str | None) -> Any:
    if site is None and len(drawn) == 1:
        return next(iter(drawn.values()))
    if site is None or site not in drawn:
        raise NameUnknownError(f"draws of {list(drawn)}, and site={site!r}", "the name of one", "write site=")
    return drawn[site]


def _of_latent(latent: LatentPosterior, site: str | None, draws: int, seed: int) -> Beliefs:
    means = latent.mean(site)
    name = site or latent.sites[0]
    first: Any = latent.beliefs[name][0]
    if is_discrete(first) and means.dim() == 2:
        return CategoricalBeliefs(means.double().numpy(force=True))
    inner = first
    while isinstance(inner, Independent):
        inner = inner.base_dist
    if has_labels(first) or isinstance(inner, Categorical):
        raise KindError(
            given=f"{name!r}, a sequence of categories for each row",
            needed="a number, a vector or one category for each row",
            remedy="draw what is to be compared, as the shares of the states of paths: lv.BeliefIndex(draws [S, N, W])",
        )
    if isinstance(inner, MultivariateNormal | LowRankMultivariateNormal) and len(inner.batch_shape) == 1:
        parts = [(part.mean, _covariance(part)) for part in latent.beliefs[name]]
    elif isinstance(inner, Normal):
        parts = [(_table(part.mean), _table(part.variance)) for part in latent.beliefs[name]]
    else:
        sampled = latent.sample(name, draws, seed).double().numpy(force=True)
        return DrawnBeliefs(sampled.reshape(*sampled.shape[:2], -1), joint=False)
    loc, spread = (
        np.concatenate([one.double().numpy(force=True) for one in side]) for side in zip(*parts, strict=True)
    )
    return NormalBeliefs(loc, spread)


def _covariance(part: Any) -> Any:
    while isinstance(part, Independent):
        part = part.base_dist
    return part.covariance_matrix


def _table(numbers: Any) -> Any:
    """``[B, ...]`` as ``[B, W]``."""
    return numbers.reshape(len(numbers), -1)


def _without_spread(given: str) -> NoReturn:
    raise KindError(
        given=f"{given}, of which no spread is known",
        needed="beliefs: fit.latent(rows), draws [S, N, W], or vectors with std",
        remedy="search fixed vectors by lv.Index; points known exactly are lv.Vectors(x, std=np.zeros_like(x))",
    )
