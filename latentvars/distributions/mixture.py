"""Finite mixtures with the component summed out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from pyro.distributions import Categorical, TorchDistribution, constraints
from torch import Size, Tensor

from latentvars.contract import Factor
from latentvars.distributions.log_space import log_probs, log_sum_exp, only_known
from latentvars.distributions.normal_scores import component_log_prob
from latentvars.distributions.shapes import check_count, check_expand, join_batch_shapes
from latentvars.distributions.soft_categorical import SoftCategorical
from latentvars.errors import ShapeError


@final
class Mixture(TorchDistribution):
    """p(x) = Σ_k w_k f_k(x), the component z summed out (McLachlan & Peel 2000, eq. 1.1).

    Args:
        weights: ``[..., K]``, on the simplex; zeros are allowed.
        components: distribution of batch shape ``[..., K]`` and any event shape E (collapsed ones included).
        local: name of the latent component.
        validate_args: whether to check ``weights``.

    The parts stay as they were given when the mixture is expanded (a plate): densities are computed by broadcasting.

    Raises:
        ShapeError: weights and components differ in K or do not broadcast.
    """

    def __init__(
        self,
        weights: Tensor,
        components: TorchDistribution,
        local: str = "z",
        validate_args: bool | None = None,
    ) -> None:
        if not components.batch_shape:
            raise ShapeError(
                given=f"components {type(components).__name__} of empty batch shape",
                needed="components whose last batch dimension is the component, [..., K]",
                remedy="batch the parameters over the components, or reduce with .to_event() fewer dimensions",
            )
        check_count("weights", weights.shape[-1], components.batch_shape[-1], "give one weight per component")
        self.weights, self.components, self.local = weights, components, local
        self.known: Tensor | None = None
        batch_shape = join_batch_shapes(
            "a Mixture", {"weights": weights.shape[:-1], "components": components.batch_shape[:-1]}
        )
        super().__init__(batch_shape, components.event_shape, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {"weights": constraints.simplex}

    @property
    def support(self) -> constraints.Constraint:
        """The support of the components, taken to be shared by all."""
        support: Any = self.components.support
        return support

    def expand(self, batch_shape: tuple[int, ...], _instance: Mixture | None = None) -> Mixture:
        batch_shape = Size(batch_shape)
        check_expand("a Mixture", self.batch_shape, batch_shape)
        new = _instance or Mixture.__new__(Mixture)
        new.weights, new.components, new.local = self.weights, self.components, self.local
        new.known = self.known
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def map_parts(self, change: Callable[[TorchDistribution], TorchDistribution]) -> Mixture:
        """The mixture of changed components."""
        changed = Mixture(self.weights, change(self.components), self.local, validate_args=False)
        changed.known = self.known
        return changed.expand(self.batch_shape)

    @property
    def labels(self) -> int:
        """K."""
        return self.weights.shape[-1]

    def given(self, known: Tensor) -> Mixture:
        """p(x, z = known), log w_z + log f_z(x), where the component is known; samples are not affected.

        Args:
            known: ``[...]`` int64, −1 where it is not.
        """
        new = self.expand(self.batch_shape)
        new.known = known
        return new

    def _at_components(self, value: Tensor) -> Tensor:
        """``[..., *E]`` → ``[..., 1, *E]``, which broadcasts against the components."""
        return value.unsqueeze(-1 - len(self.event_shape))

    def _joint(self, value: Tensor) -> Tensor:
        """log w_k + log f_k(x), ``[..., K]``."""
        joint = log_probs(self.weights) + component_log_prob(self.components, self._at_components(value))
        shape = torch.broadcast_shapes(joint.shape[:-1], self.batch_shape)
        return only_known(joint.expand(shape + joint.shape[-1:]), self.known)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x), nats, ``[...]``; the gradient with respect to a weight that is zero is zero."""
        return log_sum_exp(self._joint(value), -1)

    def posterior(self, value: Tensor) -> Categorical:
        """p(z | x) ∝ w_z f_z(x): a Categorical of batch shape ``[...]`` over K components (Bayes' rule)."""
        return Categorical(logits=self._joint(value), validate_args=False)

    def factors(self, value: Tensor, weights: Tensor) -> dict[str, Factor]:
        """Expected complete-data factors, with the posterior of z held fixed (detached).

        Args:
            value: ``[..., *E]``.
            weights: row weights, broadcastable to ``[...]``.

        Returns:
            ``"weights"``: counts r ``[..., K]`` under the weights; ``"components"``: x as ``[..., 1, *E]`` with the
            weights w_n r_nk ``[..., K]``. Their weighted log-densities plus the weighted entropy of ``posterior``
            sum to the weighted ``log_prob``.
        """
        with torch.no_grad():
            responsibilities = self._joint(value).softmax(-1)
            per_component = weights.unsqueeze(-1) * responsibilities
        return {
            "weights": Factor(SoftCategorical(self.weights, validate_args=False), responsibilities, weights),
            "components": Factor(self.components, self._at_components(value), per_component),
        }

    def parts_of(self, value: Tensor) -> dict[str, Factor]:
        """The distributions and values of :meth:`factors` with unit weights, and no counts: nothing is worked out."""
        one = torch.ones((), dtype=self.weights.dtype)
        return {
            "weights": Factor(SoftCategorical(self.weights, validate_args=False), torch.zeros_like(self.weights), one),
            "components": Factor(self.components, self._at_components(value), one),
        }

    def sample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """Draws ``[*sample_shape, *batch, *E]``."""
        with torch.no_grad():
            categories = self.weights.shape[-1:]
            probs = self.weights.expand(self.batch_shape + categories)
            which = torch.distributions.Categorical(probs, validate_args=False).sample(Size(sample_shape))
            draws = self.components.expand(self.batch_shape + categories).sample(Size(sample_shape))
            axis = which.dim()
            index = which.reshape(which.shape + (1,) * (1 + len(self.event_shape)))
            index = index.expand((*which.shape, 1, *self.event_shape))
            return draws.gather(axis, index).squeeze(axis)

    @property
    def mean(self) -> Tensor:
        """Σ_k w_k E[x | k], ``[*batch, *E]``."""
        return self._average(self.components.mean)

    @property
    def variance(self) -> Tensor:
        """Σ_k w_k (Var[x | k] + E[x | k]²) − E[x]² in its centred form (law of total variance)."""
        centred = self.components.mean - self._at_components(self._average(self.components.mean))
        return self._average(self.components.variance + centred**2)

    def _average(self, moment: Tensor) -> Tensor:
        """Weighted mean over the components of ``[..., K, *E]``."""
        weights = self.weights.reshape(self.weights.shape + (1,) * len(self.event_shape))
        average = (weights * moment).sum(-1 - len(self.event_shape))
        return average.expand(self.batch_shape + self.event_shape)
