"""What each site of a user's model is: found by running it, once, on two small sketches of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from latentvars.contract import LatentModel
from latentvars.distributions.bijection import bijection
from latentvars.errors import LatentVarsError, ModelError, SupportError
from latentvars.program.globals import GlobalSpace
from latentvars.program.scope import surroundings
from latentvars.randomness import seeded
from latentvars.rows import ROWS_PLATE, Batch

SKETCH_SEED = 20_011


@dataclass(frozen=True)
class Roles:
    """The sites of a model by what is done with them.

    Attributes:
        space: the globals.
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


def find_roles(model: LatentModel, two: Batch, three: Batch, dtype: torch.dtype) -> Roles:
    """Run the model on a batch of two and one of three rows and sort its sites; a broken contract is an error."""
    trace, other = (_sketch(model, batch, dtype) for batch in (two, three))
    _check_conditional_sites(trace, other)
    values: dict[str, Tensor] = {}
    supports = {}
    discrete, continuous, observed = [], [], []
    for name, site in _samples(trace):
        inside = is_local(site)
        if not inside:
            _check_outside(name, site, other.nodes[name])
        if site["is_observed"]:
            if inside:
                observed.append(name)
        elif not inside:
            supports[name] = _global_support(name, site)
            values[name] = site["value"]
        elif site["fn"].has_enumerate_support:
            discrete.append(name)
        else:
            continuous.append(name)
    _check_something_observed(observed, trace)
    guided = _guide_sites(model, two, dtype, tuple(continuous), tuple(discrete))
    nesting = max((-frame.dim for _, site in _samples(trace) for frame in _frames(site)), default=1)
    return Roles(
        GlobalSpace.of(values, supports), tuple(discrete), tuple(continuous), tuple(observed), max(nesting, guided)
    )


def is_local(site: dict[str, Any]) -> bool:
    """Whether a traced site stands inside ``with rows.plate():``."""
    return any(frame.name == ROWS_PLATE for frame in site["cond_indep_stack"])


def _samples(trace: Trace) -> list[tuple[str, dict[str, Any]]]:
    """The sample sites of a trace without the book-keeping sites of plates."""
    return [
        (name, site)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"
    ]


def _frames(site: dict[str, Any]) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _sketch(model: LatentModel, batch: Batch, dtype: torch.dtype) -> Trace:
    """One plain run, validated, in surroundings that leave nothing behind."""
    with pyro.get_param_store().scope(), seeded(SKETCH_SEED), surroundings(dtype, validate=True), torch.no_grad():
        try:
            trace = poutine.trace(model.model).get_trace(batch)
        except LatentVarsError as error:
            # Pyro's trace handler raises a copy whose message lists shapes
            raise (error.__cause__ if isinstance(error.__cause__, LatentVarsError) else error) from None
        except Exception as error:
            raise ModelError(
                given=f"{type(model).__name__}.model(rows) failed on {len(batch)} rows: {error}",
                needed="a Pyro model that runs on any number of rows",
                remedy=f"call it yourself with lv.Rows(data).batch([0, 1]) to debug; columns are {_shapes(batch)}",
            ) from error
    for name, site in trace.nodes.items():
        if site["type"] == "param":
            raise ModelError(
                given=f"{type(model).__name__} has the pyro.param {name!r}",
                needed="globals as pyro.sample sites, network weights as nn.Parameter of an attribute",
                remedy=f"write pyro.sample({name!r}, lv.flat(shape, support)) where no prior is wanted",
            )
    for name, site in _samples(trace):
        scale = batch.total / len(batch) if is_local(site) else 1.0
        if abs(float(site["scale"]) / scale - 1) > 1e-9:
            raise ModelError(
                given=f"site {name!r} is scaled by {float(site['scale']) / scale:.6g}",
                needed="unscaled densities: a scale inside an enumerated model changes the model",
                remedy="give row weights to lv.Rows(..., weights=...) and pass subsample=rows.index to plates",
            )
    return trace


def _shapes(batch: Batch) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in batch.columns.items())


def _check_conditional_sites(trace: Trace, other: Trace) -> None:
    names, others = (set(name for name, _ in _samples(t)) for t in (trace, other))
    if names != others:
        raise ModelError(
            given=f"the sites {sorted(names ^ others)} exist for some batches only",
            needed="the same sites for every batch",
            remedy="draw sites unconditionally; mask what does not apply with poutine.mask",
        )


def _check_outside(name: str, site: dict[str, Any], other: dict[str, Any]) -> None:
    """A site outside the plate must not grow with the batch."""
    if site["value"].shape != other["value"].shape:
        raise ModelError(
            given=f"site {name!r} stands outside the rows plate but grows with the batch "
            f"({list(site['value'].shape)} for two rows, {list(other['value'].shape)} for three)",
            needed="one value a row only inside `with rows.plate():`",
            remedy=f"move pyro.sample({name!r}, ...) into the block `with rows.plate():`",
        )


def _global_support(name: str, site: dict[str, Any]) -> Any:
    support = site["fn"].support
    try:
        bijection(support)(torch.zeros(bijection(support).inverse_shape(site["value"].shape)))
    except NotImplementedError as error:
        raise SupportError(
            given=f"global {name!r} ~ {type(site['fn']).__name__} has support {support}",
            needed="a continuous support with a bijection to the real numbers",
            remedy="sum a discrete global out by hand, or make it a local of each row",
        ) from error
    return support


def _check_something_observed(observed: list[str], trace: Trace) -> None:
    if not observed:
        raise ModelError(
            given=f"no observed site inside the rows plate (sites: {[name for name, _ in _samples(trace)]})",
            needed="at least one pyro.sample(..., obs=rows.x) inside `with rows.plate():`",
            remedy="pass the data by obs=",
        )


def _guide_sites(
    model: LatentModel, batch: Batch, dtype: torch.dtype, continuous: tuple[str, ...], discrete: tuple[str, ...]
) -> int:
    """Check that the guide samples exactly the continuous locals; returns its plate nesting."""
    guide = getattr(model, "guide", None)
    if guide is None:
        if continuous:
            raise ModelError(
                given=f"the continuous locals {list(continuous)} have no guide",
                needed="q(z | x) for every continuous local",
                remedy="add a method guide(rows) that samples them inside `with rows.plate():`",
            )
        return 1
    with pyro.get_param_store().scope(), seeded(SKETCH_SEED), surroundings(dtype, validate=True), torch.no_grad():
        trace = poutine.trace(guide).get_trace(batch)
    sites = {name: site for name, site in _samples(trace) if not site["is_observed"]}
    auxiliary = {name for name, site in sites.items() if site["infer"].get("is_auxiliary")}
    given, needed = set(sites) - auxiliary, set(continuous)
    extra = [name for name in sorted(given - needed) if name in discrete]
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
    for name in given:
        if not is_local(sites[name]):
            raise ModelError(
                given=f"the guide's site {name!r} stands outside the rows plate",
                needed="locals inside `with rows.plate():` in the guide as in the model",
                remedy="move it into the block",
            )
        if not sites[name]["fn"].has_rsample:
            raise SupportError(
                given=f"the guide draws {name!r} from {type(sites[name]['fn']).__name__}, which has no rsample",
                needed="a reparameterised distribution (Normal, LogNormal, a flow ...)",
                remedy="choose another family for q",
            )
    return max((-frame.dim for site in sites.values() for frame in _frames(site)), default=1)
