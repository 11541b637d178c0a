"""Models as a user would write them: plain classes with a Pyro ``model``, none of them built in."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import latentvars as lv


class ExplicitMixture:
    """A normal mixture in one dimension with its component drawn at each row, under proper priors."""

    def __init__(self, components: int = 2) -> None:
        self.components = components

    def model(self, rows: lv.Batch) -> None:
        k = self.components
        weights = pyro.sample("weights", dist.Dirichlet(2.0 * torch.ones(k)))
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0).expand([k]).to_event(1))
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0).expand([k]).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=rows.x)


class FlatMixture:
    """The model of ``lv.models.GaussianMixture(K, D, "diag")`` with its component drawn at each row."""

    def __init__(self, components: int, features: int) -> None:
        self.components, self.features = components, features

    def model(self, rows: lv.Batch) -> None:
        shape = (self.components, self.features)
        weights = pyro.sample("weights", lv.flat((self.components,), constraints.simplex))
        loc = pyro.sample("loc", lv.flat(shape))
        scale = pyro.sample("scale", lv.flat(shape, constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=rows.x)


class TwoLevels:
    """Two dependent discrete locals: a class, and a component within the class."""

    def model(self, rows: lv.Batch) -> None:
        classes = pyro.sample("classes", dist.Dirichlet(torch.tensor([3.0, 3.0])))
        weights = pyro.sample("weights", dist.Dirichlet(3.0 * torch.ones(2, 3)).to_event(1))
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0).expand([2, 3]).to_event(2))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5).expand([2]).to_event(1))
        with rows.plate():
            z1 = pyro.sample("z1", dist.Categorical(classes))
            z2 = pyro.sample("z2", dist.Categorical(weights[z1]))
            pyro.sample("x", dist.Normal(loc[z1, z2], scale[z1]), obs=rows.x)


class StudentMixture:
    """A mixture of Student t laws: no component has sufficient statistics."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([2.0, 2.0])))
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0).expand([2]).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.StudentT(4.0, loc[z], scale[z]), obs=rows.x)


class Hierarchy:
    """Groups whose means share a law; no local latents. Columns ``y`` and ``group``."""

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.LogNormal(0.0, 0.5))
        theta = pyro.sample("theta", dist.Normal(mu, tau).expand([self.groups]).to_event(1))
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        with rows.plate():
            pyro.sample("y", dist.Normal(theta[rows["group"]], sigma), obs=rows["y"])


class Regression:
    """A line with a covariate. Columns ``y`` and ``t``."""

    def model(self, rows: lv.Batch) -> None:
        intercept = pyro.sample("intercept", dist.Normal(0.0, 10.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
        sigma = pyro.sample("sigma", lv.flat((), constraints.positive))
        with rows.plate():
            pyro.sample("y", dist.Normal(intercept + slope * rows["t"], sigma), obs=rows["y"])


class Encoder(nn.Module):
    """q(z | x) = Normal(A x + b, diag(exp(s))²)."""

    def __init__(self, features: int, latents: int) -> None:
        super().__init__()
        self.line = nn.Linear(features, latents, dtype=torch.float64)
        self.log_scale = nn.Parameter(torch.zeros(latents, dtype=torch.float64))
        with torch.no_grad():
            self.line.weight.copy_(0.1 * torch.eye(latents, features))
            self.line.bias.zero_()

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.line(x), self.log_scale.exp()).to_event(1)


class FactorAnalysis:
    """z ~ N(0, I), x | z ~ N(z W, s² I), with an amortised guide."""

    def __init__(self, features: int, latents: int) -> None:
        self.features, self.latents = features, latents
        self.encoder = Encoder(features, latents)

    def model(self, rows: lv.Batch) -> None:
        loadings = pyro.sample("loadings", dist.Normal(0.0, 1.0).expand([self.latents, self.features]).to_event(2))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        with rows.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latents), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, noise).to_event(1), obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        with rows.plate():
            pyro.sample("z", self.encoder(rows.x))


class ExplicitChain:
    """A hidden Markov model as a loop over as many steps as a row has columns, flat priors."""

    def __init__(self, states: int = 2) -> None:
        self.states = states

    def model(self, rows: lv.Batch) -> None:
        k = self.states
        initial = pyro.sample("initial", lv.flat((k,), constraints.simplex))
        transition = pyro.sample("transition", lv.flat((k, k), constraints.simplex))
        loc = pyro.sample("loc", lv.flat((k,)))
        scale = pyro.sample("scale", lv.flat((k,), constraints.positive))
        with rows.plate():
            probs = initial
            for t in pyro.markov(range(rows.x.shape[1])):
                z = pyro.sample(f"z_{t}", dist.Categorical(probs))
                pyro.sample(f"x_{t}", dist.Normal(loc[z], scale[z]), obs=rows.x[:, t])
                probs = transition[z]
