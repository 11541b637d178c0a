"""Models with continuous locals and a guide, as a user would write them, with their exact marginal likelihoods."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import gammaln
from torch import Tensor, nn
from torch.distributions import constraints

import latentvars as lv

FLOAT = torch.float64


class RowByRow(nn.Module):
    """q(z | row n) = Normal(loc_n, scale_n): no amortisation."""

    def __init__(self, rows: int, *shape: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(rows, *shape, dtype=FLOAT))
        self.log_scale = nn.Parameter(torch.zeros(rows, *shape, dtype=FLOAT))

    def forward(self, index: Tensor) -> Any:
        return dist.Normal(self.loc[index], self.log_scale[index].exp())


class Line(nn.Module):
    """q(z | x) = Normal(A x + b, exp(s)): contains the posterior of every linear normal model."""

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.line = nn.Linear(features, latents, dtype=FLOAT)
        self.log_scale = nn.Parameter(torch.zeros(latents, dtype=FLOAT))
        with torch.no_grad():
            self.line.weight.copy_(0.3 * torch.eye(latents, features))
            self.line.bias.zero_()

    def forward(self, x: Tensor) -> Any:
        return dist.Normal(self.line(x), self.log_scale.exp())


class Dropped(nn.Module):
    """An encoder that loses some of its inputs while it is trained."""

    def __init__(self, encoder: Line) -> None:
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        return self.encoder(self.dropout(x))


class Effects:
    """x ~ Normal(z, known), z ~ Normal(mu, tau): both globals have closed forms. Columns ``x`` and ``known``."""

    def __init__(self, rows: int) -> None:
        self.posterior = RowByRow(rows)

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", lv.flat(()))
        tau = pyro.sample("tau", lv.flat((), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(mu, tau))
            pyro.sample("x", dist.Normal(z, rows["known"]), obs=rows["x"])

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", self.posterior(rows.index))


class Factors:
    """z ~ N(0, I), x ~ N(z W, noise²) with one noise (probabilistic PCA) or one for each feature, flat priors."""

    def __init__(self, features: int, latents: int, *, isotropic: bool) -> None:
        self.features, self.latents, self.isotropic = features, latents, isotropic
        self.encoder: nn.Module = Line(features, latents)

    def model(self, rows: lv.Batch) -> None:
        loadings = pyro.sample("loadings", lv.flat((self.latents, self.features)))
        noise = pyro.sample("noise", lv.flat(() if self.isotropic else (self.features,), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latents), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, noise).to_event(1), obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", self.encoder(rows.x).to_event(1))


class Decoded:
    """Probabilistic PCA whose loadings are a network's weights, its noise a global."""

    def __init__(self, features: int) -> None:
        self.encoder = Line(features, 1)
        self.decoder = nn.Linear(1, features, bias=False, dtype=FLOAT)
        with torch.no_grad():
            self.decoder.weight.fill_(0.3)

    def model(self, rows: lv.Batch) -> None:
        noise = pyro.sample("noise", lv.flat((), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), noise).to_event(1), obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", self.encoder(rows.x).to_event(1))


class RandomIntercepts:
    """Logistic regression with a normal intercept for each group; a row is a group. Columns ``y`` and ``t``."""

    def __init__(self, groups: int) -> None:
        self.posterior = RowByRow(groups)

    def model(self, rows: lv.Batch) -> None:
        beta = pyro.sample("beta", lv.flat((2,)))
        tau = pyro.sample("tau", lv.flat((), constraints.positive))
        with rows.plate():
            u = pyro.sample("u", dist.Normal(0.0, tau))
            logits = beta[0] + beta[1] * rows["t"] + u[:, None]
            pyro.sample("y", dist.Bernoulli(logits=logits).mask(rows.mask).to_event(1), obs=rows["y"])

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("u", self.posterior(rows.index))


