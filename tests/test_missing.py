"""Missing entries are integrated out: marginals written down by hand, gradients, beliefs and kernels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
from chain_brute_force import enumerate_paths
from gaps import EMISSIONS, FEATURES, arrays, emission_laws, observations, punched, table
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from torch import Tensor

import latentvars as lv
from latentvars.capture import capture
from latentvars.distributions import HiddenMarkov, Mixture, Product, observed_part
from latentvars.distributions.normal_blocks import conditional, conditional_mean, log_marginal
from latentvars.errors import MissingDataError, SupportError
from latentvars.program import Program

FORMS = ["full", "tied", "diag", "spherical"]
LENGTHS = [5, 2, 4, 1]


@functools.cache
def mixture_fit(emission: str) -> lv.Fit:
    """A mixture of two components fitted to complete data, to be read on other data."""
    model = lv.models.Mixture(2, EMISSIONS[emission]())
    return lv.fit(model, observations(emission, 60), lv.EM(passes=5, stop=lv.Never()), progress=False)


@functools.cache
def chain_fit(emission: str) -> lv.Fit:
    model = lv.models.HiddenMarkov(2, EMISSIONS[emission]())
    rows = lv.Rows(observations(emission, 60), lengths=[30, 30])
    return lv.fit(model, rows, lv.EM(passes=5, stop=lv.Never()), progress=False)


# --- exact marginals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emission", list(EMISSIONS))
def test_a_mixture_scores_the_marginal_of_what_was_observed(emission: str) -> None:
    found = mixture_fit(emission)
    x = punched(observations(emission, 30, seed=1))
    point = arrays(found.point)
    joint = np.log(point["weights"]) + table(emission_laws(emission, point, FEATURES), x)
    np.testing.assert_allclose(found.score_rows(x).numpy(), logsumexp(joint, axis=1), rtol=1e-10, atol=1e-10)
    belief = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    np.testing.assert_allclose(found.latent(x).mean("z").numpy(), belief, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("emission", list(EMISSIONS))
def test_a_chain_scores_the_marginal_of_what_was_observed(emission: str) -> None:
    found = chain_fit(emission)
    x = punched(observations(emission, sum(LENGTHS), seed=2))
    point = arrays(found.point)
    likelihood = np.exp(table(emission_laws(emission, point, FEATURES), x))
    pieces = np.split(likelihood, np.cumsum(LENGTHS)[:-1])
    paths = [enumerate_paths(point["initial"], point["transition"], piece) for piece in pieces]
    rows = lv.Rows(x, lengths=LENGTHS)
    np.testing.assert_allclose(found.score_rows(rows).numpy(), [np.log(p.evidence) for p in paths], rtol=1e-10)
    smoothed = found.latent(rows).mean("z").numpy()
    for k, path in enumerate(paths):
        np.testing.assert_allclose(smoothed[k, : LENGTHS[k]], path.marginals, rtol=1e-9, atol=1e-10)
        assert not smoothed[k, LENGTHS[k] :].any()


@pytest.mark.parametrize("emission", list(EMISSIONS))
def test_padding_changes_nothing_where_entries_are_missing(emission: str) -> None:
    found = chain_fit(emission)
    x = punched(observations(emission, sum(LENGTHS), seed=3))
    x[sum(LENGTHS[:3])] = np.nan  # the only step of the last sequence, which is repeated as padding
    together = found.score_rows(lv.Rows(x, lengths=LENGTHS))
    alone = [found.score_rows(lv.Rows(piece, lengths=[len(piece)])) for piece in np.split(x, np.cumsum(LENGTHS)[:-1])]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-13)
    assert float(together[3]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("emission", list(EMISSIONS))
def test_a_row_without_any_entry_gives_the_prior(emission: str) -> None:
    mixture, chain = mixture_fit(emission), chain_fit(emission)
    x = observations(emission, 6, seed=4)
    x[2:5] = np.nan
    assert float(mixture.score_rows(x)[3]) == pytest.approx(0, abs=1e-14)
    torch.testing.assert_close(mixture.latent(x).mean("z")[3], mixture.point["weights"], rtol=0, atol=1e-14)
    nothing = lv.Rows(x[2:5], lengths=[3])
    assert float(chain.score_rows(nothing)[0]) == pytest.approx(0, abs=1e-13)
    prior = [chain.point["initial"]]
    prior += [prior[0] @ chain.point["transition"], prior[0] @ chain.point["transition"] @ chain.point["transition"]]
    torch.testing.assert_close(chain.latent(nothing).mean("z")[0], torch.stack(prior), rtol=0, atol=1e-13)


@pytest.mark.parametrize("emission", list(EMISSIONS))
def test_where_nothing_is_missing_nothing_changes(emission: str) -> None:
    """Rows that are complete among rows that are not."""
    mixture, chain = mixture_fit(emission), chain_fit(emission)
    x = observations(emission, 20, seed=5)
    gappy = x.copy()
    gappy[-1] = np.nan
    torch.testing.assert_close(mixture.score_rows(gappy)[:-1], mixture.score_rows(x)[:-1], rtol=1e-13, atol=1e-13)
    rows, other = (lv.Rows(data, lengths=[10, 10]) for data in (x, gappy))
    torch.testing.assert_close(chain.score_rows(other)[0], chain.score_rows(rows)[0], rtol=1e-13, atol=1e-13)


@given(form=st.sampled_from(FORMS), feature=st.integers(0, FEATURES - 1), seed=st.integers(0, 10_000))
def test_a_missing_column_is_the_model_without_it(form: str, feature: int, seed: int) -> None:
    noise = np.random.default_rng(seed)
    root = noise.normal(size=(2, FEATURES, FEATURES))
    covariance = root @ root.swapaxes(-1, -2) + 0.3 * np.eye(FEATURES)
    loc, weights = noise.normal(size=(2, FEATURES)), noise.dirichlet([2.0, 2.0])
    scale = noise.gamma(2.0, size=(2, FEATURES))
    kept = [k for k in range(FEATURES) if k != feature]
    spread: dict[str, tuple[str, Any, Any]] = {
        "full": ("covariance", covariance, covariance[:, kept][:, :, kept]),
        "tied": ("covariance", covariance[0], covariance[0][np.ix_(kept, kept)]),
        "diag": ("scale", scale, scale[:, kept]),
        "spherical": ("scale", scale[:, 0], scale[:, 0]),
    }
    name, whole, part = spread[form]
    x = noise.normal(size=(5, FEATURES))
    gone = np.where(np.arange(FEATURES) == feature, np.nan, x)
    model = lv.models.GaussianMixture(2, FEATURES, form)
    ours = lv.from_point(model, gone, {"weights": weights, "loc": loc, name: whole}).score_rows()
    without = lv.models.GaussianMixture(2, FEATURES - 1, form)
    theirs = lv.from_point(without, x[:, kept], {"weights": weights, "loc": loc[:, kept], name: part}).score_rows()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


# --- gradients -------------------------------------------------------------------------------------------------------


def positive_definite(*batch: int, size: int = FEATURES, seed: int = 0) -> Tensor:
    root = torch.randn(*batch, size, size + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT


def test_gradients_of_a_mixture_of_normals_are_exact() -> None:
    x = torch.tensor(punched(observations("full", 6), 0.4))
    loc = torch.randn(2, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    covariance = positive_definite(2).requires_grad_()
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)

    def score(weights: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
        law = dist.MultivariateNormal(loc, covariance_matrix=0.5 * (covariance + covariance.mT))
        return observed_part(Mixture(weights / weights.sum(), law)).log_prob(x)

    assert torch.autograd.gradcheck(score, (weights, loc, covariance))
    assert torch.autograd.gradgradcheck(score, (weights, loc, covariance))


def test_gradients_of_a_chain_of_products_are_exact() -> None:
    x = torch.tensor(punched(observations("product", 8), 0.4)).reshape(2, 4, 3)
    initial = torch.tensor([0.4, 0.6], dtype=torch.float64, requires_grad=True)
    transition = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64, requires_grad=True)
    loc = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    tril = torch.linalg.cholesky(positive_definite(2, size=2)).detach().requires_grad_()
    probs = torch.tensor([[0.3], [0.8]], dtype=torch.float64, requires_grad=True)

    def score(initial: Tensor, transition: Tensor, loc: Tensor, tril: Tensor, probs: Tensor) -> Tensor:
        parts = [dist.MultivariateNormal(loc, scale_tril=tril.tril()), dist.Bernoulli(probs).to_event(1)]
        chain = HiddenMarkov(initial, transition, Product(parts), torch.tensor([4, 2]), validate_args=False)
        return observed_part(chain).log_prob(x)

    assert torch.autograd.gradcheck(score, (initial, transition, loc, tril, probs))


LAWS: dict[str, Any] = {
    "normal": lambda a, b: dist.Normal(a, b),
    "student": lambda a, b: dist.StudentT(3.0, a, b),
    "cauchy": lambda a, b: dist.Cauchy(a, b),
    "laplace": lambda a, b: dist.Laplace(a, b),
    "log-normal": lambda a, b: dist.LogNormal(a, b),
    "gamma": lambda a, b: dist.Gamma(a.exp(), b),
    "beta": lambda a, b: dist.Beta(a.exp(), b),
    "exponential": lambda a, b: dist.Exponential(b + a.exp()),
    "half-normal": lambda a, b: dist.HalfNormal(b + a.exp()),
    "uniform": lambda a, b: dist.Uniform(a - 2, a + 2 + b),
    "poisson": lambda a, b: dist.Poisson(b + a.exp()),
    "negative binomial": lambda a, b: dist.NegativeBinomial(b, logits=a),
    "binomial": lambda a, b: dist.Binomial(torch.tensor([3.0, 5.0]), torch.sigmoid(a + b)),
    "geometric": lambda a, b: dist.Geometric(torch.sigmoid(a + b)),
    "bernoulli": lambda a, b: dist.Bernoulli(torch.sigmoid(a + b)),
    "von Mises": lambda a, b: dist.VonMises(a, b),
    "categorical": lambda a, b: dist.Categorical(logits=torch.stack([a, b, a - b], -1)),
}


@pytest.mark.parametrize("name", list(LAWS))
def test_every_law_of_numbers_takes_missing_entries_with_finite_gradients(name: str) -> None:
    a = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.8, 1.5], dtype=torch.float64, requires_grad=True)
    law = LAWS[name](a, b)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        complete = law.sample((4,)).double()
    holes = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    score = observed_part(law).log_prob(torch.where(holes, torch.nan, complete))
    assert torch.equal(score, torch.where(holes, 0.0, law.log_prob(complete)))
    for parameter in torch.autograd.grad(score.sum(), (a, b), allow_unused=True):
        assert parameter is None or bool(parameter.isfinite().all())
    joint = observed_part(law.to_event(1)).log_prob(torch.where(holes, torch.nan, complete))
    torch.testing.assert_close(joint, score.sum(-1))


@pytest.mark.parametrize("rank", [1, 2])
def test_low_rank_normals_are_normals(rank: int) -> None:
    factor = torch.randn(FEATURES, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    diagonal = torch.tensor([0.4, 0.9, 1.3], dtype=torch.float64)
    x = torch.tensor(punched(observations("full", 9)))
    low = dist.LowRankMultivariateNormal(torch.zeros(FEATURES, dtype=torch.float64), factor, diagonal)
    whole = dist.MultivariateNormal(low.loc, low.covariance_matrix)
    torch.testing.assert_close(observed_part(low).log_prob(x), observed_part(whole).log_prob(x))


@pytest.mark.parametrize(
    "law",
    [
        dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0])),
        dist.Multinomial(5, torch.tensor([0.2, 0.3, 0.5])),
        dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])),
    ],
    ids=["dirichlet", "multinomial", "one-hot"],
)
def test_vectors_without_a_marginal_may_be_missing_as_a_whole_only(law: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = law.sample((3,))
    complete = law.log_prob(x)
    x[1] = torch.nan
    score = observed_part(law).log_prob(x)
    assert torch.equal(score, torch.where(torch.tensor([False, True, False]), 0.0, complete))
    assert not observed_part(law).log_prob(x[1:2]).any()
    x[0, 1] = torch.nan
    with pytest.raises(SupportError, match=r"'flour' ~ .* missing in part"):
        observed_part(law, "flour").log_prob(x)


# --- the kernel of multivariate normals ------------------------------------------------------------------------------


SHAPES = [  # batch shapes of x, loc and covariance
    ((7, 1), (3,), (3,)),
    ((7, 1), (3,), ()),
    ((4, 5, 1), (3,), (3,)),
    ((7,), (3, 1), (3, 1)),
    ((7,), (3, 7), (3, 1)),
    ((7,), (7,), (7,)),
    ((7,), (7,), ()),
    ((), (), ()),
    ((5, 6, 1), (1, 6, 2), (6, 2)),
    ((5, 1), (3, 5, 2), (3, 1, 2)),
    ((7,), (1,), (1,)),
]


@pytest.mark.parametrize(("x_shape", "loc_shape", "covariance_shape"), SHAPES)
def test_blocks_of_normals_under_every_broadcast(x_shape: Any, loc_shape: Any, covariance_shape: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(*x_shape, FEATURES, generator=generator, dtype=torch.float64)
    x[torch.rand(x.shape, generator=generator) < 0.4] = torch.nan
    loc = torch.randn(*loc_shape, FEATURES, generator=generator, dtype=torch.float64)
    covariance = positive_definite(*covariance_shape)
    score, law = log_marginal(loc, covariance, x), conditional(loc, covariance, x)
    batch = torch.broadcast_shapes(x_shape, loc_shape, covariance_shape)
    assert score.shape == batch and law.mean.shape == (*batch, FEATURES)

    def flat(value: Tensor, dims: int) -> np.ndarray:
        event = value.shape[value.dim() - dims :]
        return value.expand(batch + event).reshape(-1, *event).numpy()

    rows = flat(x, 1), flat(loc, 1), flat(covariance, 2), flat(score, 0), flat(law.mean, 1), flat(law.covariance, 2)
    for one, m, c, ours, mean, spread in zip(*rows, strict=True):
        o, u = ~np.isnan(one), np.isnan(one)
        inverse = np.linalg.inv(c[np.ix_(o, o)])
        residual = one[o] - m[o]
        log_det = np.linalg.slogdet(c[np.ix_(o, o)])[1]
        theirs = -0.5 * (residual @ inverse @ residual + log_det + o.sum() * np.log(2 * np.pi))
        assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-10)
        gain = c[np.ix_(u, o)] @ inverse
        filled, zero = one.copy(), np.zeros_like(c)
        filled[u] = m[u] + gain @ residual
        zero[np.ix_(u, u)] = c[np.ix_(u, u)] - gain @ c[np.ix_(o, u)]
        np.testing.assert_allclose(mean, filled, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(spread, zero, rtol=1e-9, atol=1e-10)


def test_more_features_than_bits_in_a_number() -> None:
    """Patterns are told apart in any feature."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(6, 100, generator=generator, dtype=torch.float64)
    for row, feature in enumerate([0, 30, 31, 62, 63, 99]):
        x[row, feature] = torch.nan
    loc, covariance = torch.zeros(100, dtype=torch.float64), positive_definite(size=100)
    each = torch.stack([log_marginal(loc, covariance, row) for row in x])
    torch.testing.assert_close(log_marginal(loc, covariance, x), each)
    assert len(set(each.tolist())) == 6


