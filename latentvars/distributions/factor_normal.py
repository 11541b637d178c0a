"""A normal whose covariance comes from a few continuous factors, which are integrated out."""

from __future__ import annotations

import math
from typing import final

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution, constraints
from torch import Size, Tensor

from latentvars.distributions.shapes import check_count, check_expand, join_batch_shapes

LOG_TWO_PI = math.log(2 * math.pi)


@final
class FactorNormal(TorchDistribution):
    """x = μ + W z + ε, z ~ N(0, I), ε ~ N(0, diag(σ²)), z integrated out: x ~ N(μ, W Wᵀ + diag(σ²)) (Rubin & Thayer
    1982; with one σ for all features Tipping & Bishop 1999, eq. 4).

    Args:
        loc: μ ``[..., D]``.
        loadings: W ``[..., D, L]``.
        scale: σ ``[..., D]``, positive; or
        shared_scale: one σ for all features, ``[...]``.
        local: name of the latent z.
        validate_args: whether to check the arguments.

    Raises:
        ShapeError: arguments that differ in D or do not broadcast.
    """

    def __init__(
        self,
        loc: Tensor,
        loadings: Tensor,
        scale: Tensor | None = None,
        shared_scale: Tensor | None = None,
        local: str = "z",
        validate_args: bool | None = None,
    ) -> None:
        check_count("loadings", loadings.shape[-2], loc.shape[-1], "give one row of loadings per feature")
        self.loc, self.loadings, self.local = loc, loadings, local
        if shared_scale is not None:
            self.shared_scale, batch = shared_scale, shared_scale.shape
        else:
            assert scale is not None, "give scale or shared_scale"
            self.scale, batch = scale, scale.shape[:-1]
        shapes: dict[str, tuple[int, ...]] = {"loc": loc.shape[:-1], "loadings": loadings.shape[:-2], "scale": batch}
        super().__init__(join_batch_shapes("a FactorNormal", shapes), loc.shape[-1:], validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        scale = "scale" if "scale" in vars(self) else "shared_scale"
        return {"loc": constraints.real, "loadings": constraints.real, scale: constraints.positive}

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real_vector

    has_rsample = True

    def expand(self, batch_shape: tuple[int, ...], _instance: FactorNormal | None = None) -> FactorNormal:
        batch_shape = Size(batch_shape)
        check_expand("a FactorNormal", self.batch_shape, batch_shape)
        new = _instance or FactorNormal.__new__(FactorNormal)
        for name in ("loc", "loadings", "local", "scale", "shared_scale"):
            if name in vars(self):
                setattr(new, name, getattr(self, name))
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def noise(self) -> Tensor:
        """σ, ``[..., D]`` or ``[..., 1]``."""
        return self.scale if "scale" in vars(self) else self.shared_scale[..., None]

    def _whitened(self) -> tuple[Tensor, Tensor]:
        """W / σ ``[..., D, L]`` and the lower factor of I + (W/σ)ᵀ(W/σ), the precision of z given x."""
        white = self.loadings / self.noise[..., None]
        eye = torch.eye(white.shape[-1], dtype=white.dtype, device=white.device)
        return white, torch.linalg.cholesky(eye + white.mT @ white)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x), nats, ``[...]``, by the L × L precision of z (Woodbury's identity)."""
        white, factor = self._whitened()
        residual = (value - self.loc) / self.noise
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        along = self._along(residual, white @ torch.linalg.solve_triangular(factor, eye, upper=False).mT)
        log_det = self.noise.expand(*self.noise.shape[:-1], self.event_shape[0]).log().sum(-1)
        log_det = log_det + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        distance = torch.linalg.vecdot(residual, residual) - along.square().sum(-1)
        found = -0.5 * (self.event_shape[0] * LOG_TWO_PI + distance) - log_det
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    @staticmethod
    def _along(row: Tensor, matrix: Tensor) -> Tensor:
        """``[..., D]`` times ``[..., D, L]``, one product where there is one matrix."""
        return row @ matrix if matrix.dim() == 2 else (row.unsqueeze(-2) @ matrix)[..., 0, :]

    def posterior(self, value: Tensor) -> MultivariateNormal:
        """p(z | x) = N(M⁻¹ Wᵀ Ψ⁻¹ (x − μ), M⁻¹) with M = I + Wᵀ Ψ⁻¹ W: of batch shape ``[...]`` and event L."""
        white, factor = self._whitened()
        along = self._along((value - self.loc) / self.noise, white)
        mean = self._along(along, torch.cholesky_inverse(factor))
        return MultivariateNormal(mean, covariance_matrix=torch.cholesky_inverse(factor), validate_args=False)

    def rsample(self, sample_shape: tuple[int, ...] = Size()) -> Tensor:
        """Draws ``[*sample_shape, *batch, D]``."""
        shape = Size(sample_shape) + self.batch_shape
        z = torch.randn(*shape, 1, self.loadings.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        noise = torch.randn(*shape, *self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + (z @ self.loadings.mT)[..., 0, :] + self.noise * noise

    @property
    def mean(self) -> Tensor:
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return (self.loadings.square().sum(-1) + self.noise.square()).expand(self.batch_shape + self.event_shape)
