"""Starting values of the globals: given, the model's own, by a search, or the best of draws of the prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentvars.distributions import Flat, OrderedBy
from latentvars.errors import ModelError, NameUnknownError, NumericalError
from latentvars.families import without_wrappers
from latentvars.inference.starting.grouped import start_of_groups
from latentvars.posterior.alignment import labels_of, matching
from latentvars.posterior.scales import entry_bounds
from latentvars.program import GlobalSpace, Program
from latentvars.randomness import derive, generator
from latentvars.rows import Rows
from latentvars.starts import PriorDraws, Search, Start

CANDIDATES = 10
INSIDE = 0.01  # of the distance of two bounds, how far from one a start stands
SCORED_ROWS = 2_000


def starting_point(
    program: Program, rows: Rows, seed: int, start: Mapping[str, Any] | Start | None = None
) -> dict[str, Tensor]:
    """Starting values of all globals: the user's, else the model's ``initial``, else the best of ten prior draws.

    Args:
        program: the model.
        rows: all data.
        seed: seed of the run.
        start: constrained values of some or all globals; or a way to start, of :mod:`latentvars.starts`.

    Raises:
        NameUnknownError: ``start`` names a site that is no global.
        ModelError: a value of the wrong shape or outside its support.
        SupportError: a grouping for a model that cannot start from one.
    """
    given = dict(start) if isinstance(start, Mapping) else {}
    given = {name: _tensor(name, value, program.dtype) for name, value in given.items()}
    if start is None or isinstance(start, Mapping):
        proposed = _initial(program, rows, seed) if set(given) < set(program.space.names) else {}
    else:
        proposed = _proposed(program, rows, seed, start)
    values = {**_arranged(program, proposed), **given}
    for name in values:
        if name not in program.space.names:
            raise NameUnknownError(
                given=f"a starting value for {name!r}",
                needed=f"names of globals: {list(program.space.names)}",
                remedy="correct the name in start= or in the model's initial()",
            )
    for name, value in values.items():
        _check_start(program, name, value)
    if not given and rows.known and set(values) == set(program.space.names):
        values = _matched(program, rows, values)
    values = program.space.project(values)
    if set(values) != set(program.space.names):
        values = {**_best_prior_draw(program, rows, seed, values), **values}
    return {name: values[name].detach().clone().contiguous() for name in program.space.names}


def starting_points(
    program: Program, rows: Rows, seed: int, count: int, start: Mapping[str, Any] | Start | None = None
) -> list[dict[str, Tensor]]:
    """Starting values of several chains: a search is made once for all of them; else each is a start by itself."""
    if isinstance(start, Search):
        return _searched(program, rows, seed, start, count)
    return [starting_point(program, rows, start_seed(seed, k), start) for k in range(count)]


def start_seed(seed: int, number: int) -> int:
    """The seed of a start; the first one has that of the run."""
    return seed if number == 0 else derive(seed, 10, number)


def further(program: Program, start: Mapping[str, Any] | Start | None) -> Mapping[str, Any] | Start | None:
    """How the starts after the first begin: from what ``start`` leaves open, or as if it were not given."""
    if start is None or isinstance(start, Mapping):
        return None if start is not None and set(start) >= set(program.space.names) else start
    return start.again()


def _initial(program: Program, rows: Rows, seed: int) -> dict[str, Tensor]:
    """What the model's own ``initial`` says; nothing where it has none."""
    initial = getattr(program.model, "initial", None)
    if initial is None:
        return {}
    return {name: value.to(program.dtype) for name, value in initial(rows, generator(seed, 1)).items()}


def _proposed(program: Program, rows: Rows, seed: int, start: Start) -> dict[str, Tensor]:
    """Globals by a named way to start."""
    if isinstance(start, Search):
        return _searched(program, rows, seed, start, 1)[0]
    if isinstance(start, PriorDraws):
        drawn = program.global_sites(program.prior_draw(0))
        flat = {name for name, prior in drawn.items() if isinstance(without_wrappers(prior), Flat)}
        kept = {name: value for name, value in _initial(program, rows, seed).items() if name in flat} if flat else {}
        return _best_prior_draw(program, rows, seed, program.space.project(kept), start.candidates)
    grouped = getattr(program.model, "grouped_start", None)
    if grouped is not None:
        return {name: value.to(program.dtype) for name, value in grouped(rows, start, generator(seed, 1)).items()}
    return start_of_groups(program, rows, start, seed, _best_prior_draw(program, rows, seed, {}))