def test_a_recorded_graph_holds_for_other_patterns() -> None:
    covariance, loc = positive_definite(2), torch.zeros(2, FEATURES, dtype=torch.float64)
    first, second = (torch.tensor(punched(observations("full", 9), seed=seed))[:, None] for seed in (0, 1))

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return log_marginal(loc, covariance, x), conditional_mean(loc, covariance, x)

    graph = capture(both, first, dtype=torch.float64)
    torch.testing.assert_close(graph(second), both(second), rtol=1e-12, atol=1e-12)


# --- programs --------------------------------------------------------------------------------------------------------


class ExplicitNormals:
    """A mixture of correlated normals with its component drawn at each row, and a second site that shares it."""

    def model(self, rows: lv.Batch) -> None:
        loc = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
        weights = pyro.sample("weights", lv.flat((2,), dist.constraints.simplex))
        covariance = positive_definite(2, size=2)
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.MultivariateNormal(loc[z], covariance_matrix=covariance[z]), obs=rows["x"])
            pyro.sample("y", dist.Poisson(torch.tensor([2.0, 5.0])[z]), obs=rows["y"])


def explicit_rows() -> lv.Rows:
    noise = np.random.default_rng(6)
    return lv.Rows({"x": punched(noise.normal(size=(12, 2)), seed=7), "y": punched(noise.poisson(3, 12), seed=8)})


