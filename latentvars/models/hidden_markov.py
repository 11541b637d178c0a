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
from latentvars.models.mixture import check_enough
from latentvars.models.priors import Priors, check_names
from latentvars.rows import Batch, Rows
from latentvars.starts import Grouping, KMeansPlusPlus, Points, blurred

STICKY = 0.8  # probability of staying towards which the start is drawn


@final
@dataclass(frozen=True, init=False)
class HiddenMarkov:
    """p(x_1..T) = Σ_z π(z_1) Π_{t>1} A(z_t−1, z_t) Π_t f(x_t; θ_{z_t}), the path z summed out (Rabiner 1989, eq. 17).

    Sites: ``initial`` ``[K]`` (π, the law of the first state; only where it is free), ``transition`` ``[K, K]`` (A,
    from → to), those of the emission (globals), ``z`` (local, collapsed), ``x`` (observed: the column ``"x"`` or the
    only one there is). A row is a sequence; data without lengths are one sequence (see :meth:`prepare`).

    Inputs u_t (covariates) of the steps can drive π by u_1, the move from step t to t+1 by u_t, and the emission by u_t
    (``lv.emissions.Regression``): multinomial logits with the first state as the reference, whose coefficients are 0
    (Visser & Speekenbrink 2010). The sites are then ``initial_coefficients`` ``[P, K-1]`` in the place of ``initial``,
    ``transition_coefficients`` ``[K, P, K-1]`` (from, input, to) in that of ``transition``; an intercept is whatever
    column of ones the inputs have.

    Args:
        states: K.
        emission: the law of x in each state.
        initial: ``"free"``: π is a global; ``"stationary"``: π is the stationary law of A, π = πA.
        priors: site name → prior; sites without one are flat (maximum likelihood).
        initial_by: name of the column of inputs that drive π.
        transition_by: name of the column of inputs that drive A.

    Raises:
        SettingError: fewer than one state, another ``initial``, or inputs that do not fit with it.
        NameUnknownError: a prior of a site that does not exist.
    """

    states: int
    emission: Emission
    stationary: bool
    priors: Mapping[str, TorchDistribution] | None
    initial_by: str | None = None
    transition_by: str | None = None

    def __init__(
        self,
        states: int,
        emission: Emission,
        initial: str = "free",
        priors: Mapping[str, TorchDistribution] | None = None,
        initial_by: str | None = None,
        transition_by: str | None = None,
    ) -> None:
        positive("states", states)
        check_groups("initial_by", initial_by, states)
        check_groups("transition_by", transition_by, states)
        if initial not in ("free", "stationary"):
            raise SettingError(f"initial={initial!r}", "'free' or 'stationary'", "change initial.")
        if initial == "stationary" and (initial_by or transition_by):
            raise SettingError(
                given=f"initial='stationary' with initial_by={initial_by!r}, transition_by={transition_by!r}",
                needed="one transition matrix for all steps, whose stationary law it is",
                remedy="write initial='free'",
            )
        for name, value in (
            ("states", states),
            ("emission", emission),
            ("stationary", initial == "stationary"),
            ("priors", priors),
            ("initial_by", initial_by),
            ("transition_by", transition_by),
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
        transition = self._transition(rows, priors)
        initial = distributions.stationary(transition) if self.stationary else self._initial(rows, priors)
        law = at(self.emission, rows.columns).distribution(self.states, width(rows.x, 2), priors)
        moving, emitting = self.transition_by is not None, bool(reads(self.emission))
        chain = distributions.HiddenMarkov(
            initial, transition, law, rows.lengths, rows.x.shape[1], moving=moving, emitting=emitting
        )
        with rows.plate():
            pyro.sample("x", chain, obs=as_events(rows, 2, law.event_shape))

    def _initial(self, rows: Batch, priors: Priors) -> Tensor:
        """``[K]``, or ``[B, K]`` where inputs drive it."""
        if self.initial_by is None:
            return priors.sample("initial", (self.states,), constraints.simplex)
        first = read_inputs(rows, self.initial_by)[:, 0]
        shape = (first.shape[-1], self.states - 1)
        return categories(first, priors.sample("initial_coefficients", shape, constraints.real))

    def _transition(self, rows: Batch, priors: Priors) -> Tensor:
        """``[K, K]``, or ``[B, T-1, K, K]`` where inputs drive it."""
        if self.transition_by is None:
            return priors.sample("transition", (self.states, self.states), constraints.simplex)
        inputs = read_inputs(rows, self.transition_by)[:, :-1]
        shape = (self.states, inputs.shape[-1], self.states - 1)
        return categories(inputs, priors.sample("transition_coefficients", shape, constraints.real))

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of inputs."""
        own = tuple(name for name in (self.initial_by, self.transition_by) if name is not None)
        return tuple(dict.fromkeys(own + reads(self.emission)))

    def initial(self, rows: Rows, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting values: k-means++ groups of the steps, and their moves drawn towards staying.

        Raises:
            DataError: as :meth:`check`.
        """
        return self.grouped_start(rows, KMeansPlusPlus(), generator)

    def grouped_start(self, rows: Rows, grouping: Grouping, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting values from groups of the steps; errors as :meth:`check`."""
        self.check(rows)
        rows = self.prepare(rows)
        assert rows.lengths is not None
        x, weights = matrix(column(rows)), rows.weights.repeat_interleave(rows.lengths)
        used = weights > 0
        points = at(self.emission, rows.columns).points(filled(x, weights))
        cloud = Points(points, weights, torch.arange(len(x)), len(x))
        groups = blurred(grouping, cloud, self.states, self.emission.blur, generator)
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
        for site, by in (("transition", self.transition_by), ("initial", self.initial_by)):
            if by is not None:
                start[f"{site}_coefficients"] = constant_logit(rows[by].to(x.dtype), start.pop(site))
        emission = at(self.emission, {name: value[used] for name, value in rows.columns.items()})
        return start | emission.start(redrawn(x[used], groups[used], generator), belongs[used])

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of the globals and of z."""
        free: dict[str, tuple[str, ...]] = {} if self.stationary else {"initial": ("state",)}
        if self.initial_by is not None:
            free = {"initial_coefficients": (input_axis(self.initial_by), "state_but_first")}
        chain: dict[str, tuple[str, ...]] = {"transition": ("from_state", "to_state")}
        if self.transition_by is not None:
            chain = {"transition_coefficients": ("from_state", input_axis(self.transition_by), "to_state_but_first")}
        return free | chain | self.emission.sites("state") | {"z": ("row", "step", "state")}

    def coords(self, rows: Rows) -> dict[str, list[int] | list[str]]:
        """Labels along the axes of :meth:`dims`, but for rows and steps."""
        states = {axis: list(range(self.states)) for axis in ("state", "from_state", "to_state")}
        if self.reads:
            states |= {f"{axis}_but_first": list(range(1, self.states)) for axis in ("state", "to_state")}
        return states | self.emission.coords(feature_names(rows)) | input_coords(self.dims(), rows, self.reads)

    def prepare(self, rows: Rows) -> Rows:
        """Rows that are sequences; single observations become the steps of one sequence, in order.

        Raises:
            NameUnknownError: no column of inputs of that name.
            ShapeError: another number of features.
            DataError: values outside the support of the emission, missing inputs, or a weight for each step.
        """
        if rows.lengths is None and bool((rows.weights != 1).any()):
            raise DataError(
                given="weights of the single steps of one sequence",
                needed="one weight for each sequence",
                remedy="pass lengths or groups to Rows, and a weight for each sequence",
            )
        check_inputs(rows, self.reads)
        self.emission.check(matrix(column(rows)), feature_names(rows))
        return rows if rows.lengths is not None else rows.as_sequence()

    def check(self, rows: Rows) -> None:
        """Whether the globals can be estimated from the rows.

        Raises:
            SettingError: more states than steps (in sequences of positive weight).
            DataError: a feature without observed entries, or a constant one whose variance is estimated; collinear
                inputs; also all errors of :meth:`prepare`.
        """
        rows = self.prepare(rows)
        assert rows.lengths is not None
        used = rows.weights.repeat_interleave(rows.lengths) > 0
        check_enough("states", self.states, "steps", int(used.sum()))
        x = counted(rows, used)
        check_observed(x, feature_names(rows))
        self.emission.check_estimable(x, feature_names(rows))
        ends = rows.lengths.cumsum(0) - 1
        first, moving = torch.zeros_like(used), used.clone()
        first[ends - rows.lengths + 1], moving[ends] = True, False
        uses = [
            (self.initial_by, used & first, " at first steps"),
            (self.transition_by, moving, " at steps but the last"),
        ]
        uses += [(name, used, "") for name in reads(self.emission)]
        for name, steps, where in uses:
            if name is not None:
                check_rank(rows[name][steps], rows.features[name], f"in {name!r}{where}")

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