def _searched(program: Program, rows: Rows, seed: int, start: Search, count: int) -> list[dict[str, Tensor]]:
    """Globals by a search that begins at several of the starts that there would be without it."""
    begins = []
    for k in range(start.paths):
        values = starting_point(program, rows, start_seed(seed, k))
        check_interior(program.space, values)
        begins.append(program.space.unconstrain(values))
    found = start.points(program, rows, begins, count, derive(seed, 50))
    return [program.space.constrain(free)[0] for free in found]


def _arranged(program: Program, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Starts of groups know nothing of the priors: components in the order that a support asks for, numbers between
    its bounds."""
    if not hasattr(program.model, "grouped_start"):
        return values
    names, dims = program.space.names, getattr(program.model, "dims", dict)()
    for name in [name for name in values if name in names]:
        site, value = program.space[name], values[name]
        if isinstance(site.support, OrderedBy):
            for labels in labels_of(dims, names, tuple(local for local in dims if local not in names)):
                if labels.axes.get(name) == (0,):
                    values = labels.permuted(values, site.support.arranged(value))
            continue
        bounds = entry_bounds(site, value)
        if bounds.entrywise and not bool(site.support.check(value).all()):
            room = INSIDE * bounds.distance
            values = {**values, name: torch.minimum(torch.maximum(value, bounds.low + room), bounds.high - room)}
    return values


def _matched(program: Program, rows: Rows, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """A start with its labels in the order that agrees best with those that are known."""
    dims = getattr(program.model, "dims", dict)()
    found = labels_of(dims, program.space.names, tuple(rows.known))
    batch = rows.batch(dtype=program.dtype)
    beliefs = program.beliefs(values, replace(batch, known={}), 0) if found else {}
    for labels in found:
        known = batch.known[labels.local]
        belief: Any = beliefs[labels.local]
        probs = belief.marginals if hasattr(belief, "marginals") else belief.probs
        at = known >= 0
        if bool(at.any()):
            reference = torch.nn.functional.one_hot(known[at], probs.shape[-1]).to(probs.dtype)
            values = labels.permuted(values, matching(reference, probs[at]))
    return values


def _tensor(name: str, value: Any, dtype: torch.dtype) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            given=f"a value for {name!r} that is no array of numbers: {error}",
            needed="numbers in the shape of the global",
            remedy="correct start=, or the point",
        ) from error


def _best_prior_draw(
    program: Program, rows: Rows, seed: int, fixed: Mapping[str, Tensor], count: int = CANDIDATES
) -> dict[str, Tensor]:
    """The prior draw with the highest score on (at most 2,000 of) the rows; one that cannot be scored is passed over.

    Raises:
        NumericalError: none can be scored.
    """
    batch = rows.batch(torch.arange(min(len(rows), SCORED_ROWS)), dtype=program.dtype)
    candidates = [{**program.prior_draw(derive(seed, 2, k)), **fixed} for k in range(count)]
    scores, failure = [], None
    for k, values in enumerate(candidates):
        try:
            with torch.no_grad():
                score = program.score(values, batch, derive(seed, 3, k))
        except NumericalError as error:
            failure = error
            continue
        total = float(score.prior + (score.rows * batch.weights).sum())
        scores.append((total if total == total else -math.inf, -k))
    if not scores:
        assert failure is not None
        raise failure
    best = candidates[-max(scores)[1]]
    return {name: best[name] for name in program.space.names}


def check_interior(space: GlobalSpace, start: Mapping[str, Tensor]) -> None:
    for site in space.sites:
        if not bool(space.subset((site.name,)).unconstrain(start).isfinite().all()):
            raise ModelError(
                given=f"a start of {site.name!r} on the edge of its support: {start[site.name].flatten()[:5].tolist()}",
                needed=f"values strictly inside {site.support}",
                remedy="move zeros and bounds inwards in start=, or fit with lv.EM, which keeps zeros",
            )


def _check_start(program: Program, name: str, value: Tensor) -> None:
    site = program.space[name]
    if value.shape != site.shape:
        raise ModelError(
            given=f"a starting value of shape {list(value.shape)} for {name!r}",
            needed=f"shape {list(site.shape)}",
            remedy="correct start= or the model's initial()",
        )
    if not bool(site.support.check(value).all()):
        raise ModelError(
            given=f"a value for {name!r} outside its support: {value.flatten()[:5].tolist()}",
            needed=f"values in {site.support}",
            remedy="correct start= or the model's initial()",
        )
