"""Finite mixtures of any emission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from latentvars import distributions
from latentvars.errors import SettingError, ShapeError
from latentvars.models.columns import as_events, check_observed, column, feature_names, matrix, width
from latentvars.models.emissions.base import Emission, positive
from latentvars.models.initial import SAMPLE, filled, redrawn, sample, soft_groups
from latentvars.models.priors import Priors, check_names
from latentvars.rows import Batch, Rows


@final
@dataclass(frozen=True)
class Mixture:
    """p(x_n) = Σ_k weights_k f(x_n; θ_k), the component z_n summed out (McLachlan & Peel 2000, eq. 1.1).

    Sites: ``weights`` ``[K]`` and those of the emission (globals), ``z`` (local, collapsed), ``x`` (observed: the
    column ``"x"`` or the only one there is).

    Attributes:
        components: K.
        emission: the law of x in each component.
        priors: site name → prior; sites without one are flat (maximum likelihood).

    Raises:
        SettingError: fewer than one component.
        NameUnknownError: a prior of a site that does not exist.
    """

    components: int
    emission: Emission
    priors: Mapping[str, TorchDistribution] | None = None

    def __post_init__(self) -> None:
        positive("components", self.components)
        check_names(self.priors or {}, [site for site in self.dims() if site != "z"])

    def model(self, rows: Batch) -> None:
        """The Pyro model."""
        priors = Priors(self.priors or {})
        weights = priors.sample("weights", (self.components,), constraints.simplex)
        law = self.emission.distribution(self.components, width(rows.x, 1), priors)
        with rows.plate():
            pyro.sample("x", distributions.Mixture(weights, law), obs=as_events(rows, 1, law.event_shape))

    def initial(self, rows: Rows, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting values: k-means++ groups of the rows, weighted by the rows' weights.

        Raises:
            DataError: as :meth:`check`.
        """
        self.check(rows)
        at = sample(rows.weights, SAMPLE, generator)
        x, weights = matrix(column(rows)), rows.weights[at]
        observed, x = x[at], filled(x, rows.weights)[at]
        groups = soft_groups(self.emission.points(x), weights, self.components, self.emission.blur, generator)
        belongs = groups * (weights / weights.mean())[:, None]
        share = belongs.sum(0) + 1
        return {"weights": share / share.sum()} | self.emission.start(redrawn(observed, groups, generator), belongs)

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of the globals and of z."""
        return {"weights": ("component",)} | self.emission.sites("component") | {"z": ("row", "component")}

    def coords(self, rows: Rows) -> dict[str, list[int] | list[str]]:
        """Labels along the axes of :meth:`dims`, but for the rows."""
        return {"component": list(range(self.components))} | self.emission.coords(feature_names(rows))

    def prepare(self, rows: Rows) -> Rows:
        """The rows as they are, if the model can read them.

        Raises:
            ShapeError: sequences, or another number of features.
            DataError: values outside the support of the emission.
        """
        if rows.lengths is not None:
            raise ShapeError(
                given=f"{len(rows)} sequences",
                needed="rows that are single observations",
                remedy="leave lengths and groups out, or use models.HiddenMarkov",
            )
        self.emission.check(matrix(column(rows)), feature_names(rows))
        return rows

    def check(self, rows: Rows) -> None:
        """Whether the globals can be estimated from the rows.

        Raises:
            SettingError: more components than rows (of positive weight).
            DataError: a feature without observed entries, or a constant one whose variance is estimated; also all
                errors of :meth:`prepare`.
        """
        self.prepare(rows)
        used = rows.weights > 0
        check_enough("components", self.components, "rows", int(used.sum()))
        check_observed(matrix(column(rows)[used]), feature_names(rows))
        self.emission.check_estimable(matrix(column(rows)[used]), feature_names(rows))


def check_enough(what: str, groups: int, units: str, available: int) -> None:
    """No more components or states than rows or steps."""
    if groups > available:
        raise SettingError(
            given=f"{groups} {what} for {available} {units}",
            needed=f"at least as many {units} as {what}",
            remedy=f"lower {what} or pass more data",
        )