def test_an_enumerated_model_integrates_missing_entries_of_every_site() -> None:
    rows, weights = explicit_rows(), torch.tensor([0.4, 0.6], dtype=torch.float64)
    found = lv.from_point(ExplicitNormals(), rows, {"weights": weights})
    locs = torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
    pairs = zip(locs, positive_definite(2, size=2), strict=True)
    laws = [dist.MultivariateNormal(loc, covariance) for loc, covariance in pairs]
    x, y = rows["x"], rows["y"][:, None]
    of_x = torch.stack([observed_part(law).log_prob(x) for law in laws], -1)
    of_y = observed_part(dist.Poisson(torch.tensor([2.0, 5.0]))).log_prob(y)
    joint = weights.log() + of_x + of_y
    torch.testing.assert_close(found.row_log_likelihood, joint.logsumexp(-1))
    torch.testing.assert_close(found.latent().mean("z"), joint.softmax(-1))


def test_joint_draws_of_enumerated_locals_follow_the_belief() -> None:
    rows = explicit_rows()
    program = Program.of(ExplicitNormals(), rows)
    values = {"weights": torch.tensor([0.4, 0.6], dtype=torch.float64)}
    batch = rows.batch(dtype=torch.float64)
    draws = torch.stack([program.joint_draw(values, batch, seed)["z"] for seed in range(200)]).double()
    belief = program.beliefs(values, batch)["z"].probs[:, 1]  # type: ignore[attr-defined]
    error = (draws.mean(0) - belief) / (belief * (1 - belief) / 200).sqrt().clamp(min=1e-3)
    assert float(error.abs().max()) < 4


