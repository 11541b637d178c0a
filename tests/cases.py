"""One table of models with tiny data; the laws run over every row of it that they apply to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import guided_models
import numpy as np
import pyro.distributions as dist
import pytest
import torch
import user_models
from torch import Tensor

import latentvars as lv


@dataclass(frozen=True)
class Case:
    """A model and data for it.

    Attributes:
        model: makes the model anew.
        data: makes the rows anew.
        about: what is special about it.
        exact: no continuous locals, so that scores are exact marginals.
        em: EM applies.
        labels: global → axes along which components or states lie (empty where labels have no meaning).
        discrete: the discrete local whose labels those are.
        user: whether it is a user's own class.
    """

    model: Callable[[], Any]
    data: Callable[[], lv.Rows]
    about: str
    exact: bool = True
    em: bool = True
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    discrete: str = ""
    user: bool = False


def blobs(seed: int, size: int = 40) -> np.ndarray:
    """Two overlapping groups in two dimensions."""
    noise = np.random.default_rng(seed)
    second = np.arange(size) % 5 < 2
    return noise.normal(size=(size, 2)) * [1.0, 0.7] + 2.5 * second[:, None] * [1.0, -0.6]


def counts(seed: int, size: int = 45) -> np.ndarray:
    noise = np.random.default_rng(seed)
    return noise.poisson(np.where(np.arange(size)[:, None] % 3 == 0, [2.0, 7.0], [8.0, 3.0]))


def bits(seed: int, size: int = 60) -> np.ndarray:
    noise = np.random.default_rng(seed)
    chance = np.where(np.arange(size)[:, None] % 2 == 0, [0.8, 0.7, 0.3, 0.6], [0.25, 0.2, 0.7, 0.3])
    return (noise.random((size, 4)) < chance).astype(float)


def codes(seed: int, size: int = 60) -> np.ndarray:
    """One category a row; a mixture of categoricals is not identified, but the laws hold for it."""
    return np.random.default_rng(seed).choice(4, size, p=[0.4, 0.3, 0.2, 0.1])


LENGTHS = (9, 4, 7, 12, 3, 8)


def switching(seed: int, lengths: Iterable[int] = LENGTHS) -> tuple[np.ndarray, list[int]]:
    """States ``[S]`` that switch with probability 0.25, half of the sequences starting in each, and the lengths."""
    noise = np.random.default_rng(seed)
    lengths = list(lengths)
    paths = [(np.cumsum(noise.random(steps) < 0.25) + k) % 2 for k, steps in enumerate(lengths)]
    return np.concatenate(paths), lengths


def sequences(draw: Callable[[np.random.Generator, np.ndarray], np.ndarray], seed: int) -> lv.Rows:
    states, lengths = switching(seed)
    return lv.Rows(draw(np.random.default_rng(seed + 1), states), lengths=lengths)


def normal_sequences() -> lv.Rows:
    return sequences(lambda noise, z: noise.normal(size=(len(z), 2)) + 2.0 * z[:, None] * [1.0, -0.5], 11)


def count_sequences() -> lv.Rows:
    return sequences(lambda noise, z: noise.poisson(np.where(z == 1, 9.0, 3.0)), 12)


def code_sequences() -> lv.Rows:
    return sequences(lambda noise, z: np.where(noise.random(len(z)) < 0.75, z, noise.integers(0, 3, len(z))), 13)


def mixed_sequences() -> lv.Rows:
    def draw(noise: np.random.Generator, z: np.ndarray) -> np.ndarray:
        return np.column_stack([noise.normal(size=len(z)) + 2.0 * z, noise.random(len(z)) < 0.2 + 0.5 * z])

    return sequences(draw, 14)


def line(seed: int, size: int = 24) -> np.ndarray:
    """Two groups on a line."""
    noise = np.random.default_rng(seed)
    return noise.normal(size=size) * 0.8 + np.where(np.arange(size) % 2 == 0, -1.5, 1.5)


def six_groups() -> np.ndarray:
    """Two far groups, each of three near ones."""
    noise = np.random.default_rng(23)
    middle = np.array([-6.0, -4.0, -2.0, 2.0, 4.5, 6.0])[np.arange(48) % 6]
    return middle + 0.5 * noise.normal(size=48)


def heavy_tails() -> np.ndarray:
    noise = np.random.default_rng(25)
    return 0.6 * noise.standard_t(4, 40) + np.where(np.arange(40) % 2 == 0, -2.0, 2.0)


def grouped() -> lv.Rows:
    noise = np.random.default_rng(26)
    group = np.arange(40) % 5
    theta = np.array([-1.0, 0.0, 0.5, 1.5, 3.0])
    return lv.Rows({"y": theta[group] + 0.5 * noise.normal(size=40), "group": group})


def trend() -> lv.Rows:
    noise = np.random.default_rng(27)
    t = np.linspace(-1.0, 1.0, 30)
    return lv.Rows({"y": 0.5 + 1.5 * t + 0.3 * noise.normal(size=30), "t": t})


def factors() -> np.ndarray:
    noise = np.random.default_rng(28)
    loadings = np.array([[1.0, 0.8, -0.5], [0.0, 0.6, 0.9]])
    return noise.normal(size=(40, 2)) @ loadings + 0.4 * noise.normal(size=(40, 3))


def one_factor() -> np.ndarray:
    noise = np.random.default_rng(29)
    return noise.normal(size=(40, 1)) * [1.0, 0.8, -1.2, 0.9] + 0.7 * noise.normal(size=(40, 4))


def short_chains() -> np.ndarray:
    """Ten sequences of five steps as a matrix."""
    states, _ = switching(29, [5] * 10)
    noise = np.random.default_rng(30)
    return (noise.normal(size=50) + 3.0 * states).reshape(10, 5)


def two_lines() -> lv.Rows:
    """Two lines over one input, which drives the weights too."""
    noise = np.random.default_rng(31)
    u, second = np.linspace(-1.5, 1.5, 36), np.arange(36) % 3 == 0
    x = np.where(second, 4.0 - u, 1.5 * u) + 0.4 * noise.normal(size=36)
    return lv.Rows({"x": x, "inputs": np.column_stack([np.ones(36), u])})


def driven_sequences() -> lv.Rows:
    """Sequences with an input that drives the moves."""
    states, lengths = switching(32)
    noise = np.random.default_rng(33)
    u = noise.normal(size=len(states)) + 0.5 * states
    x = noise.normal(size=len(states)) + 4.0 * states
    return lv.Rows({"x": x, "inputs": np.column_stack([np.ones(len(states)), u])}, lengths=lengths)


def mixture_labels(**sites: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"weights": (0,), **sites}


def chain_labels(**sites: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"initial": (0,), "transition": (0, 1), **sites}


def gaussian_mixture(form: str, **spread: tuple[int, ...]) -> Case:
    return Case(
        lambda: lv.models.GaussianMixture(2, 2, form),
        lambda: lv.Rows(blobs(3)),
        f"collapsed, flat priors, covariance {form}",
        labels=mixture_labels(loc=(0,), **spread),
        discrete="z",
    )


def even(size: int) -> dist.Dirichlet:
    """A prior that keeps the optimum inside the simplex on little data."""
    return dist.Dirichlet(torch.full((size,), 2.0, dtype=torch.float64))


EVEN = {"initial": even(2)}

DRIVEN = {**EVEN, "transition_coefficients": dist.Normal(torch.zeros((), dtype=torch.float64), 2.0)}

CASES: dict[str, Case] = {
    "gmm-full": gaussian_mixture("full", covariance=(0,)),
    "gmm-tied": gaussian_mixture("tied"),
    "gmm-diag": gaussian_mixture("diag", scale=(0,)),
    "gmm-spherical": gaussian_mixture("spherical", scale=(0,)),
    "mixture-poisson": Case(
        lambda: lv.models.Mixture(2, lv.emissions.Poisson(2)),
        lambda: lv.Rows(counts(4)),
        "collapsed, counts",
        labels=mixture_labels(rate=(0,)),
        discrete="z",
    ),
    "mixture-bernoulli": Case(
        lambda: lv.models.Mixture(2, lv.emissions.Bernoulli(4)),
        lambda: lv.Rows(bits(5)),
        "collapsed, binary features",
        labels=mixture_labels(probs=(0,)),
        discrete="z",
    ),
    "mixture-categorical": Case(
        lambda: lv.models.Mixture(2, lv.emissions.Categorical(4)),
        lambda: lv.Rows(codes(6)),
        "collapsed, one category a row",
        labels=mixture_labels(probs=(0,)),
        discrete="z",
    ),
    "mixture-experts": Case(
        lambda: lv.models.Mixture(2, lv.emissions.Regression(), weights_by="inputs"),
        two_lines,
        "collapsed, regressions with weights driven by inputs: an M-step without closed form",
        discrete="z",
    ),
    "hmm-driven": Case(
        lambda: lv.models.HiddenMarkov(
            2, lv.emissions.Gaussian(covariance="diag"), priors=DRIVEN, transition_by="inputs"
        ),
        driven_sequences,
        "collapsed chain whose moves are driven by inputs",
        discrete="z",
    ),
    "hmm-gaussian": Case(
        lambda: lv.models.HiddenMarkov(2, lv.emissions.Gaussian(2), priors=EVEN),
        normal_sequences,
        "collapsed chain, ragged, a conjugate prior on the first state",
        labels=chain_labels(loc=(0,), covariance=(0,)),
        discrete="z",
    ),
    "hmm-poisson-stationary": Case(
        lambda: lv.models.HiddenMarkov(2, lv.emissions.Poisson(1), initial="stationary"),
        count_sequences,
        "collapsed chain whose first state follows from its transitions: an M-step without closed form",
        labels={"transition": (0, 1), "rate": (0,)},
        discrete="z",
    ),
    "hmm-categorical": Case(
        lambda: lv.models.HiddenMarkov(2, lv.emissions.Categorical(3), priors={**EVEN, "probs": even(3)}),
        code_sequences,
        "collapsed chain of categories",
        labels=chain_labels(probs=(0,)),
        discrete="z",
    ),
    "hmm-product": Case(
        lambda: lv.models.HiddenMarkov(
            2, lv.emissions.Product(lv.emissions.Gaussian(1), lv.emissions.Bernoulli(1)), priors=EVEN
        ),
        mixed_sequences,
        "collapsed chain with independent columns of different kinds",
        labels=chain_labels(loc_0=(0,), covariance_0=(0,), probs_1=(0,)),
        discrete="z",
    ),
    "factors": Case(
        lambda: lv.models.FactorAnalysis(1),
        lambda: lv.Rows(one_factor()),
        "continuous local that is integrated out, statistics that do not depend on the globals",
    ),
    "vae-gaussian": Case(
        lambda: lv.models.VAE.mlp(2, 1, hidden=(4,), likelihood="gaussian", dtype=torch.float64),
        lambda: lv.Rows(blobs(7)),
        "continuous local with an amortised guide, networks only",
        exact=False,
        em=False,
    ),
    "user-mixture": Case(
        user_models.ExplicitMixture,
        lambda: lv.Rows(line(21)),
        "enumerated component, proper priors",
        labels=mixture_labels(loc=(0,), scale=(0,)),
        discrete="z",
        user=True,
    ),
    "user-two-levels": Case(
        user_models.TwoLevels,
        lambda: lv.Rows(six_groups()),
        "two enumerated locals, one given the other",
        labels={"classes": (0,), "weights": (0,), "loc": (0,), "scale": (0,)},
        discrete="z1",
        user=True,
    ),
    "user-student": Case(
        user_models.StudentMixture,
        lambda: lv.Rows(heavy_tails()),
        "enumerated component, no sufficient statistics",
        labels=mixture_labels(loc=(0,), scale=(0,)),
        discrete="z",
        user=True,
    ),
    "user-hierarchy": Case(
        lambda: user_models.Hierarchy(5), grouped, "globals with a prior on their prior, no locals", user=True
    ),
    "user-regression": Case(user_models.Regression, trend, "a covariate column, no locals", user=True),
    "user-factors": Case(
        lambda: user_models.FactorAnalysis(3, 2),
        lambda: lv.Rows(factors()),
        "continuous local with an amortised guide, globals too",
        exact=False,
        em=False,
        user=True,
    ),
    "user-blurred": Case(
        guided_models.BlurredMixture,
        lambda: lv.Rows(guided_models.blurred(40)),
        "continuous local that depends on an enumerated one",
        exact=False,
        em=False,
        user=True,
    ),
    "user-chain": Case(
        user_models.ExplicitChain,
        lambda: lv.Rows(short_chains()),
        "enumerated chain of fixed length",
        labels=chain_labels(loc=(0,), scale=(0,)),
        discrete="z_0",
        user=True,
    ),
}

EXACT = [name for name, case in CASES.items() if case.exact]
EM_CASES = [name for name, case in CASES.items() if case.em]
LABELLED = [name for name, case in CASES.items() if case.labels]
USER = [name for name, case in CASES.items() if case.user]


def over(names: Iterable[str] = tuple(CASES)) -> Any:
    """Run a test over these rows of the table, by name."""
    return pytest.mark.parametrize("name", list(names))


def with_weights(rows: lv.Rows, weights: Any) -> lv.Rows:
    """The same data with other weights."""
    return lv.Rows(rows.columns, lengths=rows.lengths, weights=weights)


def permuted(point: Mapping[str, Tensor], labels: Mapping[str, tuple[int, ...]], order: list[int]) -> dict[str, Tensor]:
    """Globals with the labels of their components in another order."""
    found = {}
    for site, value in point.items():
        for axis in labels.get(site, ()):
            value = value.index_select(axis, torch.tensor(order))
        found[site] = value
    return found
