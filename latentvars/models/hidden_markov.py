"""Hidden Markov models of any emission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from latentvars import distributions
from latentvars.errors import DataError, SettingError, ShapeError
from latentvars.models import convert_hmmlearn
from latentvars.models.columns import as_events, check_observed, column, feature_names, matrix, width
from latentvars.models.emissions.base import Emission, positive
from latentvars.models.initial import filled, redrawn, soft_groups
from latentvars.models.mixture import check_enough
from latentvars.models.priors import Priors, check_names
from latentvars.rows import Batch, Rows

STICKY = 0.8  # probability of staying towards which the start is drawn


@final
@dataclass(frozen=True, init=False)
class HiddenMarkov:
    """p(x_1..T) = Σ_z π(z_1) Π_{t>1} A(z_t−1, z_t) Π_t f(x_t; θ_{z_t}), the path z summed out (Rabiner 1989, eq. 17).

    Sites: ``initial`` ``[K]`` (π, the law of the first state; only where it is free), ``transition`` ``[K, K]`` (A,
    from → to), those of the emission (globals), ``z`` (local, collapsed), ``x`` (observed: the column ``"x"`` or the
    only one there is). A row is a sequence; data without lengths are one sequence (see :meth:`prepare`).

    Args:
        states: K.
        emission: the law of x in each state.
        initial: ``"free"``: π is a global; ``"stationary"``: π is the stationary law of A, π = πA.
        priors: site name → prior; sites without one are flat (maximum likelihood).

    Raises:
        SettingError: fewer than one state, or another ``initial``.
        NameUnknownError: a prior of a site that does not exist.
    """

    states: int
    emission: Emission
    stationary: bool
    priors: Mapping[str, TorchDistribution] | None

    def __init__(
        self,
        states: int,
        emission: Emission,
        initial: str = "free",
        priors: Mapping[str, TorchDistribution] | None = None,
    ) -> None:
        positive("states", states)
        if initial not in ("free", "stationary"):
            raise SettingError(f"initial={initial!r}", "'free' or 'stationary'", "change initial.")
        for name, value in (
            ("states", states),
            ("emission", emission),
            ("stationary", initial == "stationary"),
            ("priors", priors),
        ):
            object.__setattr__(self, name, value)
        check_names(priors or {}, [site for site in self.dims() if site != "z"])

    def model(self, rows: Batch) -> None:
        """The Pyro model."""
        if rows.lengths is None:
            raise ShapeError(
                given="rows that are single observations",
                needed="rows that are sequences",
                remedy="pass lengths, groups or a list of arrays to Rows, or call prepare(rows) for one sequence",
            )
        priors = Priors(self.priors or {})
        transition = priors.sample("transition", (self.states, self.states), constraints.simplex)
        if self.stationary:
            initial = distributions.stationary(transition)
        else:
            initial = priors.sample("initial", (self.states,), constraints.simplex)
        law = self.emission.distribution(self.states, width(rows.x, 2), priors)
        chain = distributions.HiddenMarkov(initial, transition, law, rows.lengths, steps=rows.x.shape[1])
        with rows.plate():
            pyro.sample("x", chain, obs=as_events(rows, 2, law.event_shape))

    def initial(self, rows: Rows, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting values: k-means++ groups of the steps, and their moves drawn towards staying.

        Raises:
            DataError: as :meth:`check`.
        """
        self.check(rows)
        rows = self.prepare(rows)
        assert rows.lengths is not None
        x, weights = matrix(column(rows)), rows.weights.repeat_interleave(rows.lengths)
        used = weights > 0
        points = self.emission.points(filled(x, weights))
        groups = soft_groups(points, weights, self.states, self.emission.blur, generator)
        belongs = groups * (weights / weights[used].mean())[:, None]
        ends = rows.lengths.cumsum(0) - 1
        first, last = ends - rows.lengths + 1, torch.zeros(len(x), dtype=torch.bool)
        last[ends] = True
        moves = belongs[:-1][~last[:-1]].mT @ groups[1:][~last[:-1]] + 1 / self.states
        stay = STICKY * torch.eye(self.states, dtype=x.dtype) + (1 - STICKY) / self.states
        law = belongs[first].sum(0) + 1 / self.states
        start = {"transition": 0.5 * moves / moves.sum(-1, keepdim=True) + 0.5 * stay}
        if not self.stationary:
            start["initial"] = 0.5 * law / law.sum() + 0.5 / self.states
        return start | self.emission.start(redrawn(x[used], groups[used], generator), belongs[used])

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of the globals and of z."""
        free = {} if self.stationary else {"initial": ("state",)}
        chain = {"transition": ("from_state", "to_state")}
        return free | chain | self.emission.sites("state") | {"z": ("row", "step", "state")}

    def coords(self, rows: Rows) -> dict[str, list[int] | list[str]]:
        """Labels along the axes of :meth:`dims`, but for rows and steps."""
        states = {axis: list(range(self.states)) for axis in ("state", "from_state", "to_state")}
        return states | self.emission.coords(feature_names(rows))

    def prepare(self, rows: Rows) -> Rows:
        """Rows that are sequences; single observations become the steps of one sequence, in order.

        Raises:
            ShapeError: another number of features.
            DataError: values outside the support of the emission, or a weight for each step.
        """
        if rows.lengths is None and bool((rows.weights != 1).any()):
            raise DataError(
                given="weights of the single steps of one sequence",
                needed="one weight for each sequence",
                remedy="pass lengths or groups to Rows, and a weight for each sequence",
            )
        self.emission.check(matrix(column(rows)), feature_names(rows))
        return rows if rows.lengths is not None else rows.as_sequence()

    def check(self, rows: Rows) -> None:
        """Whether the globals can be estimated from the rows.

        Raises:
            SettingError: more states than steps (in sequences of positive weight).
            DataError: a feature without observed entries, or a constant one whose variance is estimated; also all
                errors of :meth:`prepare`.
        """
        rows = self.prepare(rows)
        assert rows.lengths is not None
        used = rows.weights.repeat_interleave(rows.lengths) > 0
        check_enough("states", self.states, "steps", int(used.sum()))
        check_observed(matrix(column(rows)[used]), feature_names(rows))
        self.emission.check_estimable(matrix(column(rows)[used]), feature_names(rows))

    @staticmethod
    def from_hmmlearn(fitted: Any) -> tuple[HiddenMarkov, dict[str, Tensor]]:
        """The model and the globals of a fitted hmmlearn GaussianHMM, PoissonHMM or CategoricalHMM.

        Raises:
            KindError: another estimator, or one that is not fitted.
        """
        emission, point = convert_hmmlearn.read(fitted)
        return HiddenMarkov(len(point["initial"]), emission), point

    def to_hmmlearn(self, point: Mapping[str, Tensor]) -> Any:
        """A fitted hmmlearn model with these globals, of equal likelihood.

        Args:
            point: constrained globals, as ``fit.point``.

        Raises:
            KindError: hmmlearn has no model of this emission.
            ImportError: hmmlearn is not installed.
            NameUnknownError: a global is not in ``point``.
        """
        law = distributions.stationary(point["transition"]) if self.stationary else None
        return convert_hmmlearn.write(self.emission, point if law is None else {**point, "initial": law})
