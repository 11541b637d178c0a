"""Decoded: what rows with given latents look like, with uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import Independent

from latentvars.errors import NameUnknownError, SettingError
from latentvars.latent_space.law import Law
from latentvars.randomness import derive, seeded

QUANTILE_DRAWS = 2_000


@dataclass(frozen=True, repr=False, eq=False)
class Decoded:
    """p(x | z_m) of M points of a latent space.

    Attributes:
        laws: observed site → its laws, one for each draw of what the points leave open (globals, other continuous
            locals); one where nothing is.
        seed: of what is found by draws.
    """

    laws: Mapping[str, Sequence[Law]] = field(repr=False)
    seed: int = 0

    def __repr__(self) -> str:
        draws = len(next(iter(self.laws.values())))
        over = f", averaged over {draws} draws of what is open" if draws > 1 else ""
        return f"Decoded {list(self.laws)} at {len(self)} points{over}"

    def __len__(self) -> int:
        return self.mean(next(iter(self.laws))).shape[0]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.laws)

    def mean(self, site: str | None = None) -> Tensor:
        """E[x | z_m] ``[M, ...]``; of categories their probabilities ``[M, ..., K]``."""
        return self._read(site, lambda law: law.mean).mean(0)

    def std(self, site: str | None = None) -> Tensor:
        """Standard deviation of x ``[M, ...]``, of noise and of what is open together (law of total variance)."""
        means, variances = self._read(site, lambda law: law.mean), self._read(site, lambda law: law.variance)
        return (variances.mean(0) + means.var(0, correction=0)).clamp(min=0).sqrt()

    def spread(self, site: str | None = None) -> Tensor:
        """Standard deviation of the mean ``[M, ...]`` over what is open: zero at a point of the globals."""
        return self._read(site, lambda law: law.mean).std(0, correction=0)

    def sample(self, draws: int = 1, site: str | None = None, seed: int = 0) -> Tensor:
        """Draws of x ``[draws, M, ...]``, by turns from each draw of what is open."""
        laws = self.laws[self._name(site)]
        counts = [len(range(k, draws, len(laws))) for k in range(len(laws))]
        with seeded(derive(self.seed, 1, seed)):
            return torch.cat([law.sample(count) for law, count in zip(laws, counts, strict=True) if count])

    def quantile(self, probability: float, site: str | None = None) -> Tensor:
        """Quantile of each number of x ``[M, ...]``: of a normal in closed form, else of 2,000 draws."""
        if not 0 < probability < 1:
            raise SettingError(f"probability={probability}", "a number between 0 and 1", "write 0.5 for the median")
        laws = self.laws[self._name(site)]
        base: Any = laws[0].fn
        while isinstance(base, Independent):
            base = base.base_dist
        if len(laws) == 1 and not laws[0].axes and isinstance(base, Normal):
            z = torch.special.ndtri(torch.tensor(probability, dtype=torch.float64))
            return self.mean(site) + z.to(base.loc.dtype) * self.std(site)
        drawn = self.sample(QUANTILE_DRAWS, site).to(torch.float64)
        return torch.quantile(drawn, probability, 0)

    def band(self, probability: float = 0.89, site: str | None = None) -> tuple[Tensor, Tensor]:
        """The ends of the central interval in which x lies with this probability, each ``[M, ...]``."""
        if not 0 < probability < 1:
            raise SettingError(f"probability={probability}", "a number between 0 and 1", "write probability=0.89")
        return self.quantile((1 - probability) / 2, site), self.quantile((1 + probability) / 2, site)

    def _read(self, site: str | None, read: Callable[[Law], Tensor]) -> Tensor:
        with torch.no_grad():
            return torch.stack([read(law) for law in self.laws[self._name(site)]])

    def _name(self, site: str | None) -> str:
        if site is None and len(self.laws) == 1:
            return next(iter(self.laws))
        if site is None or site not in self.laws:
            raise NameUnknownError(f"the observed site {site!r}", f"one of {list(self.laws)}", "give its name")
        return site
