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
from latentvars.models.columns import as_events, check_observed, column, counted, feature_names, matrix, width
from latentvars.models.emissions.base import Emission, at, positive, reads
from latentvars.models.initial import filled, redrawn
from latentvars.models.inputs import (
    categories,
    check_groups,
    check_inputs,
    check_rank,
    constant_logit,
    input_axis,
    input_coords,
    read_inputs,
)
from latentvars.models.priors import Priors, check_names
from latentvars.rows import Batch, Rows
from latentvars.starts import Grouping, KMeansPlusPlus, Points, blurred
from latentvars.starts.centres import sample

SAMPLE = 20_000  # rows that a start is estimated from


@final
@dataclass(frozen=True)
class Mixture:
    """p(x_n) = Σ_k weights_k f(x_n; θ_k), the component z_n summed out (McLachlan & Peel 2000, eq. 1.1).

    Sites: ``weights`` ``[K]`` and those of the emission (globals), ``z`` (local, collapsed), ``x`` (observed: the
    column ``"x"`` or the only one there is).

    With ``weights_by`` the weights of row n are softmax_k(u_n · weight_coefficients_k), the first component being the
    reference, whose coefficients are 0: concomitant variables (Dayton & Macready 1988), with regressions as emissions
    a mixture of experts (Jacobs et al. 1991). The site is then ``weight_coefficients`` ``[P, K-1]``; the intercept is
    whatever column of ones the inputs have.

    Attributes:
        components: K.
        emission: the law of x in each component.
        priors: site name → prior; sites without one are flat (maximum likelihood).
        weights_by: name of the column of inputs u ``[N, P]`` that drive the weights.

    Raises:
        SettingError: fewer than one component, or inputs that would drive the weight of one.
        NameUnknownError: a prior of a site that does not exist.
    """

    components: int
    emission: Emission
    priors: Mapping[str, TorchDistribution] | None = None
    weights_by: str | None = None

    def __post_init__(self) -> None:
        positive("components", self.components)
        check_groups("weights_by", self.weights_by, self.components)
        check_names(self.priors or {}, [site for site in self.dims() if site != "z"])

    def model(self, rows: Batch) -> None:
        """The Pyro model."""
        priors = Priors(self.priors or {})
        weights = self._weights(rows, priors)
        law = at(self.emission, rows.columns).distribution(self.components, width(rows.x, 1), priors)
        with rows.plate():
            pyro.sample("x", distributions.Mixture(weights, law), obs=as_events(rows, 1, law.event_shape))

    def _weights(self, rows: Batch, priors: Priors) -> Tensor:
        """``[K]``, or ``[B, K]`` where inputs drive them."""
        if self.weights_by is None:
            return priors.sample("weights", (self.components,), constraints.simplex)
        inputs = read_inputs(rows, self.weights_by)
        shape = (inputs.shape[-1], self.components - 1)
        return categories(inputs, priors.sample("weight_coefficients", shape, constraints.real))

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of inputs."""
        own = () if self.weights_by is None else (self.weights_by,)
        return tuple(dict.fromkeys(own + reads(self.emission)))

    def initial(self, rows: Rows, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting values: k-means++ groups of the rows, weighted by the rows' weights.

        Raises:
            DataError: as :meth:`check`.
        """
        return self.grouped_start(rows, KMeansPlusPlus(), generator)

    def grouped_start(self, rows: Rows, grouping: Grouping, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting values from groups of the rows; errors as :meth:`check`."""
        self.check(rows)
        some = sample(rows.weights, SAMPLE, generator)
        x, weights = matrix(column(rows)), rows.weights[some]
        observed, x = x[some], filled(x, rows.weights)[some]
        emission = at(self.emission, {name: value[some] for name, value in rows.columns.items()})
        points = Points(emission.points(x), weights, some, len(rows))
        groups = blurred(grouping, points, self.components, emission.blur, generator)
        belongs = groups * (weights / weights.mean())[:, None]
        share = (belongs.sum(0) + 1) / (belongs.sum() + self.components)
        start = emission.start(redrawn(observed, groups, generator), belongs)
        if self.weights_by is None:
            return {"weights": share} | start
        return {"weight_coefficients": constant_logit(rows[self.weights_by][some].to(x.dtype), share)} | start

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of the globals and of z."""
        weights: dict[str, tuple[str, ...]] = {"weights": ("component",)}
        if self.weights_by is not None:
            weights = {"weight_coefficients": (input_axis(self.weights_by), "component_but_first")}
        return weights | self.emission.sites("component") | {"z": ("row", "component")}

    def coords(self, rows: Rows) -> dict[str, list[int] | list[str]]:
        """Labels along the axes of :meth:`dims`, but for the rows."""
        labels = list(range(self.components))
        own = {"component": labels} | ({} if self.weights_by is None else {"component_but_first": labels[1:]})
        return own | self.emission.coords(feature_names(rows)) | input_coords(self.dims(), rows, self.reads)

    def prepare(self, rows: Rows) -> Rows:
        """The rows as they are, if the model can read them.

        Raises:
            NameUnknownError: no column of inputs of that name.
            ShapeError: sequences, or another number of features.
            DataError: values outside the support of the emission, or missing inputs.
        """
        if rows.lengths is not None:
            raise ShapeError(
                given=f"{len(rows)} sequences",
                needed="rows that are single observations",
                remedy="leave lengths and groups out, or use models.HiddenMarkov",
            )
        check_inputs(rows, self.reads)
        self.emission.check(matrix(column(rows)), feature_names(rows))
        return rows

    def check(self, rows: Rows) -> None:
        """Whether the globals can be estimated from the rows.

        Raises:
            SettingError: more components than rows (of positive weight).
            DataError: a feature without observed entries, or a constant one whose variance is estimated; collinear
                inputs; also all errors of :meth:`prepare`.
        """
        self.prepare(rows)
        used = rows.weights > 0
        check_enough("components", self.components, "rows", int(used.sum()))
        x = counted(rows, used)
        check_observed(x, feature_names(rows))
        self.emission.check_estimable(x, feature_names(rows))
        for name in self.reads:
            check_rank(rows[name][used], rows.features[name], f"in {name!r}")


def check_enough(what: str, groups: int, units: str, available: int) -> None:
    """No more components or states than rows or steps."""
    if groups > available:
        raise SettingError(
            given=f"{groups} {what} for {available} {units}",
            needed=f"at least as many {units} as {what}",
            remedy=f"lower {what} or pass more data",
        )
