"""Factor analysis, and probabilistic principal components as the case of equal noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from latentvars.distributions import FactorNormal
from latentvars.errors import SettingError, ShapeError
from latentvars.models.columns import (
    as_events,
    check_observed,
    check_width,
    column,
    counted,
    feature_names,
    matrix,
    width,
)
from latentvars.models.emissions.base import positive
from latentvars.models.emissions.gaussian import check_varies
from latentvars.models.priors import Priors, check_names
from latentvars.rows import Batch, Rows

FORMS = ("diag", "spherical")
LEAST_SHARE, MOST_SHARE = 0.3, 0.7  # of the variance of a feature that is noise at the start


@final
@dataclass(frozen=True)
class FactorAnalysis:
    """x_n = loc + loadings z_n + ε_n, z_n ~ N(0, I), ε_n ~ N(0, diag(scale²)), z integrated out (Rubin & Thayer 1982).

    Sites: ``loc`` ``[D]``, ``loadings`` ``[D, L]``, ``scale`` ``[D]``, or with ``noise="spherical"`` ``[]``, standard
    deviations; ``z`` ``[L]`` (local, collapsed, with its exact normal posterior); ``x`` (observed). Spherical noise
    makes it probabilistic principal component analysis (Tipping & Bishop 1999).

    Missing entries (NaN) are integrated out; with them the statistics are taken anew in every pass.

    The likelihood knows loadings up to a rotation of the factors. Under flat priors EM gives the one in which loadingsᵀ
    diag(scale⁻²) loadings is diagonal and falls.

    Attributes:
        latents: L, below D.
        features: D; None takes it from the data.
        noise: ``"diag"`` (a scale for each feature) or ``"spherical"`` (one for all).
        priors: site name → prior; sites without one are flat (maximum likelihood).

    Raises:
        SettingError: fewer than one latent, or another form of noise.
        NameUnknownError: a prior of a site that does not exist.
    """

    latents: int
    features: int | None = None
    noise: str = "diag"
    priors: Mapping[str, TorchDistribution] | None = None

    def __post_init__(self) -> None:
        positive("latents", self.latents)
        positive("features", self.features)
        if self.noise not in FORMS:
            raise SettingError(f"noise={self.noise!r}", f"one of {', '.join(FORMS)}", "change noise.")
        check_names(self.priors or {}, [site for site in self.dims() if site != "z"])

    def model(self, rows: Batch) -> None:
        """The Pyro model."""
        priors, size = Priors(self.priors or {}), check_width(self.features, width(rows.x, 1))
        loc = priors.sample("loc", (size,), constraints.real)
        loadings = priors.sample("loadings", (size, self.latents), constraints.real)
        if self.noise == "diag":
            law = FactorNormal(loc, loadings, scale=priors.sample("scale", (size,), constraints.positive))
        else:
            law = FactorNormal(loc, loadings, shared_scale=priors.sample("scale", (), constraints.positive))
        with rows.plate():
            pyro.sample("x", law, obs=as_events(rows, 1, law.event_shape))

    @property
    def redundant(self) -> int:
        """Numbers of the globals that the likelihood does not know: rotations of the factors."""
        return self.latents * (self.latents - 1) // 2

    def initial(self, rows: Rows, generator: torch.Generator) -> dict[str, Tensor]:
        """Starting values: a random share of each variance is noise, the factors begin along principal axes.

        Raises:
            DataError: as :meth:`check`.
        """
        self.check(rows)
        x = matrix(column(rows))
        weights = rows.weights[:, None] * ~x.isnan()
        weights, x = weights / weights.sum(0), x.nan_to_num()
        loc = (weights * x).sum(0)
        variance = (weights * (x - loc).square()).sum(0)
        share = torch.empty_like(variance).uniform_(LEAST_SHARE, MOST_SHARE, generator=generator)
        scale = (share * variance).sqrt() if self.noise == "diag" else (share[0] * variance.mean()).sqrt()
        axes = torch.linalg.qr(torch.randn(len(loc), self.latents, generator=generator, dtype=x.dtype)).Q
        return {"loc": loc, "loadings": variance.sqrt()[:, None] * axes, "scale": scale}

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of the globals and of z."""
        scale = ("feature",) if self.noise == "diag" else ()
        return {"loc": ("feature",), "loadings": ("feature", "latent"), "scale": scale, "z": ("row", "latent")}

    def coords(self, rows: Rows) -> dict[str, list[int] | list[str]]:
        """Labels along the axes of :meth:`dims`, but for the rows."""
        return {"feature": list(feature_names(rows)), "latent": list(range(self.latents))}

    def prepare(self, rows: Rows) -> Rows:
        """The rows as they are, if the model can read them.

        Raises:
            ShapeError: sequences, another number of features, or not fewer latents than features.
        """
        if rows.lengths is not None:
            raise ShapeError(
                given=f"{len(rows)} sequences",
                needed="rows that are single observations",
                remedy="leave lengths and groups out",
            )
        x = column(rows)
        size = check_width(self.features, width(x, 1))
        if self.latents >= size:
            raise ShapeError(
                given=f"{self.latents} latents for {size} feature{'s' * (size != 1)}",
                needed="fewer latents than features",
                remedy="lower latents",
            )
        return rows

    def check(self, rows: Rows) -> None:
        """Whether the globals can be estimated from the rows.

        Raises:
            MissingDataError: a feature that was never observed.
            DataError: a constant feature; also all errors of :meth:`prepare`.
        """
        self.prepare(rows)
        x = counted(rows, rows.weights > 0)
        check_observed(x, feature_names(rows))
        check_varies(x, feature_names(rows))