class Line:
    """A straight line through points, with or without its covariate."""

    def model(self, rows: lv.Batch) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
        with rows.plate():
            pyro.sample("y", dist.Normal(slope * rows["t"], 1.0), obs=rows["y"])


def test_a_missing_covariate_is_named_at_the_fit_and_on_new_rows() -> None:
    t, y = np.linspace(-1, 1, 20), np.linspace(-2, 2, 20)
    gappy = np.where(np.arange(20) == 3, np.nan, t)
    with pytest.raises(MissingDataError, match=r"column 't', on which the density of 'y' depends"):
        lv.fit(Line(), {"y": y, "t": gappy})
    found = lv.fit(Line(), {"y": np.where(t > 0.9, np.nan, y), "t": t}, progress=False)
    assert float(found.point["slope"]) == pytest.approx(2 * 100 / (100 + 1 / (t[t <= 0.9] ** 2).sum()), rel=1e-6)
    for read in (found.score_rows, found.latent, found.impute):
        with pytest.raises(MissingDataError, match="column 't'"):
            read({"y": y, "t": gappy})


class Coded:
    """Categories read as whole numbers, which NaN is not."""

    def model(self, rows: lv.Batch) -> None:
        probs = pyro.sample("probs", lv.flat((3,), dist.constraints.simplex))
        with rows.plate():
            pyro.sample("x", dist.Categorical(probs), obs=rows.x.long())


