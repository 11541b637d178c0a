"""Distribution functions of every observation given others, locals removed exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from latentvars.distributions import HiddenMarkov, Tails, chain_tails, step_states, tails
from latentvars.program import Program
from latentvars.program.run import Run, Site
from latentvars.rows import Batch

Condition = Literal["nothing", "past", "others"]


def row_tails(program: Program, values: Mapping[str, Tensor], batch: Batch, given: Condition) -> dict[str, Tails]:
    """P(X < x) and P(X <= x) of every observed entry, at one point of the globals.

    Entries of one observation of a site are taken one by one, whatever the others are. Of other sites of the row, and
    of the steps of a chain:

    Args:
        program: a model whose locals are discrete or integrated out.
        values: constrained globals.
        batch: B rows.
        given: ``"nothing"``: the other sites are integrated out, steps of a chain are given the steps before them;
            ``"past"``: given the sites and steps before; ``"others"``: given all other sites and steps.

    Returns:
        observed site → tails of the shape of its value ``[other plates ..., B, *event]``.

    Raises:
        SupportError: a law whose distribution function is not known.
    """
    with torch.no_grad():
        run = program.trace(values, batch)
        log_probs = run.log_probs()
        observed = [name for name in program.roles.observed if run.sites[name].value.numel()]
        found = {}
        for place, name in enumerate(observed):
            silent = {"nothing": observed, "past": observed[place:], "others": [name]}[given]
            weights = _weights(run, log_probs, name, silent)
            found[name] = _averaged(run.sites[name], weights, program.roles.nesting, given)
    return found


def _weights(run: Run, log_probs: Mapping[str, Tensor], name: str, silent: list[str]) -> Tensor:
    """Probability of the enumerated locals that a site depends on, the densities of silent sites left out.

    By the gradient with respect to a log-factor of zeros in the place of the site's own.
    """
    with torch.enable_grad():
        tap = torch.zeros_like(log_probs[name]).requires_grad_()
        left = {n: torch.zeros_like(value) if n in silent else value for n, value in log_probs.items()}
        rows = run.contract({**left, name: tap})
        (weights,) = torch.autograd.grad(rows.sum(), [tap])
    return weights


def _averaged(site: Site, weights: Tensor, nesting: int, given: Condition) -> Tails:
    """Tails of one site ``[enumerated ..., plates ..., B, *event]`` averaged over what is enumerated."""
    fn: Any = site.fn
    value, dims = site.value, len(fn.event_shape)
    log_weights = weights.log()
    if isinstance(fn, HiddenMarkov):
        states = step_states(fn, value, "others" if given == "others" else "past")
        parts, dims = chain_tails(fn, value, states.softmax(-1)), dims - 1
        log_weights = log_weights.unsqueeze(-1) + torch.logsumexp(states, -1)  # each step has others beside it
    else:
        parts = tails(fn, value)
        log_weights = log_weights.expand(torch.broadcast_shapes(log_weights.shape, parts.upto.shape[: -dims or None]))
    if site.mask is not None:
        parts = parts.where(site.mask.reshape(site.mask.shape + (1,) * (parts.upto.dim() - len(fn.batch_shape))))
    enumerated = list(range(len(log_weights.shape) - nesting - isinstance(fn, HiddenMarkov)))
    if not enumerated:
        return parts
    shares = (log_weights - torch.logsumexp(log_weights, enumerated, keepdim=True)).exp()
    shares = shares.reshape(shares.shape + (1,) * dims)
    return Tails(*((shares * one).sum(enumerated) for one in parts))