class LognormalCounts:
    """x ~ Poisson(exp(z)), z ~ Normal(mu, sigma)."""

    def __init__(self, rows: int) -> None:
        self.posterior = RowByRow(rows)

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", lv.flat(()))
        sigma = pyro.sample("sigma", lv.flat((), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(mu, sigma))
            pyro.sample("x", dist.Poisson(z.exp()), obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", self.posterior(rows.index))


class BlurredMixture:
    """A normal mixture seen through noise: k ~ weights, u ~ Normal(loc_k, scale_k), x ~ Normal(u, 0.5).

    q(u | x) has a mean and a scale of its own at every row, or where their number is not given a line over x.
    """

    def __init__(self, rows: int | None = None) -> None:
        self.posterior = Line(1, 1) if rows is None else RowByRow(rows)

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((2,), constraints.simplex))
        loc = pyro.sample("loc", lv.flat((2,)))
        scale = pyro.sample("scale", lv.flat((2,), constraints.positive))
        with rows.plate():
            k = pyro.sample("k", dist.Categorical(weights))
            u = pyro.sample("u", dist.Normal(loc[k], scale[k]))
            pyro.sample("x", dist.Normal(u, 0.5), obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            if isinstance(self.posterior, RowByRow):
                pyro.sample("u", self.posterior(rows.index))
            else:
                found = self.posterior(rows.x[:, None])
                pyro.sample("u", dist.Normal(found.loc[:, 0], found.scale[:, 0]))


# --- data ------------------------------------------------------------------------------------------------------------


def effects(size: int = 60) -> lv.Rows:
    noise = np.random.default_rng(41)
    known = noise.uniform(0.3, 1.5, size)
    return lv.Rows({"x": 1.0 + 0.8 * noise.normal(size=size) + known * noise.normal(size=size), "known": known})


def one_factor(size: int = 100) -> np.ndarray:
    """Centred, three features."""
    noise = np.random.default_rng(42)
    x = noise.normal(size=(size, 1)) @ np.array([[1.0, 0.8, -0.5]]) + 0.5 * noise.normal(size=(size, 3))
    return x - x.mean(0)


def intercepts(groups: int = 50) -> lv.Rows:
    noise = np.random.default_rng(43)
    lengths = noise.integers(3, 9, groups)
    group = np.repeat(np.arange(groups), lengths)
    t = noise.normal(size=lengths.sum())
    logits = 0.5 + 0.8 * t + 1.2 * noise.normal(size=groups)[group]
    y = (noise.random(lengths.sum()) < 1 / (1 + np.exp(-logits))).astype(float)
    return lv.Rows({"y": y, "t": t}, lengths=lengths)


def lognormal_counts(size: int = 80) -> np.ndarray:
    noise = np.random.default_rng(44)
    return noise.poisson(np.exp(1.0 + 0.7 * noise.normal(size=size)))


def blurred(size: int = 80) -> np.ndarray:
    noise = np.random.default_rng(45)
    return np.where(np.arange(size) % 4 == 0, 2.5, -1.0) + 0.6 * noise.normal(size=size) + 0.5 * noise.normal(size=size)


# --- exact marginal log-likelihoods of each row ----------------------------------------------------------------------

NODES, WEIGHTS = hermegauss(80)
LOG_WEIGHTS = np.log(WEIGHTS / WEIGHTS.sum())


def log_sum(terms: np.ndarray) -> np.ndarray:
    """log Σ exp along the last axis."""
    return np.logaddexp.reduce(terms, axis=-1)


def of_effects(rows: lv.Rows, mu: float, tau: float) -> np.ndarray:
    variance = tau**2 + rows.columns["known"].numpy() ** 2
    return -0.5 * (np.log(2 * np.pi * variance) + (rows.columns["x"].numpy() - mu) ** 2 / variance)


def of_intercepts(rows: lv.Rows, beta: np.ndarray, tau: float) -> np.ndarray:
    """Gauss–Hermite quadrature."""
    assert rows.lengths is not None
    y, t, lengths = (value.numpy() for value in (rows.columns["y"], rows.columns["t"], rows.lengths))
    logits = (beta[0] + beta[1] * t)[:, None] + tau * NODES
    steps = y[:, None] * logits - np.logaddexp(0, logits)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    groups = np.stack([steps[i:j].sum(0) for i, j in itertools.pairwise(ends)])
    return log_sum(groups + LOG_WEIGHTS)


def of_counts(x: np.ndarray, mu: float, sigma: float) -> np.ndarray:
    """Gauss–Hermite quadrature."""
    z = mu + sigma * NODES
    return log_sum(x[:, None] * z - np.exp(z) - gammaln(x + 1)[:, None] + LOG_WEIGHTS)


def of_blurred(x: np.ndarray, weights: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    variance = scale**2 + 0.25
    normal = -0.5 * (np.log(2 * np.pi * variance) + (x[:, None] - loc) ** 2 / variance)
    return log_sum(np.log(weights) + normal)


def best_pca(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Covariance and log-likelihood per row of one factor at the maximum (Tipping & Bishop 1999, section 3.2)."""
    sample = x.T @ x / len(x)
    values, vectors = np.linalg.eigh(sample)
    noise = values[:-1].mean()
    covariance = (values[-1] - noise) * np.outer(vectors[:, -1], vectors[:, -1]) + noise * np.eye(len(sample))
    return covariance, of_normal(x, covariance)


def of_normal(x: np.ndarray, covariance: np.ndarray) -> float:
    """Mean log N(x; 0, covariance)."""
    constant = len(covariance) * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1]
    return float(-0.5 * (constant + np.trace(np.linalg.solve(covariance, x.T @ x / len(x)))))
