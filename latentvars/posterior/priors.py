"""Draws of the globals from their priors, where these can be drawn from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentvars.distributions.flat import Flat
from latentvars.errors import ModelError
from latentvars.program import Program
from latentvars.randomness import derive


def check_proper(program: Program) -> None:
    """Whether every global has a prior that can be drawn from.

    Raises:
        ModelError: flat priors, by name.
    """
    drawn = program.prior_draw(0)
    if not drawn:
        raise ModelError("a model without globals", "globals with priors", "leave prior draws out")
    sites = program.given({name: drawn[name] for name in program.roles.choices.names}).global_sites(drawn)
    flat = [name for name, prior in sites.items() if isinstance(_base(prior), Flat)]
    if flat:
        raise ModelError(
            given=f"flat priors of {flat}, from which nothing can be drawn",
            needed="proper priors of all globals",
            remedy="give them, as priors={'loc': dist.Normal(0.0, 5.0)...} of a built-in model",
        )


def prior_draws(program: Program, size: int, seed: int) -> dict[str, Tensor]:
    """Independent draws of all globals, discrete ones too, from their priors, ``[size, *shape]``.

    Raises:
        ModelError: flat priors, or no globals.
    """
    check_proper(program)
    drawn = [program.prior_draw(derive(seed, number)) for number in range(size)]
    return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}


def _base(prior: Any) -> Any:
    while not isinstance(prior, Flat) and hasattr(prior, "base_dist"):
        prior = prior.base_dist
    return prior
