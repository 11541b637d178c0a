"""What each site of a user's model is: found by running it, once, on two small sketches of the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine

from latentvars.contract import LatentModel
from latentvars.distributions.bijection import bijection
from latentvars.errors import LatentVarsError, ModelError, SupportError
from latentvars.program.choices import Choices, choices_of
from latentvars.program.globals import GlobalSpace
from latentvars.program.modules import check_reachable
from latentvars.program.run import Run, Site, read
from latentvars.program.scope import surroundings
from latentvars.program.support import check_shape, check_support
from latentvars.randomness import seeded
from latentvars.rows import Batch

SKETCH_SEED = 20_011


@dataclass(frozen=True)
class Roles:
    """The sites of a model by what is done with them.

    Attributes:
        space: the continuous globals.
        choices: the values that the discrete globals can take together.
        discrete: local sites that are enumerated and summed out.
        continuous: local sites that the guide samples.
        observed: observed sites inside the rows plate.
        nesting: number of plate dimensions; enumeration dims start left of them.
    """

    space: GlobalSpace
    discrete: tuple[str, ...]
    continuous: tuple[str, ...]
    observed: tuple[str, ...]
    nesting: int
    choices: Choices = field(default_factory=Choices)


def find_roles(model: LatentModel, two: Batch, three: Batch, dtype: torch.dtype) -> Roles:
    """Run the model on a batch of two and one of three rows and sort its sites; a broken contract is an error."""
    if isinstance(model, type) or not callable(getattr(model, "model", None)):
        raise ModelError(
            given=f"the class {model.__name__}, not an object of it"
            if isinstance(model, type)
            else f"a model of type {type(model).__name__} without a method model",
            needed="an object with a Pyro method model(rows)",
            remedy="write a class with `def model(self, rows): ...` and pass an instance of it",
        )
    check_reachable(model)
    run, other = (sketched(model, batch, dtype) for batch in (two, three))
    _check_conditional_sites(run, other)
    for name, site in run.sites.items():
        if not site.local:
            _check_outside(site, other.sites[name])
    hidden = {name: site for name, site in run.sites.items() if not site.observed}
    shared = {name: site for name, site in hidden.items() if not site.local}
    choices = choices_of({name: site for name, site in shared.items() if _is_discrete(site)})
    numbers = {name: site for name, site in shared.items() if name not in choices.names}
    space = GlobalSpace.of(
        {name: site.value for name, site in numbers.items()},
        {name: _global_support(site) for name, site in numbers.items()},
    )
    discrete = tuple(name for name, site in hidden.items() if site.local and site.fn.has_enumerate_support)
    continuous = tuple(name for name, site in hidden.items() if site.local and name not in discrete)
    _check_enumerable([hidden[name] for name in continuous])
    observed = tuple(name for name, site in run.sites.items() if site.observed and site.local)
    _check_something_observed(observed, run)
    for name in observed:
        check_shape(other.sites[name])
    guided = _guide_nesting(model, two, dtype, continuous, discrete)
    return Roles(space, discrete, continuous, observed, max(run.nesting, guided), choices)


def check_observed(model: LatentModel, batch: Batch, dtype: torch.dtype) -> None:
    """Whether every observed value of a complete batch lies in its support.

    Raises:
        DataError: with the site and the rows.
    """
    check_support(_quiet_run(model.model, batch, dtype), batch)


def _quiet_run(function: Any, batch: Batch, dtype: torch.dtype) -> Run:
    """One plain run, validated, in surroundings that leave nothing behind.

    Raises:
        ModelError: the function fails, or writes to the rows, which may be the user's own numbers.
    """
    given = {**batch.columns, "weights": batch.weights}
    before = {column: value._version for column, value in given.items()}
    found = _run(function, batch, dtype)
    written = [column for column, value in given.items() if value._version != before[column]]
    if written:
        raise ModelError(
            given=f"{_name(function)}(rows) writes to rows.{written[0]}",
            needed="a model that leaves its rows as they are",
            remedy=f"work on a new tensor, as x = rows.{written[0]} * 0.5 in the place of mul_, or on a clone()",
        )
    return found


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _run(function: Any, batch: Batch, dtype: torch.dtype) -> Run:
    with pyro.get_param_store().scope(), seeded(SKETCH_SEED), surroundings(dtype, validate=True), torch.no_grad():
        try:
            return read(poutine.trace(function).get_trace(batch))
        except LatentVarsError as error:
            # Pyro's trace handler raises a copy whose message lists shapes
            raise (error.__cause__ if isinstance(error.__cause__, LatentVarsError) else error) from None
        except Exception as error:
            shapes = ", ".join(f"{column} {list(value.shape)}" for column, value in batch.columns.items())
            raise ModelError(
                given=f"{_name(function)}(rows) failed on {len(batch)} rows: {type(error).__name__}: {error}",
                needed="Pyro code that runs on any number of rows",
                remedy=f"call it yourself with lv.Rows(data).batch([0, 1]) to debug; columns are {shapes}",
            ) from error


def sketched(model: LatentModel, batch: Batch, dtype: torch.dtype) -> Run:
    """The model on a small batch; parameters and scales inside it are errors."""
    run = _quiet_run(model.model, batch, dtype)
    _check_parameters(run, f"{type(model).__name__}.model")
    for name, site in run.sites.items():
        scale = site.scale * len(batch) / batch.total if site.local else site.scale
        if abs(scale - 1) > 1e-6:
            raise ModelError(
                given=f"site {name!r} is scaled by {scale:.6g}",
                needed="unscaled densities: a scale inside an enumerated model changes the model",
                remedy="give row weights to lv.Rows(..., weights=...) and pass subsample=rows.index to plates",
            )
    return run


def _check_parameters(run: Run, where: str) -> None:
    if not run.parameters:
        return
    name = run.parameters[0]
    remedy = f"write pyro.sample({name!r}, lv.flat(shape, support)) where no prior is wanted"
    if "$$$" in name:
        remedy = "remove pyro.module(...): networks that are attributes of the model are found by themselves"
    raise ModelError(
        given=f"{where} has the pyro.param {name!r}",
        needed="globals as pyro.sample sites, network weights as nn.Parameter of an attribute",
        remedy=remedy,
    )


def _check_conditional_sites(run: Run, other: Run) -> None:
    if set(run.sites) != set(other.sites):
        raise ModelError(
            given=f"the sites {sorted(set(run.sites) ^ set(other.sites))} exist for some batches only",
            needed="the same sites for every batch",
            remedy="draw sites unconditionally; mask what does not apply with poutine.mask",
        )


def _check_outside(site: Site, other: Site) -> None:
    """A site outside the plate must not grow with the batch."""
    if site.value.shape != other.value.shape:
        raise ModelError(
            given=f"site {site.name!r} stands outside the rows plate but grows with the batch "
            f"({list(site.value.shape)} for two rows, {list(other.value.shape)} for three)",
            needed="one value a row only inside `with rows.plate():`",
            remedy=f"move pyro.sample({site.name!r}, ...) into the block `with rows.plate():`",
        )


def _is_discrete(site: Site) -> bool:
    support: Any = site.fn.support
    return bool(getattr(support, "is_discrete", False))


def _global_support(site: Site) -> Any:
    support: Any = site.fn.support
    try:
        transform = bijection(support)
        transform(torch.zeros(transform.inverse_shape(site.value.shape)))
    except NotImplementedError as error:
        raise SupportError(
            given=f"global {site.name!r} ~ {type(site.fn).__name__} has support {support}",
            needed="a continuous support with a bijection to the real numbers, or finitely many values",
            remedy="choose a distribution on another support",
        ) from error
    return support


def _check_something_observed(observed: tuple[str, ...], run: Run) -> None:
    if not observed:
        raise ModelError(
            given=f"no observed site inside the rows plate (sites: {list(run.sites)})",
            needed="at least one pyro.sample(..., obs=rows.x) inside `with rows.plate():`",
            remedy="pass the data by obs=",
        )


def _check_enumerable(sites: list[Site]) -> None:
    for site in sites:
        if site.fn.support.is_discrete:
            raise SupportError(
                given=f"local {site.name!r} ~ {type(site.fn).__name__} has infinitely many values",
                needed="a discrete local with finitely many values, which can be summed out",
                remedy="truncate it to a Categorical over its first values",
            )


def _guide_nesting(
    model: LatentModel, batch: Batch, dtype: torch.dtype, continuous: tuple[str, ...], discrete: tuple[str, ...]
) -> int:
    """Check that the guide samples exactly the continuous locals; returns its plate nesting."""
    guide = getattr(model, "guide", None)
    if guide is None:
        if continuous:
            raise ModelError(
                given=f"the continuous locals {list(continuous)} have no guide",
                needed="q(z | x) for every continuous local",
                remedy="add a method guide(rows) that samples them inside `with rows.plate():`, and fit with "
                'lv.VariationalEM(), lv.MonteCarloEM() or lv.SVI(); or let one be made: lv.fit(..., guide="auto")',
            )
        return 1
    run = _quiet_run(guide, batch, dtype)
    _check_parameters(run, f"{type(model).__name__}.guide")
    sites = {name: site for name, site in run.sites.items() if not site.observed and not site.auxiliary}
    _check_guide_names(set(sites), set(continuous), discrete)
    for name, site in sites.items():
        if not site.local:
            raise ModelError(
                given=f"the guide's site {name!r} stands outside the rows plate",
                needed="locals inside `with rows.plate():` in the guide as in the model",
                remedy="move it into the block",
            )
        if not site.fn.has_rsample:
            raise SupportError(
                given=f"the guide draws {name!r} from {type(site.fn).__name__}, which has no rsample",
                needed="a reparameterised distribution (Normal, LogNormal, a flow ...)",
                remedy="choose another family for q",
            )
    return run.nesting


def _check_guide_names(given: set[str], needed: set[str], discrete: tuple[str, ...]) -> None:
    extra = sorted(given & set(discrete))
    if extra:
        raise ModelError(
            given=f"the guide samples the discrete locals {extra}",
            needed="no guide for discrete locals: they are summed out exactly",
            remedy="remove them from guide(rows)",
        )
    if given != needed:
        raise ModelError(
            given=f"the guide samples {sorted(given)}",
            needed=f"exactly the continuous locals {sorted(needed)}"
            f" (missing {sorted(needed - given)}, unknown {sorted(given - needed)})",
            remedy="make the names of the guide's sites equal to the model's",
        )
