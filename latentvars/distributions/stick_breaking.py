"""The stick-breaking law of weights: a truncated Dirichlet process."""

from __future__ import annotations

from typing import Any, final

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from latentvars.distributions.shapes import check_expand
from latentvars.errors import SettingError

SHORTEST = 1e-6  # share of the stick that a mode leaves at least


@final
class StickBreaking(TorchDistribution):
    """w_k = v_k Π_{j<k} (1 − v_j) with v_k ~ Beta(1, α) for k < K, v_K = 1 (Ishwaran & James 2001, section 3.2).

    With r_k = Σ_{j>k} w_j, what the first k pieces leave of the stick, the density is

        p(w) = α^{K−1} w_K^α Π_{k=1}^{K−1} 1 / r_k

    on the simplex, with respect to w_1 … w_{K−1} (Connor & Mosimann 1969, a generalised Dirichlet law). As K grows it
    becomes the law of the weights of a Dirichlet process of concentration α (Sethuraman 1994).

    Args:
        components: K, the truncation.
        concentration: α > 0, ``[...]``: how slowly weights fall off; N rows have about α log(1 + N/α) components.
        validate_args: whether to check the concentration and the values.

    Raises:
        SettingError: fewer than one component, or a concentration of 0 or below.
    """

    has_rsample = True

    def __init__(self, components: int, concentration: Tensor | float = 1.0, validate_args: bool | None = None) -> None:
        if components < 1:
            raise SettingError(f"components={components}", "at least one component", "write stick_breaking(20)")
        if not isinstance(concentration, Tensor):
            concentration = torch.as_tensor(float(concentration))
            if not float(concentration) > 0:
                raise SettingError(f"concentration={float(concentration):g}", "a number above 0", "write 1.0")
        self.components, self.concentration = components, concentration
        super().__init__(concentration.shape, Size([components]), validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {"concentration": constraints.positive}

    @property
    def support(self) -> Any:
        return constraints.simplex

    def expand(self, batch_shape: tuple[int, ...], _instance: StickBreaking | None = None) -> StickBreaking:
        batch_shape = Size(batch_shape)
        check_expand("a StickBreaking", self.batch_shape, batch_shape)
        new = _instance or StickBreaking.__new__(StickBreaking)
        new.components, new.concentration = self.components, self.concentration.expand(batch_shape)
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """(K − 1) log α + α log w_K − Σ_{k<K} log r_k, nats, ``[...]``."""
        if self._validate_args:
            self._validate_sample(value)
        if self.components == 1:
            return torch.zeros_like(value[..., 0] + self.concentration)
        rest = _behind(value).clamp(min=torch.finfo(value.dtype).tiny)
        log_rest = rest.log()
        alpha = self.concentration
        return (self.components - 1) * alpha.log() + alpha * log_rest[..., -1] - log_rest.sum(-1)

    def rsample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """Draws ``[*sample_shape, *batch, K]``; 1 − v = u^{1/α} with u uniform, so that small pieces lose no digits."""
        alpha = self.concentration
        shape = Size(sample_shape) + self.batch_shape + Size([self.components - 1])
        uniform = torch.rand(shape, dtype=alpha.dtype, device=alpha.device).clamp(min=torch.finfo(alpha.dtype).tiny)
        log_left = uniform.log() / alpha.unsqueeze(-1)
        first = log_left.new_zeros((*log_left.shape[:-1], 1))
        before = torch.cat([first, log_left.cumsum(-1)], -1).exp()
        return before * torch.cat([-torch.expm1(log_left), first + 1], -1)

    @property
    def mean(self) -> Tensor:
        """α^{k−1} / (1 + α)^k, and for the last what is left, ``[..., K]``."""
        alpha = self.concentration.unsqueeze(-1)
        places = torch.arange(self.components, dtype=alpha.dtype)
        share = torch.where(places < self.components - 1, 1 / (1 + alpha), 1.0)
        return (alpha / (1 + alpha)) ** places * share

    def mode_given(self, counts: Tensor) -> Tensor:
        """The weights that maximise Σ_k n_k log w_k + log p(w) where no stick leaves less than a millionth.

        In the sticks it is a sum of n_k log v_k + (Σ_{j>k} n_j + α − (K − k)) log(1 − v_k), each of which has its
        maximum apart. Where the last factor is negative there would be none without that bound: the density grows
        without end as the weights behind k vanish together.

        Args:
            counts: ``[..., K]``, not necessarily whole.
        """
        if self.components == 1:
            return torch.ones_like(counts)
        own = counts[..., :-1]
        places = torch.arange(self.components - 1, 0, -1, dtype=counts.dtype)
        others = _behind(counts) + self.concentration.to(counts.dtype).unsqueeze(-1) - places
        free = others > 0
        share = torch.where(free, own / torch.where(free, own + others, 1.0), 1.0).clamp(max=1 - SHORTEST)
        first = torch.ones_like(counts[..., :1])
        before = torch.cat([first, (1 - share).cumprod(-1)], -1)
        return before * torch.cat([share, first], -1)


def _behind(value: Tensor) -> Tensor:
    """Σ_{j>k} of ``[..., K]`` for k < K, ``[..., K-1]``; summed from the last, so that small ones keep their digits."""
    return value.flip(-1).cumsum(-1).flip(-1)[..., 1:]


def stick_breaking(components: int, concentration: Tensor | float = 1.0) -> StickBreaking:
    """A prior of weights under which few of many components are used: a Dirichlet process, truncated.

    ``priors={"weights": lv.stick_breaking(20, 1.0)}``, or in a model of your own with a concentration that is learnt:
    ``alpha = pyro.sample("alpha", dist.Gamma(2.0, 1.0))``, ``pyro.sample("weights", lv.stick_breaking(20, alpha))``.
    :func:`latentvars.occupied` reads the number of components off a fit. See :class:`StickBreaking`.

    By SVI or NUTS the posterior is meant. EM's posterior mode empties components too, but the density of the weights
    has no upper bound where the last of them vanish: it is held there by a least share of each stick, and the objective
    favours ends with more empty components whatever the data say. Compare starts by ``fit.log_likelihood`` then.
    """
    return StickBreaking(components, concentration)
