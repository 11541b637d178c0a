"""Where a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from latentvars.errors import ModelError, NameUnknownError
from latentvars.posterior.alignment import labels_of, matching
from latentvars.program import Program
from latentvars.randomness import derive, generator
from latentvars.rows import Rows

CANDIDATES = 10
SCORED_ROWS = 2_000


def starting_point(
    program: Program, rows: Rows, seed: int, start: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Starting values of all globals: the user's, else the model's ``initial``, else the best of ten prior draws.

    Args:
        program: the model.
        rows: all data.
        seed: seed of the run.
        start: constrained values of some or all globals.

    Raises:
        NameUnknownError: ``start`` names a site that is no global.
        ModelError: a value of the wrong shape or outside its support.
    """
    given = {name: _tensor(name, value, program.dtype) for name, value in (start or {}).items()}
    proposed: dict[str, Tensor] = {}
    initial = getattr(program.model, "initial", None)
    if initial is not None and set(given) < set(program.space.names):
        proposed = {name: value.to(program.dtype) for name, value in initial(rows, generator(seed, 1)).items()}
    values = {**proposed, **given}
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


def _best_prior_draw(program: Program, rows: Rows, seed: int, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The prior draw with the highest score on (at most 2,000 of) the rows."""
    batch = rows.batch(torch.arange(min(len(rows), SCORED_ROWS)), dtype=program.dtype)
    candidates = [{**program.prior_draw(derive(seed, 2, k)), **fixed} for k in range(CANDIDATES)]
    scores = []
    for k, values in enumerate(candidates):
        with torch.no_grad():
            score = program.score(values, batch, derive(seed, 3, k))
        total = float(score.prior + (score.rows * batch.weights).sum())
        scores.append(total if total == total else -float("inf"))
    return candidates[scores.index(max(scores))]


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