def test_a_model_that_cannot_read_nan_is_refused_by_column() -> None:
    with pytest.raises(MissingDataError, match="column 'x', without which the model fails"):
        lv.fit(Coded(), [0.0, 1.0, 2.0, np.nan, 1.0])


def test_a_guide_that_computes_with_nan_is_named() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[4, 1] = np.nan
    with pytest.raises(MissingDataError, match=r"column 'x', on which the density of .*'z' depends"):
        lv.fit(user_models.FactorAnalysis(3, 1), x, lv.SVI(passes=1))


@pytest.mark.parametrize("emission", [lv.emissions.Poisson(), lv.emissions.Categorical(15)])
def test_a_fit_of_whole_numbers_reads_rows_with_gaps(emission: Any) -> None:
    """Rows with gaps are floats; a fit of rows without any has seen none."""
    counts = np.random.default_rng(0).poisson(3.0, 50)
    gaps = lv.Rows(np.where(np.arange(50) == 3, np.nan, counts), lengths=[50])
    model = lv.models.HiddenMarkov(2, emission)
    fit = lv.fit(model, lv.Rows(counts, lengths=[50]), lv.EM(passes=5, stop=lv.Never()), progress=False)
    wanted = lv.from_point(model, gaps, fit.point)
    np.testing.assert_allclose(fit.score_rows(gaps), wanted.row_log_likelihood, rtol=1e-12)
    assert float(fit.score_rows(gaps)) > float(fit.row_log_likelihood)
