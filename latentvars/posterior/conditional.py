"""Log density of each row given its locals: beside the marginal one, never in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from latentvars.distributions import observed_part
from latentvars.errors import SupportError
from latentvars.posterior.observations import batches
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows


def conditional_scores(
    program: Program, rows: Rows, draws: Mapping[str, Tensor], seed: int, drawn: Mapping[str, Tensor] | None = None
) -> Tensor:
    """log p(xₙ | zₙ, θ) at each draw of the globals and one draw of the locals given it, ``[S, N]``, nats.

    The locals are drawn from their posterior given the row itself: what a row would say about itself. It is no base
    for leaving rows out (Merkle, Furr & Rabe-Hesketh 2019).

    Args:
        program: the model.
        rows: N rows.
        draws: globals ``[S, *shape]``; none where the model has none.
        seed: of the draws of locals.
        drawn: draws of the continuous locals ``[S, N, *shape]``, in the place of the guide's.

    Raises:
        SupportError: a model with continuous locals beside discrete ones, or whose locals are integrated out otherwise.
    """
    size = next(iter(draws.values())).shape[0] if draws else 1
    found = []
    for number in range(size):
        values = {name: value[number] for name, value in draws.items()}
        given = {name: value[number] for name, value in (drawn or {}).items()}
        parts = [
            _of_batch(program, values, batch, derive(seed, number, k), given)
            for k, batch in enumerate(batches(program, rows))
        ]
        found.append(torch.cat(parts))
    return torch.stack(found)


def _of_batch(
    program: Program, values: Mapping[str, Tensor], batch: Batch, seed: int, given: Mapping[str, Tensor]
) -> Tensor:
    with torch.no_grad():
        if program.roles.continuous:
            return _given_continuous(program, values, batch, seed, given)
        beliefs = program.beliefs(values, batch, seed)
        if not beliefs:
            return program.score(values, batch).rows
        return _given_labels(program, values, batch, seed)


def _given_continuous(
    program: Program, values: Mapping[str, Tensor], batch: Batch, seed: int, given: Mapping[str, Tensor]
) -> Tensor:
    if program.roles.discrete:
        raise SupportError(
            given=f"the continuous locals {list(program.roles.continuous)} beside the discrete ones "
            f"{list(program.roles.discrete)}",
            needed="locals of one kind",
            remedy="read the marginal log-likelihoods, conditional=False",
        )
    if given:
        run = program.trace({**values, **{name: value[batch.index] for name, value in given.items()}}, batch)
    else:
        run = program.trace(values, batch, program.guided(batch, seed))
    return run.contract({name: run.sites[name].log_prob() for name in program.roles.observed})


def _given_labels(program: Program, values: Mapping[str, Tensor], batch: Batch, seed: int) -> Tensor:
    """log p(x, z) − log p(z), z one draw of the posterior; both with z known."""
    drawn = program.joint_draw(values, batch, seed) if program.roles.discrete else {}
    for name, belief in program.beliefs(values, batch, seed).items():
        if name not in drawn:
            if not hasattr(belief, "probs") and not hasattr(belief, "viterbi"):
                raise SupportError(
                    given=f"the local {name!r}, which is integrated out in closed form",
                    needed="discrete locals, or continuous ones with a guide",
                    remedy="read the marginal log-likelihoods, conditional=False",
                )
            drawn[name] = belief.sample()
    known = {name: _rows_first(value, len(batch)) for name, value in drawn.items()}
    joint = program.score(values, replace(batch, known={**batch.known, **known})).rows
    return joint - _prior_of(program, values, replace(batch, known=known))


def _rows_first(value: Tensor, rows: int) -> Tensor:
    return value.long() if value.shape[0] == rows else value.movedim(-1, 0).long()


def _prior_of(program: Program, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """log p(z) at known locals; of collapsed sites by their density of a row of which nothing is observed."""
    run = program.trace(values, batch)
    terms = {}
    for name, site in run.local.items():
        if not site.observed:
            terms[name] = site.log_prob()
        elif hasattr(site.fn, "local"):
            nothing = torch.full_like(site.value, torch.nan, dtype=program.dtype)
            terms[name] = observed_part(site.fn, name).log_prob(nothing)
    return run.contract(terms)
