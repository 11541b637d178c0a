"""Draws of the locals of each row, from their posterior given each of some draws of the globals."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latentvars.errors import SupportError
from latentvars.program import Program
from latentvars.randomness import derive, seeded
from latentvars.rows import Batch, Rows


def latent_draws(
    program: Program, rows: Rows, globals_: Mapping[str, Tensor], draws: int, seed: int
) -> dict[str, Tensor]:
    """One draw of all locals for each draw of the globals.

    Discrete locals are drawn jointly from their exact posterior, whole paths of a chain; continuous ones from the
    model's guide.

    Args:
        program: the model.
        rows: N rows in memory.
        globals_: constrained draws ``[S, *shape]``.
        draws: S.
        seed: of the draws.

    Returns:
        Local site → ``[S, N, ...]``; −1 beyond the length of a chain.

    Raises:
        SupportError: a local that is integrated out given another one that is summed out.
    """
    batch = rows.batch(dtype=program.dtype)
    drawn: dict[str, list[Tensor]] = {}
    for number in range(draws):
        own = derive(seed, number)
        for name, value in _one(program, batch, {n: v[number] for n, v in globals_.items()}, own).items():
            drawn.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in drawn.items()}


def _one(program: Program, batch: Batch, values: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    with torch.no_grad():
        guide = program.guided(batch, seed)
    found = {name: guide.sites[name].value for name in program.roles.continuous} if guide else {}
    if program.roles.discrete:
        found |= program.joint_draw(values, batch, derive(seed, 1), guide)
    for place, (name, belief) in enumerate(program.beliefs(values, batch, seed).items()):
        if name not in found:
            if program.roles.discrete:
                raise SupportError(
                    given=f"draws of {name!r}, which is integrated out given {list(program.roles.discrete)}",
                    needed="locals that are drawn on their own, or are all sample sites",
                    remedy="write it as a sample site, or read fit.latent()",
                )
            with seeded(derive(seed, 2, place)):
                found[name] = belief.sample()
    return found
