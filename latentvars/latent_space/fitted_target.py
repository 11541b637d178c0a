"""log p(x, u) of the continuous locals of some rows, on their real numbers, discrete locals summed out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from latentvars.errors import SupportError
from latentvars.inference.amortised.pushed import Place
from latentvars.inference.sampling.local_draws import check_place, prior_locals
from latentvars.latent_space.source import Target
from latentvars.program import Program
from latentvars.randomness import derive
from latentvars.rows import Batch, Rows

FROM_GUIDE = 0.5  # of the starts


@dataclass(frozen=True, eq=False)
class FittedTarget(Target):
    """The target of a fit.

    Attributes:
        program: the model.
        point: constrained globals.
        batch: the rows.
        places: all continuous locals of a row, side by side.
        site: the one that is asked for.
        names: of the rows.
    """

    program: Program = field(repr=False)
    point: Mapping[str, Tensor] = field(repr=False)
    batch: Batch = field(repr=False)
    places: tuple[Place, ...]
    site: str
    names: tuple = field(repr=False)

    @staticmethod
    def of(program: Program, point: Mapping[str, Tensor], rows: Rows, site: str) -> FittedTarget:
        """The target of a continuous local that is a sample site; SupportError of a local in a further plate."""
        if site not in program.roles.continuous:
            raise SupportError(
                given=f"the posterior of {site!r} by search, which is known exactly",
                needed="a continuous local that is a sample site",
                remedy="read fit.latent(rows)",
            )
        batch = rows.batch(dtype=program.dtype)
        locals_ = prior_locals(program, batch, point, 0)
        with torch.no_grad():
            run = program.trace({**point, **locals_}, batch)
        for name in program.roles.continuous:
            check_place(name, run.sites[name])
        places = tuple(Place.of(run.sites[name]) for name in program.roles.continuous)
        return FittedTarget(program, point, batch, places, site, tuple(rows.names))

    @property
    def rows(self) -> int:  # type: ignore[override]
        return len(self.batch)

    @property
    def size(self) -> int:  # type: ignore[override]
        return sum(place.size for place in self.places)

    def log_density(self, free: Tensor) -> Tensor:
        size = len(free)
        tiled = taken(self.batch, torch.arange(self.rows).repeat(size))
        locals_, jacobian = {}, torch.zeros((), dtype=self.program.dtype)
        for place, part in self._parts(free.flatten(0, 1).to(self.program.dtype)):
            locals_[place.name], own = place.mapped(part)
            jacobian = jacobian + own
        run = self.program.trace({**self.point, **locals_}, tiled)
        return (run.contract(run.log_probs()) + jacobian).reshape(size, self.rows).to(free.dtype)

    def picked(self, index: Tensor) -> FittedTarget:
        return replace(self, batch=taken(self.batch, index), names=())

    def starts(self, size: int, seed: int) -> Tensor:
        drawn = []
        for number in range(size):
            own, values = derive(seed, number), None
            if number < FROM_GUIDE * size:
                try:
                    run = self.program.guided(self.batch, own)
                    values = run and {place.name: run.sites[place.name].value for place in self.places}
                except SupportError:  # a guide of the rows of the fit alone
                    values = None
            values = values or prior_locals(self.program, self.batch, self.point, own)
            drawn.append(torch.cat([place.free(values[place.name]) for place in self.places], 1))
        return torch.stack(drawn)

    def values(self, free: Tensor) -> Tensor:
        for place, part in self._parts(free.flatten(0, 1)):
            if place.name == self.site:
                return place.mapped(part)[0].reshape(*free.shape[:2], *place.shape)
        raise AssertionError(self.site)

    def _parts(self, free: Tensor) -> list[tuple[Place, Tensor]]:
        parts = free.split([place.size for place in self.places], -1)
        return list(zip(self.places, parts, strict=True))


def taken(batch: Batch, index: Tensor) -> Batch:
    """The rows of a batch at positions, in a way that a graph can record where they are single observations."""
    if batch.lengths is not None:
        return batch.select(index)
    observed = None if batch.observed is None else {name: value[index] for name, value in batch.observed.items()}
    return replace(
        batch,
        columns={name: value[index] for name, value in batch.columns.items()},
        index=batch.index[index],
        weights=batch.weights[index],
        observed=observed,
        known={name: value[index] for name, value in batch.known.items()},
    )
