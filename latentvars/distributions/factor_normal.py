"""A normal whose covariance comes from a few continuous factors, which are integrated out."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution, constraints
from torch import Size, Tensor

from latentvars.distributions.normal_blocks import LOG_TWO_PI
from latentvars.distributions.normal_scores import WIDEST, scores
from latentvars.distributions.operators import holds_numbers
from latentvars.distributions.shapes import check_count, check_expand, join_batch_shapes

BLOCK = 1_024  # rows whose intermediate results stay near the processor


def _factor(squares: Tensor) -> Tensor:
    """The lower factor of I + squares."""
    return torch.linalg.cholesky(torch.eye(squares.shape[-1], dtype=squares.dtype, device=squares.device) + squares)


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
        gaps: whether values may have entries that are NaN, which are integrated out; each row then has a precision of
            its own.
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
        gaps: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        check_count("loadings", loadings.shape[-2], loc.shape[-1], "give one row of loadings per feature")
        self.loc, self.loadings, self.local, self.gaps = loc, loadings, local, gaps
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
        for name in ("loc", "loadings", "local", "gaps", "scale", "shared_scale"):
            if name in vars(self):
                setattr(new, name, getattr(self, name))
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def noise(self) -> Tensor:
        """σ, ``[..., D]`` or ``[..., 1]``."""
        return self.scale if "scale" in vars(self) else self.shared_scale[..., None]

    def map_parts(self, change: Callable[[TorchDistribution], TorchDistribution]) -> FactorNormal:
        """The law of the observed entries: it is made of no parts, and reads gaps itself."""
        return FactorNormal(
            self.loc,
            self.loadings,
            vars(self).get("scale"),
            vars(self).get("shared_scale"),
            self.local,
            gaps=True,
            validate_args=False,
        )

    @property
    def covariance(self) -> Tensor:
        """W Wᵀ + diag(σ²), not broadcast, ``[..., D, D]``."""
        return self.loadings @ self.loadings.mT + torch.diag_embed(self.noise.square().expand(self._width()))

    def _read(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """(x − μ) / σ, zero in gaps, and where the value is observed, as numbers; None where it is everywhere."""
        if not self.gaps:
            return (value - self.loc) / self.noise, None
        seen = ~value.isnan()
        return (torch.where(seen, value, self.loc) - self.loc) / self.noise, seen.to(value.dtype)

    def _whitened(self, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """W / σ ``[..., D, L]`` and the lower factor of I + (W/σ)ᵀ(W/σ), the precision of z given what is observed."""
        white = self.loadings / self.noise[..., None]
        if seen is None:
            return white, _factor(white.mT @ white)
        squares = (white[..., :, None] * white[..., None, :]).flatten(-2)
        return white, _factor(self._along(seen, squares).unflatten(-1, (white.shape[-1], white.shape[-1])))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x), nats, ``[...]``: of rows of one law by the root of its precision, else by the L × L precision of z
        (Woodbury's identity)."""
        if self.gaps:
            found = self._with_gaps(value)
        elif self._is_one and value.dim() == 2 and holds_numbers(value, self.loadings):
            root = self._root if value.dtype == torch.float64 else None
            if root is not None:  # one pass over the rows
                found = scores(value, self.loc[None], root[None])[:, 0]
            else:
                shared = self._shared
                found = torch.cat([self._without_gaps(part, *shared) for part in value.split(BLOCK)])
        else:
            found = self._without_gaps(value, *self._shared)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    @property
    def _is_one(self) -> bool:
        """Whether all rows have the same law."""
        return self.loc.dim() == self.noise.dim() == 1 and self.loadings.dim() == 2

    @property
    def _root(self) -> Tensor | None:
        """The lower triangular root of the precision ``[D, D]``; None where D is too large for it to pay, or digits are
        gone."""
        if self.event_shape[0] > WIDEST:
            return None
        factor, wrong = torch.linalg.cholesky_ex(self.covariance)
        eye = torch.eye(len(factor), dtype=factor.dtype)
        return None if bool(wrong) else torch.linalg.solve_triangular(factor, eye, upper=False)

    @property
    def _shared(self) -> tuple[Tensor, Tensor]:
        """What takes (x − μ) / σ to a whitened E[z | x] ``[..., D, L]``, and the logarithm of the density at μ."""
        white, factor = self._whitened(None)
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        log_det = self.noise.log().expand(self._width()).sum(-1) + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = -0.5 * self.event_shape[0] * LOG_TWO_PI - log_det
        return white @ torch.linalg.solve_triangular(factor, eye, upper=False).mT, constant

    def _without_gaps(self, value: Tensor, projection: Tensor, constant: Tensor) -> Tensor:
        residual, _ = self._read(value)
        along = self._along(residual, projection)
        return constant - 0.5 * (torch.linalg.vecdot(residual, residual) - torch.linalg.vecdot(along, along))

    def _with_gaps(self, value: Tensor) -> Tensor:
        residual, seen = self._read(value)
        assert seen is not None
        white, factor = self._whitened(seen)
        along = torch.linalg.solve_triangular(factor, self._along(residual, white)[..., None], upper=False)[..., 0]
        log_det = (seen * self.noise.log()).sum(-1) + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        distance = torch.linalg.vecdot(residual, residual) - along.square().sum(-1)
        return -0.5 * (seen.sum(-1) * LOG_TWO_PI + distance) - log_det

    def _width(self) -> Size:
        """The shape of σ with all its features."""
        return self.noise.shape[:-1] + self.event_shape

    @staticmethod
    def _along(row: Tensor, matrix: Tensor) -> Tensor:
        """``[..., D]`` times ``[..., D, L]``, one product where there is one matrix."""
        return row @ matrix if matrix.dim() == 2 else (row.unsqueeze(-2) @ matrix)[..., 0, :]

    def posterior(self, value: Tensor) -> MultivariateNormal:
        """p(z | x) = N(M⁻¹ Wᵀ Ψ⁻¹ (x − μ), M⁻¹) with M = I + Wᵀ Ψ⁻¹ W: of batch shape ``[...]`` and event L."""
        residual, seen = self._read(value)
        white, factor = self._whitened(seen)
        covariance = torch.cholesky_inverse(factor)
        mean = self._along(self._along(residual, white), covariance)
        return MultivariateNormal(mean, covariance_matrix=covariance, validate_args=False)

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
