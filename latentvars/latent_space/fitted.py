"""The latent space of a fit: its model given values of one local, of any user's model or a built-in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from torch import Size, Tensor

from latentvars.errors import KindError, NameUnknownError, SupportError
from latentvars.inference import Fit
from latentvars.inference.amortised.pushed import Place
from latentvars.inference.sampling.local_draws import check_place
from latentvars.latent_space.collapsed import given_local, local_prior
from latentvars.latent_space.fitted_target import FittedTarget
from latentvars.latent_space.law import Law
from latentvars.latent_space.source import Source, Target
from latentvars.posterior.observations import Observations
from latentvars.program import Program
from latentvars.program.missing import without_missing
from latentvars.program.run import Run, Site, read
from latentvars.program.scope import surroundings
from latentvars.randomness import derive, seeded
from latentvars.rows import Batch, Rows

LOOKED_AT = 64  # rows of which it is seen which columns are observed


@dataclass(frozen=True, eq=False)
class FittedSource(Source):
    """A model, at one point of its globals, decoding one local.

    Attributes:
        fit: what was learnt.
        site: the local.
        point: constrained globals.
    """

    fit: Fit = field(repr=False)
    site: str
    point: Mapping[str, Tensor] = field(repr=False)

    @staticmethod
    def of(fit: Fit, site: str | None) -> FittedSource:
        """The source of a local.

        Raises:
            KindError: a model without locals.
            NameUnknownError: several locals and no name, or another name.
            SupportError: a local in a further plate.
        """
        names = locals_of(fit.program, fit.point)
        if not names:
            raise KindError(
                given=f"a fit of {type(fit.model).__name__}, which has no locals",
                needed="a model that decodes a latent of each row",
                remedy="read fit.point and fit.summary() instead",
            )
        if site is None and len(names) == 1:
            site = names[0]
        if site is None or site not in names:
            raise NameUnknownError(
                given=f"the local site {site!r}",
                needed=f"one of {list(names)}",
                remedy="write lv.LatentSpace(fit, site=...)",
            )
        source = FittedSource(fit, site, fit.point)
        if source.own is not None:
            check_place(site, source.own)
        return source

    @property
    def program(self) -> Program:
        return self.fit.program

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.program.dtype

    @cached_property
    def sketch(self) -> Run:
        """An ancestral run on two rows."""
        return ancestral(self.program, self.point, self.program.sketch, 0)

    @property
    def own(self) -> Site | None:
        """The site of the local; None where it is summed or integrated out in closed form."""
        return self.sketch.sites.get(self.site)

    @cached_property
    def collapsed(self) -> Any:
        """The law that the local is removed from; None where it is a sample site."""
        laws = [site.fn for site in self.sketch.local.values() if getattr(site.fn, "local", None) == self.site]
        return laws[0] if self.own is None else None

    @property
    def exact(self) -> bool:
        """Whether the posterior of the local is known in closed form."""
        return not self.program.roles.continuous

    @property
    def open(self) -> bool:
        """Whether other continuous locals are left, which decoding draws from the model."""
        return bool(set(self.program.roles.continuous) - {self.site})

    @property
    def discrete(self) -> bool:  # type: ignore[override]
        return self.site not in self.program.roles.continuous and not hasattr(self.collapsed, "loadings")

    @property
    def chain(self) -> bool:
        """Whether values are paths of states."""
        return self.fit.rows.lengths is not None and self.own is None

    @cached_property
    def shape(self) -> Size:  # type: ignore[override]
        if self.own is not None:
            return Size(self.own.fn.event_shape)
        return Size() if self.chain else Size(self._prior(1).event_shape)

    @cached_property
    def labels(self) -> int:
        """Number of values of a discrete local."""
        if self.own is None:
            return int(self.collapsed.labels)
        return len(self.own.fn.enumerate_support(expand=False))

    @cached_property
    def place(self) -> Place:
        """Where a continuous local stands among real numbers."""
        if self.own is not None:
            return Place.of(self.own)
        prior: Any = self._prior(1)
        return Place(self.site, self.shape, prior.support, self.shape)

    def _prior(self, steps: int) -> Any:
        return local_prior(self.collapsed, steps)

    @cached_property
    def covariates(self) -> tuple[str, ...]:
        """Columns that no observed site holds: what the model reads of a row besides."""
        rows = self.fit.rows.seen.subset(slice(0, LOOKED_AT))
        return tuple(Observations.of(self.program, rows, self.point, {}).covariates(rows))

    def draw(self, size: int, seed: int) -> Tensor:
        """``[size, *shape]``; paths have the steps of the first row of the fit."""
        if self.own is not None:
            run = ancestral(self.program, self.point, self.template(size, None), seed)
            return run.sites[self.site].value
        steps = 1 if self.fit.rows.lengths is None else int(self.fit.rows.lengths[0])
        with torch.no_grad(), seeded(seed):
            found = self._prior(steps).sample(Size([size]))
        batch = found.dim() - len(self._prior(steps).event_shape)
        return found.reshape(size, -1, *found.shape[batch:])[:, 0]

    def template(self, size: int, given: Any) -> Batch:
        """M complete rows that a model can be run on: those given, or the first row of the fit.

        Raises:
            SupportError: a model that reads covariates, and no rows to read them from.
        """
        rows = self.fit.rows if given is None else self.fit.conform(given)
        if given is None and self.covariates:
            raise SupportError(
                given=f"a model that reads {list(self.covariates)} of each row",
                needed="rows to read them from",
                remedy="pass given=rows: one row, or one for each point",
            )
        if given is not None and len(rows) not in (1, size):
            raise SupportError(f"given={len(rows)} rows for {size} points", f"1 or {size} rows", "pass as many rows")
        picked: Rows = rows.subset(torch.arange(size) % len(rows) if given is not None else torch.zeros(size).long())
        return replace(without_missing(picked.batch(dtype=self.dtype), picked), known={})

    def laws(self, z: Tensor, given: Any = None, seed: int = 0) -> dict[str, Law]:
        """p(x | z) of each observed site, other discrete locals summed out, continuous ones drawn from the model."""
        locals_ = {self.site: z}
        return self.laws_of(self.run_given(locals_, self.template(len(z), given), seed), locals_)

    def run_given(self, locals_: Mapping[str, Tensor], batch: Batch, seed: int = 0) -> Run:
        """The model on rows whose locals have these values, as far as they are sample sites."""
        values = {name: value for name, value in locals_.items() if name in self.sketch.sites}
        with seeded(seed):
            return self.program.trace({**self.point, **values}, batch)

    def laws_of(self, run: Run, locals_: Mapping[str, Tensor]) -> dict[str, Law]:
        """The laws of the observed sites of such a run."""
        program, log_probs, found = self.program, run.log_probs(), {}
        for name in program.roles.observed:
            site = run.sites[name]
            if not site.value.numel():  # a factor has no value
                continue
            local = getattr(site.fn, "local", "")
            if local in locals_:
                found[name] = given_local(site.fn, locals_[local])
                continue
            axes = tuple(range(-len(site.fn.batch_shape), -program.roles.nesting))
            weights = open_weights(run, log_probs, name, program.roles.observed) if axes else None
            found[name] = Law(site.fn, weights, axes)
        return found

    def free(self, z: Tensor) -> Tensor:
        return self.place.free(z)

    def value(self, free: Tensor) -> Tensor:
        return self.place.mapped(free)[0]

    def at(self, draws: int, seed: int) -> list[FittedSource]:
        """The source at draws of the globals."""
        known = self.fit.knowledge(draws, seed=derive(seed, 51)).draws
        if not known:
            raise KindError(
                given=f"decoding averaged over {draws} draws of globals that are a point",
                needed="a distribution of the globals",
                remedy="fit by lv.NUTS(), lv.SVI() or lv.Laplace(), or leave draws out",
            )
        size = len(next(iter(known.values())))
        return [replace(self, point={name: value[k] for name, value in known.items()}) for k in range(size)]

    def target(self, data: Any) -> Target:
        rows = self.fit.rows if data is None else self.fit.conform(data)
        return FittedTarget.of(self.program, self.point, rows, self.site)


def ancestral(program: Program, values: Mapping[str, Tensor], batch: Batch, seed: int) -> Run:
    """A run of the model given the globals, locals and observations drawn."""
    model = poutine.condition(poutine.uncondition(program.model.model), data={**program.chosen, **values})
    with torch.no_grad(), seeded(seed), surroundings(program.dtype):
        return read(poutine.trace(model).get_trace(batch))


def locals_of(program: Program, point: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the locals, sample sites first."""
    run = ancestral(program, point, program.sketch, 0)
    found = [*program.roles.continuous, *program.roles.discrete]
    found += [site.fn.local for site in run.local.values() if hasattr(site.fn, "posterior")]  # type: ignore[attr-defined]
    return tuple(dict.fromkeys(found))


def open_weights(run: Run, log_probs: Mapping[str, Tensor], name: str, observed: tuple[str, ...]) -> Tensor:
    """Log probabilities of the enumerated locals that a site depends on, given those that are set and no observation.

    By the gradient with respect to a log-factor of zeros in the place of the site's own.
    """
    with torch.enable_grad():
        tap = torch.zeros_like(log_probs[name]).requires_grad_()
        left = {other: torch.zeros_like(v) if other in observed else v for other, v in log_probs.items()}
        rows = run.contract({**left, name: tap})
        (weights,) = torch.autograd.grad(rows.sum(), [tap], create_graph=any(v.requires_grad for v in left.values()))
    return weights.log()
