"""Local refinement: the guide's belief about each row as the start of one of the row's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentvars.errors import KindError, NumericalError, SupportError
from latentvars.inference.amortised.pushed import Place
from latentvars.inference.sampling.local_draws import MOST_COVARYING, DrawnLocals, attach, check_place, prior_locals
from latentvars.program import Program
from latentvars.program.modules import model_parameters
from latentvars.program.program import held
from latentvars.randomness import derive, generator
from latentvars.rows import Batch, Rows

LEAST = 16  # draws in each step
STARTING_DRAWS = 32
BLOCK = 512  # rows at a time: the same steps whatever rows stand beside
RATE = 0.1
SMALLEST = 1e-4


@dataclass(frozen=True)
class Normals:
    """u_n ~ Normal(loc_n, L_n L_nᵀ) of the B rows of a batch, z = T(u) site by site.

    Attributes:
        loc: local → ``[B, size]``.
        scale: local → lower triangular ``[B, size, size]``.
    """

    loc: dict[str, Tensor]
    scale: dict[str, Tensor]


def refined(program: Program, values: Mapping[str, Tensor], rows: Rows, steps: int, seed: int) -> Program:
    """The program whose guide tells of these rows, each of which has a normal of its own (Kim et al. 2018).

    Maximises the ELBO of each row over the mean and covariance of its locals, from the guide's belief (from the prior
    where the guide knows nothing of the row), by Adam with the same antithetic draws in every step. It closes the
    amortisation gap (Cremer, Li & Duvenaud 2018).

    Args:
        program: with a guide.
        values: constrained globals.
        rows: N rows in memory.
        steps: of Adam.
        seed: of the draws.

    Raises:
        SupportError: a model without continuous locals, or with some that no normal is mapped to.
        KindError: rows that stay in their files.
        NumericalError: a row whose bound is not finite.
    """
    if not program.roles.continuous:
        raise SupportError(
            given="local refinement of a model without continuous locals",
            needed="a guide that could be better",
            remedy="leave refine out: discrete locals are summed out exactly",
        )
    if rows.streamed:
        raise KindError(
            given="local refinement of rows that stay in their files",
            needed="some rows at a time",
            remedy="write fit.refine(part) for the parts of rows.parts()",
        )
    places: tuple[Place, ...] = ()
    found = []
    for low in range(0, len(rows), BLOCK):
        batch = rows.batch(slice(low, low + BLOCK), dtype=program.dtype)
        places = places or _places(program, values, batch)
        found.append(_of_batch(program, values, batch, places, steps, seed))
    loc = {place.name: torch.cat([one.loc[place.name] for one in found]) for place in places}
    scale = {place.name: torch.cat([one.scale[place.name] for one in found]) for place in places}
    model = copy.copy(program.model)
    attach(model, DrawnLocals(places, rows, loc, scale))
    return replace(program, model=model)


def _places(program: Program, values: Mapping[str, Tensor], batch: Batch) -> tuple[Place, ...]:
    locals_ = prior_locals(program, batch, values, 0)
    with torch.no_grad():
        run = program.trace({**values, **locals_}, batch)
    for name in program.roles.continuous:
        check_place(name, run.sites[name])
    places = tuple(Place.of(run.sites[name]) for name in program.roles.continuous)
    for place in places:
        if place.size > MOST_COVARYING:
            raise SupportError(
                given=f"the local {place.name!r} of {place.size} numbers a row",
                needed=f"at most {MOST_COVARYING}, whose covariance is kept for each row",
                remedy="read the guide's beliefs, refine=0",
            )
    return places


def _of_batch(
    program: Program, values: Mapping[str, Tensor], batch: Batch, places: tuple[Place, ...], steps: int, seed: int
) -> Normals:
    start = _start(program, values, batch, places, seed)
    noise = _noise(places, program.dtype, derive(seed, 2))
    tiled = batch.select(torch.arange(len(batch)).repeat(len(noise[places[0].name])))
    leaves = {place.name: _leaves(start, place.name) for place in places}
    adam = torch.optim.Adam([leaf for pair in leaves.values() for leaf in pair], lr=RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, steps))
    best, kept = torch.full((len(batch),), -torch.inf, dtype=program.dtype), {}
    with held(list(model_parameters(program.model).values())), torch.enable_grad():
        for step in range(steps + 1):
            normals = {name: (loc, _triangle(raw)) for name, (loc, raw) in leaves.items()}
            bound = _bound(program, values, tiled, places, normals, noise)
            better = bound.detach() > best
            best = torch.where(better, bound.detach(), best)
            for name, pair in normals.items():
                old = kept.get(name, pair)
                kept[name] = tuple(
                    torch.where(better.reshape(-1, *(1,) * (a.dim() - 1)), a.detach(), b.detach())
                    for a, b in zip(pair, old, strict=True)
                )
            if step == steps:
                break
            adam.zero_grad()
            (-bound.sum()).backward()
            adam.step()
            decay.step()
    if not bool(best.isfinite().all()):
        bad = batch.index[~best.isfinite()][:5].tolist()
        raise NumericalError(
            given=f"rows {bad}, whose ELBO is not finite at any normal that was tried",
            needed="rows with a density",
            remedy="look at these rows, or write refine=0",
        )
    return Normals({name: pair[0] for name, pair in kept.items()}, {name: pair[1] for name, pair in kept.items()})


def _bound(
    program: Program,
    values: Mapping[str, Tensor],
    tiled: Batch,
    places: tuple[Place, ...],
    normals: Mapping[str, tuple[Tensor, Tensor]],
    noise: Mapping[str, Tensor],
) -> Tensor:
    """ELBO of each row ``[B]``, nats, up to a constant; the entropy of the normals in closed form."""
    locals_, jacobian, entropy = {}, torch.zeros(()), torch.zeros(())
    for place in places:
        loc, triangle = normals[place.name]
        free = (loc + torch.einsum("bij,pj->pbi", triangle, noise[place.name])).flatten(0, 1)
        locals_[place.name], own = place.mapped(free)
        jacobian = jacobian + own
        entropy = entropy + triangle.diagonal(dim1=1, dim2=2).log().sum(1)
    run = program.trace({**values, **locals_}, tiled)
    rows = run.contract(run.log_probs()) + jacobian
    return rows.reshape(-1, len(entropy)).mean(0) + entropy


def _start(
    program: Program, values: Mapping[str, Tensor], batch: Batch, places: tuple[Place, ...], seed: int
) -> Normals:
    """Mean and spread of draws of the guide, of the prior where the guide does not know the rows."""
    drawn = [_draw(program, values, batch, derive(seed, 1, k)) for k in range(STARTING_DRAWS)]
    loc, scale = {}, {}
    for place in places:
        free = torch.stack([place.free(one[place.name]) for one in drawn])
        loc[place.name] = free.mean(0)
        scale[place.name] = torch.diag_embed(free.std(0).clamp(min=SMALLEST))
    return Normals(loc, scale)


def _draw(program: Program, values: Mapping[str, Tensor], batch: Batch, seed: int) -> Mapping[str, Tensor]:
    try:
        run = program.guided(batch, seed)
    except SupportError:  # a guide of the rows of the fit alone
        run = None
    if run is None:
        return prior_locals(program, batch, values, seed)
    return {name: run.sites[name].value for name in program.roles.continuous}


def _leaves(start: Normals, name: str) -> tuple[Tensor, Tensor]:
    """Parameters of the normals of one local: means, and triangles whose diagonals are logarithms."""
    triangle = start.scale[name].clone()
    diagonal = triangle.diagonal(dim1=1, dim2=2)
    raw = triangle.tril(-1) + torch.diag_embed(diagonal.log())
    return start.loc[name].clone().requires_grad_(), raw.requires_grad_()


def _triangle(raw: Tensor) -> Tensor:
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=1, dim2=2).exp())


def _noise(places: tuple[Place, ...], dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Antithetic pairs ``[P, size]`` of each local, the same for every row, with the identity as second moment.

    With it the best normal of a normal posterior is that posterior, however few draws there are.
    """
    sizes = [place.size for place in places]
    half = max(LEAST // 2, 2 * sum(sizes))
    drawn = torch.randn(half, sum(sizes), dtype=torch.float64, generator=generator(seed))
    factor = torch.linalg.cholesky(drawn.T @ drawn / half)
    white = torch.linalg.solve_triangular(factor, drawn.T, upper=False).T.to(dtype)
    parts = torch.cat([white, -white]).split(sizes, 1)
    return {place.name: part for place, part in zip(places, parts, strict=True)}
