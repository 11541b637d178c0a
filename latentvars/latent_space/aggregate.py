"""The aggregate posterior: where the latents of the rows really lie, as a mixture fitted afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latentvars.inference import EM, Fit, fit
from latentvars.latent_space.fitted import FittedSource
from latentvars.latent_space.sampling import check_draws, within
from latentvars.models import GaussianMixture
from latentvars.posterior import LatentPosterior
from latentvars.posterior.observations import Observations, predictions
from latentvars.randomness import derive, generator
from latentvars.rows import Rows

MOST_ROWS = 5_000  # draws that the mixture is fitted to


@dataclass(frozen=True, eq=False, repr=False)
class Aggregate:
    """(1/N) Σ q(z | x_n), approximated by a mixture of normals on the real numbers of a continuous latent; of a
    discrete one the mean of the posterior probabilities. A prior learnt afterwards: what is drawn
    from it decodes to rows like those of the data where the model's prior has holes (Dai & Wipf 2019).

    Attributes:
        mixture: fit of the mixture; None of a discrete latent.
        probs: ``[K]``; None of a continuous one.
    """

    source: FittedSource = field(repr=False)
    mixture: Fit | None = field(repr=False)
    probs: Tensor | None = field(repr=False)

    def __repr__(self) -> str:
        if self.mixture is None:
            assert self.probs is not None
            return f"Aggregate of {self.source.site!r}: probabilities of {len(self.probs)} categories"
        weights = self.mixture.point["weights"]
        return f"Aggregate of {self.source.site!r}: a mixture of {len(weights)} normals"

    def sample(
        self, draws: int, *, region: Callable[[Tensor], Tensor] | None = None, seed: int = 0, tries: int = 1_000
    ) -> Tensor:
        """Draws ``[draws, *shape]``, within a region by rejection; errors as :meth:`LatentSpace.sample`."""
        check_draws(draws)
        return within(self._draw, draws, region, seed, tries)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density ``[M]`` of values ``[M, *shape]``, nats; of a latent with bounds that of its real numbers."""
        if self.mixture is None:
            assert self.probs is not None
            return self.probs[z.long()].log()
        return self.mixture.score_rows(self.source.free(z).to(torch.float64))

    def _draw(self, size: int, seed: int) -> Tensor:
        if self.mixture is None:
            assert self.probs is not None
            return torch.multinomial(self.probs, size, replacement=True, generator=generator(seed))
        known, one = self.mixture, Rows(torch.zeros(1, self.source.place.size, dtype=torch.float64))
        layouts = Observations.of(known.program, one, known.point, {}).layouts
        values = {name: value[None] for name, value in known.point.items()}
        drawn = predictions(known.program, one, layouts, values, size, seed)["x"][:, 0]
        return self.source.value(torch.from_numpy(drawn).to(self.source.dtype))


def aggregated(source: FittedSource, data: Any, components: int, seed: int) -> Aggregate:
    """The aggregate of rows; see :meth:`LatentSpace.aggregate`."""
    belief = source.fit.latent(data)
    if source.discrete:
        return Aggregate(source, None, belief.mean(source.site).flatten(0, -2).mean(0))
    drawn = pooled(belief, source.site, min(MOST_ROWS, max(len(belief), 1_000)), derive(seed, 1))
    free = source.free(drawn).to(torch.float64)
    return Aggregate(source, fit(GaussianMixture(components), free, EM(restarts=3), seed=seed, progress=False), None)


def pooled(belief: LatentPosterior, site: str, draws: int, seed: int) -> Tensor:
    """Draws ``[draws, ...]`` of the posteriors of rows, each row in turn, in random order."""
    rounds = -(-draws // len(belief))
    found = belief.sample(site, rounds, seed).flatten(0, 1)
    return found[torch.randperm(len(found), generator=generator(seed, 1))[:draws]]
