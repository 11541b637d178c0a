"""What sampling leaves behind: draws of the globals, chain by chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from latentvars.program import GlobalSpace

DIVERGING = "diverging"
STATS, LOCALS = "stats.", "locals."  # prefixes of names in a file


@dataclass(frozen=True)
class Draws:
    """Draws of the globals from their posterior, S in each of C chains.

    Attributes:
        space: the globals.
        free: unconstrained draws ``[C, S, size]``.
        stats: of the sampler at each draw, ``[C, S]``: ``lp`` (log density on the unconstrained scale, nats),
            ``energy`` (nats), ``tree_depth``, ``n_steps``, ``step_size``, ``acceptance_rate``, ``diverging``.
        said: what is to be known of the run.
        locals: continuous local → draws ``[C, S, N, *shape]``, of the rows of the fit.
    """

    space: GlobalSpace
    free: Tensor
    stats: Mapping[str, Tensor]
    said: tuple[str, ...] = ()
    locals: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def chains(self) -> int:
        return self.free.shape[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """For the print-out of a fit."""
        divergent = int(self.stats[DIVERGING].sum())
        advice = f"{divergent} draws diverged: raise target_accept, or write the model without funnels"
        return (*self.said, advice) if divergent else self.said

    @property
    def size(self) -> int:
        """Draws of all chains."""
        return self.free.shape[:2].numel()

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """Constrained draws ``[C, S, *shape]``."""
        return self.space.constrain(self.free)[0]

    @property
    def point(self) -> dict[str, Tensor]:
        """Posterior means, constrained; of a global whose mean lies outside its support, the mean on the unconstrained
        scale in their place. Where labels switch between draws they stand for no component."""
        return self._point

    @cached_property
    def _point(self) -> dict[str, Tensor]:
        inside, _ = self.space.constrain(self.free.mean((0, 1)))
        found = {name: value.mean((0, 1)) for name, value in self.values.items()}
        fits = {site.name: bool(site.support.check(found[site.name]).all()) for site in self.space.sites}
        return self.space.project({name: found[name] if fits[name] else inside[name] for name in found})

    def draws(self, size: int, seed: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """``size // C`` draws of each chain, at least one, spread evenly over it, chain after chain; where there are
        fewer, all: ``[size, *shape]``. ``None``: their density is known up to a constant only."""
        at = self._chosen(size)
        return {name: value[:, at].flatten(0, 1) for name, value in self.values.items()}, None

    def local_draws(self, size: int) -> dict[str, Tensor]:
        """The continuous locals at the draws that :meth:`draws` gives, ``[size, N, *shape]``."""
        at = self._chosen(size)
        return {name: value[:, at].flatten(0, 1) for name, value in self.locals.items()}

    def statistics(self, size: int) -> dict[str, Tensor]:
        """The sampler's :attr:`stats` at the draws that :meth:`draws` gives, ``[C, size // C]``."""
        at = self._chosen(size)
        return {name: value[:, at] for name, value in self.stats.items()}

    def _chosen(self, size: int) -> Tensor:
        """Positions in each chain, at least one."""
        each = self.free.shape[1]
        wanted = min(each, max(1, size // self.chains))
        return torch.arange(wanted) * each // wanted

    def tensors(self) -> dict[str, Tensor]:
        parts = {STATS: self.stats, LOCALS: self.locals}
        named = {f"{prefix}{name}": value for prefix, values in parts.items() for name, value in values.items()}
        return {"free": self.free, **named}

    @staticmethod
    def rebuilt(space: GlobalSpace, tensors: Mapping[str, Tensor]) -> Draws:
        """From what :meth:`tensors` gave."""
        stats, locals_ = (
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            for prefix in (STATS, LOCALS)
        )
        return Draws(space, tensors["free"], stats, (), locals_)
