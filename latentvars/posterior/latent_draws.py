"""Beliefs over the locals of each row, and draws of them, given points or draws of the globals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from latentvars.errors import SupportError
from latentvars.posterior.averaged import averaged
from latentvars.program import Program
from latentvars.randomness import derive, seeded
from latentvars.rows import Batch, Rows


def read_beliefs(
    program: Program, rows: Rows, points: Sequence[Mapping[str, Tensor]], batch_size: int | None, seed: int
) -> dict[str, list[TorchDistribution]]:
    """Local site → its belief batch by batch, averaged over points of the globals where there are several."""
    found: dict[str, list[TorchDistribution]] = {}
    for batch in rows.batches(batch_size, shuffle=False, dtype=program.dtype):
        each = [program.beliefs(point, batch, seed) for point in points]
        for name, belief in each[0].items():
            found.setdefault(name, []).append(belief if len(each) == 1 else averaged([one[name] for one in each]))
    return found


def latent_draws(
    program: Program,
    rows: Rows,
    globals_: Mapping[str, Tensor],
    draws: int,
    seed: int,
    drawn: Mapping[str, Tensor] | None = None,
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
        drawn: draws of the continuous locals of the same rows ``[S, N, *shape]``, in the place of the guide's.

    Returns:
        Local site → ``[S, N, ...]``; −1 beyond the length of a chain.

    Raises:
        SupportError: a local that is integrated out given another one that is summed out.
    """
    batch = rows.batch(dtype=program.dtype)
    found: dict[str, list[Tensor]] = {}
    for number in range(draws):
        own, values = derive(seed, number), {name: value[number] for name, value in globals_.items()}
        given = {name: value[number] for name, value in (drawn or {}).items()}
        for name, value in (
            _given(program, batch, values, given, own) if given else _one(program, batch, values, own)
        ).items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in found.items()}


def _given(
    program: Program, batch: Batch, values: Mapping[str, Tensor], locals_: Mapping[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """The discrete locals given the globals and the continuous ones, with these."""
    discrete = program.joint_draw({**values, **locals_}, batch, seed) if program.roles.discrete else {}
    return {**locals_, **discrete}


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
