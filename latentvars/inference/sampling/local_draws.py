"""Continuous locals that a sampler draws together with the globals."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from latentvars.contract import LatentModel
from latentvars.distributions.bijection import base_support
from latentvars.errors import ModelError, SupportError
from latentvars.inference.amortised.pushed import Place
from latentvars.inference.running.binding import prepared
from latentvars.program import GlobalSpace, Program, continuous_locals, network_dtype
from latentvars.program.run import Site, read
from latentvars.program.scope import surroundings
from latentvars.randomness import seeded
from latentvars.rows import Batch, Rows

MOST_COVARYING = 32  # numbers of a row's local whose covariance is kept; of larger ones variances alone


@dataclass(frozen=True)
class DrawnLocals:
    """q(z_n) of the rows of one fit: z = T(u), u ~ Normal with the mean and covariance that u has over the draws.

    The guide of a model whose locals were drawn: it says nothing of other rows.

    Attributes:
        places: the locals of a row.
        rows: those of the fit.
        loc: local → ``[N, size]``.
        scale: local → lower triangular ``[N, size, size]``, or standard deviations ``[N, size]`` of long ones.
    """

    places: tuple[Place, ...]
    rows: Rows = field(repr=False)
    loc: Mapping[str, Tensor] = field(repr=False)
    scale: Mapping[str, Tensor] = field(repr=False)

    def guide(self, rows: Batch) -> None:
        """Sample the locals of rows of the fit.

        Raises:
            SupportError: other rows.
        """
        at = self._positions(rows)
        with rows.plate():
            for place in self.places:
                loc, scale = self.loc[place.name][at], self.scale[place.name][at]
                pyro.sample(place.name, place.law(loc, scale, scale.dim() == 3))

    def _positions(self, rows: Batch) -> Tensor:
        """Which rows of the fit these are: by their index, or by what they hold (equal rows have one posterior)."""
        dtype = next(iter(self.loc.values())).dtype
        if int(rows.index.max()) < len(self.rows):
            own = self.rows.batch(rows.index, dtype=dtype)
            if all(_agrees(rows.columns[name], value) for name, value in own.columns.items()):
                return rows.index
        places = {key: number for number, key in reversed(list(enumerate(_keys(self.rows.batch(dtype=dtype)))))}
        found = [places.get(key, -1) for key in _keys(rows)]
        if min(found) < 0:
            raise SupportError(
                given=f"rows whose {[place.name for place in self.places]} were not drawn",
                needed="the rows of the fit, of whose locals there are draws",
                remedy='fit with all rows, or by lv.SVI() with a guide of the model\'s own or guide="auto"',
            )
        return torch.tensor(found)

    @staticmethod
    def of(places: Sequence[Place], rows: Rows, draws: Mapping[str, Tensor]) -> DrawnLocals:
        """From draws ``[S, N, *shape]``."""
        loc, scale = {}, {}
        for place in places:
            free = place.free(draws[place.name].flatten(0, 1)).reshape(*draws[place.name].shape[:2], place.size)
            loc[place.name] = free.mean(0)
            apart = free - free.mean(0)
            if place.size > MOST_COVARYING or len(free) <= place.size:
                scale[place.name] = apart.square().mean(0).sqrt().clamp(min=1e-6)
                continue
            covariance = torch.einsum("sni,snj->nij", apart, apart) / (len(free) - 1)
            ridge = 1e-9 * covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-9)
            eye = torch.eye(place.size, dtype=free.dtype)
            scale[place.name] = torch.linalg.cholesky(covariance + ridge[:, None, None] * eye)
        return DrawnLocals(tuple(places), rows, loc, scale)


def with_locals(model: LatentModel, data: Any) -> LatentModel:
    """A copy of a model, guide or none, whose continuous locals are to be drawn; the model itself where it has none.

    Raises:
        SupportError: a local in a further plate, without a map from real numbers, or whose bounds are not fixed.
    """
    rows = prepared(model, data)
    dtype = network_dtype(model) or torch.float64
    sites = continuous_locals(model, rows, dtype)
    if not sites:
        return model
    places = []
    for name, site in sites.items():
        check_place(name, site)
        places.append(Place.of(site))
    unknown = {place.name: torch.zeros(len(rows), place.size, dtype=dtype) for place in places}
    made = copy.deepcopy(model)
    attach(made, DrawnLocals(tuple(places), rows, unknown, {name: loc + 1 for name, loc in unknown.items()}))
    return made


def drawn_locals(model: LatentModel) -> DrawnLocals | None:
    """The guide of a model whose locals were, or are to be, drawn."""
    owner = getattr(getattr(model, "guide", None), "__self__", None)
    return owner if isinstance(owner, DrawnLocals) else None


def describe(model: LatentModel, draws: Mapping[str, Tensor]) -> None:
    """Let the guide of a model that :func:`with_locals` gave tell of draws ``[S, N, *shape]``."""
    before = drawn_locals(model)
    assert before is not None
    attach(model, DrawnLocals.of(before.places, before.rows, draws))


def attach(model: LatentModel, drawn: DrawnLocals) -> None:
    """Give a model such a guide, in place.

    Raises:
        ModelError: it cannot be given attributes.
    """
    put = setattr if isinstance(model, nn.Module) else object.__setattr__
    try:
        put(model, "guide", drawn.guide)
        if getattr(model, "guide_marginals", None) is not None:  # of the guide that was there
            put(model, "guide_marginals", None)
    except (AttributeError, TypeError) as error:
        raise ModelError(
            given=f"{type(model).__name__} cannot be given an attribute: {error}",
            needed="an object that can be copied and given attributes",
            remedy="remove __slots__ from the model",
        ) from error


def joint(program: Program, rows: Rows, start: Mapping[str, Tensor]) -> Program:
    """The program in which the continuous locals of these rows are globals as well: its score is log p(x, z | θ).

    Args:
        program: the model.
        rows: all data, of weight 1.
        start: globals at which it can be run.

    Raises:
        SupportError: a local whose bounds depend on globals, or rows with weights.
    """
    if bool((rows.weights != 1).any()):
        raise SupportError(
            given="rows with weights, of which each has one draw of its continuous locals",
            needed="rows that count once",
            remedy="repeat rows in the place of whole weights",
        )
    batch = rows.batch(dtype=program.dtype)
    run, names = _prior_run(program, batch, start, 0), program.roles.continuous
    other = _prior_run(program, batch, program.prior_draw(1), 1)
    for name in names:
        _check_bounds(name, run[name].fn.support, other[name].fn.support)
    supports: dict[str, Any] = {name: run[name].fn.support for name in names}
    locals_ = GlobalSpace.of({name: run[name].value for name in names}, supports)
    space = GlobalSpace((*program.space.sites, *locals_.sites))
    return replace(program, roles=replace(program.roles, space=space, continuous=()))


def prior_locals(program: Program, batch: Batch, values: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """One draw of the continuous locals from the model, given globals, ``[B, *shape]``."""
    run = _prior_run(program, batch, values, seed)
    return {name: run[name].value for name in program.roles.continuous}


def _prior_run(program: Program, batch: Batch, values: Mapping[str, Tensor], seed: int) -> Mapping[str, Site]:
    model: Any = poutine.condition(poutine.uncondition(program.model.model), data=dict(values))
    with torch.no_grad(), seeded(seed), surroundings(program.dtype):
        return read(poutine.trace(model).get_trace(batch)).sites


def check_place(name: str, site: Site) -> None:
    """Whether a local stands in the rows plate alone; SupportError where it does not."""
    if len(site.frames) > 1:
        raise SupportError(
            given=f"the continuous local {name!r} in a plate besides that of the rows",
            needed="all numbers of a local as one event",
            remedy=f"draw {name!r} with .to_event() in the place of the plate",
        )


def _check_bounds(name: str, support: Any, other: Any) -> None:
    """Whether a local has the same bounds under two draws of the globals."""
    bounds = [
        [bound for bound in vars(base_support(one)).values() if isinstance(bound, Tensor)] for one in (support, other)
    ]
    if not all(torch.equal(*pair) for pair in zip(*bounds, strict=True)):
        raise SupportError(
            given=f"the continuous local {name!r}, whose bounds depend on globals",
            needed="a support that depends on nothing",
            remedy=f"draw {name!r} on a fixed support and scale it in the model",
        )


def _agrees(value: Tensor, own: Tensor) -> bool:
    """Whether values are those of the fit, up to missing entries that were filled in and steps that were cut off."""
    if value.dim() > 1 and value.shape[1] < own.shape[1]:
        own = own[:, : value.shape[1]]
    return value.shape == own.shape and bool(((value == own) | own.isnan() | value.isnan()).all())


def _keys(batch: Batch) -> list[bytes]:
    """What each row holds."""
    columns = [value.reshape(len(batch), -1).to(torch.float64) for value in batch.columns.values()]
    numbers = torch.cat(columns, 1)
    return [one.tobytes() for one in torch.where(numbers.isnan(), torch.nan, numbers).numpy()]
