"""Mixture, SoftCategorical, Product and Flat: against torch, scikit-learn, Bayes' rule and the identity of EM."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from sklearn.mixture import GaussianMixture

from latentvars.contract import Collapsed
from latentvars.distributions import Mixture, Product, SoftCategorical, flat
from latentvars.distributions.bijection import bijection
from latentvars.errors import ShapeError

F64 = torch.float64


def gaussian_mixture(weights: tuple[float, ...] = (0.2, 0.5, 0.3)) -> Mixture:
    generator = torch.Generator().manual_seed(3)
    loc = 2 * torch.randn(3, 2, generator=generator, dtype=F64)
    factor = torch.randn(3, 2, 2, generator=generator, dtype=F64)
    covariance = factor @ factor.mT + torch.eye(2, dtype=F64)
    return Mixture(torch.tensor(weights, dtype=F64), dist.MultivariateNormal(loc, covariance))


def nested_mixture() -> Mixture:
    inner = Mixture(
        torch.tensor([[0.3, 0.7], [0.9, 0.1], [0.5, 0.5]], dtype=F64),
        dist.Normal(torch.arange(6, dtype=F64).reshape(3, 2), 1.0),
        local="inner",
    )
    return Mixture(torch.tensor([0.2, 0.3, 0.5], dtype=F64), inner)


def em_bound(fn: object, value: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ weighted complete-data log-densities + weighted posterior entropies, through all levels: equals log p(x)."""
    if not hasattr(fn, "factors"):
        return (weights * fn.log_prob(value)).sum()
    total = sum(em_bound(f.fn, f.value, f.weights) for f in fn.factors(value, weights).values())
    if hasattr(fn, "posterior"):
        total = total + (weights * fn.posterior(value).entropy()).sum()
    return total


def test_log_prob_and_moments_equal_torch() -> None:
    ours = gaussian_mixture()
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(ours.weights), ours.components)
    x = torch.randn(7, 2, dtype=F64)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)


def test_batched_mixture_equals_torch() -> None:
    weights = torch.rand(4, 3, dtype=F64).softmax(-1)
    ours = Mixture(weights, dist.Normal(torch.randn(4, 3, dtype=F64), 0.5))
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), ours.components)
    x = torch.randn(6, 4, dtype=F64)
    assert ours.batch_shape == (4,)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(ours.mean, theirs.mean)


def test_log_prob_and_posterior_equal_scikit_learn() -> None:
    ours = gaussian_mixture()
    x = torch.randn(50, 2, dtype=F64)
    theirs = GaussianMixture(3)
    theirs.weights_, theirs.means_ = ours.weights.numpy(), ours.components.loc.numpy()
    theirs.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(ours.components.covariance_matrix.numpy()))
    np.testing.assert_allclose(ours.log_prob(x), theirs.score_samples(x.numpy()), atol=1e-12)
    np.testing.assert_allclose(ours.posterior(x).probs, theirs.predict_proba(x.numpy()), atol=1e-12)


def test_posterior_is_bayes_rule() -> None:
    mixture = Mixture(torch.tensor([0.25, 0.75], dtype=F64), dist.Bernoulli(torch.tensor([0.9, 0.2], dtype=F64)))
    posterior = mixture.posterior(torch.tensor(1.0, dtype=F64)).probs
    assert posterior.tolist() == pytest.approx([0.225 / 0.375, 0.15 / 0.375])


@pytest.mark.parametrize("make", [gaussian_mixture, nested_mixture])
def test_factors_and_entropy_sum_to_log_prob(make: object) -> None:
    mixture = make()
    x = torch.randn(9, *mixture.event_shape, dtype=F64)
    weights = torch.rand(9, dtype=F64)
    torch.testing.assert_close(em_bound(mixture, x, weights), (weights * mixture.log_prob(x)).sum())


def test_factors_move_the_same_way_as_log_prob() -> None:
    """Fisher's identity: with the posterior held fixed, the gradient of the factors is the gradient of log p."""
    loc = torch.tensor([-1.0, 0.5, 2.0], dtype=F64, requires_grad=True)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=F64, requires_grad=True)
    mixture, x, rows = Mixture(weights, dist.Normal(loc, 1.0)), torch.randn(8, dtype=F64), torch.rand(8, dtype=F64)
    total = sum((f.weights * f.fn.log_prob(f.value)).sum() for f in mixture.factors(x, rows).values())
    ours = torch.autograd.grad(total, (loc, weights))
    torch.testing.assert_close(ours, torch.autograd.grad((rows * mixture.log_prob(x)).sum(), (loc, weights)))


def test_zero_weights_have_finite_gradients() -> None:
    weights = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    loc = torch.tensor([0.0, 1.0], dtype=F64, requires_grad=True)
    mixture = Mixture(weights, dist.Normal(loc, 1.0))
    x = torch.tensor([0.3, -2.0], dtype=F64)
    torch.testing.assert_close(mixture.log_prob(x), dist.Normal(0.0, 1.0).log_prob(x))
    by_weights, by_loc = torch.autograd.grad(mixture.log_prob(x).sum(), (weights, loc))
    assert by_weights.tolist() == [2.0, 0.0]
    torch.testing.assert_close(by_loc, torch.tensor([-1.7, 0.0], dtype=F64))
    assert mixture.factors(x, torch.ones(2, dtype=F64))["weights"].fn.log_prob(torch.tensor([1.0, 0.0])) == 0.0


def test_impossible_value_has_minus_infinity_and_no_nan() -> None:
    """5 is outside both components, 2.5 only inside the one of weight zero."""
    weights = torch.tensor([1.0, 0.0], dtype=F64, requires_grad=True)
    low = torch.tensor([0.0, 2.0], dtype=F64)
    mixture = Mixture(weights, dist.Uniform(low, low + 1, validate_args=False))
    value = mixture.log_prob(torch.tensor([5.0, 2.5, 0.5], dtype=F64))
    assert value.tolist() == [-torch.inf, -torch.inf, 0.0]
    assert torch.autograd.grad(value.sum(), weights)[0].tolist() == [1.0, 0.0]


def test_sample_follows_the_density() -> None:
    torch.manual_seed(0)
    mixture = gaussian_mixture()
    draws = mixture.sample((40_000,))
    error = 4 * (mixture.variance / 40_000).sqrt()
    assert bool(((draws.mean(0) - mixture.mean).abs() < error).all())
    torch.testing.assert_close(draws.var(0), mixture.variance, rtol=0.05, atol=0)


@pytest.mark.parametrize("make", [gaussian_mixture, nested_mixture])
def test_expand_gives_independent_rows_of_the_right_shape(make: object) -> None:
    mixture = make()
    wide = mixture.expand([5, 4])
    draws = wide.sample((3,))
    assert draws.shape == wide.shape((3,)) == (3, 5, 4, *mixture.event_shape)
    assert draws.reshape(60, -1)[:, 0].unique().numel() == 60
    torch.testing.assert_close(wide.log_prob(draws), mixture.log_prob(draws))
    assert wide.log_prob(draws[0, 0, 0]).shape == (5, 4)
    assert wide.mean.shape == (5, 4, *mixture.event_shape)
    assert isinstance(wide, Collapsed)


def test_mixture_is_an_ordinary_pyro_site() -> None:
    mixture = gaussian_mixture()
    x = torch.randn(6, 2, dtype=F64)
    mask = torch.tensor([True, True, False, True, False, True])

    def model(obs: torch.Tensor | None) -> torch.Tensor:
        with pyro.plate("chains", 3, dim=-2), pyro.plate("rows", 6, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", mixture, obs=obs)

    assert model(None).shape == (3, 6, 2)
    trace = poutine.trace(model).get_trace(x)
    expected = 3 * mixture.log_prob(x)[mask].sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    torch.testing.assert_close(mixture.mask(mask).log_prob(x).sum(), expected / 3)


def test_collapsed_mixture_equals_enumerated_pyro_model() -> None:
    mixture, x = gaussian_mixture(), torch.randn(6, 2, dtype=F64)
    parts = mixture.components

    def model() -> None:
        with pyro.plate("rows", 6):
            z = pyro.sample("z", dist.Categorical(mixture.weights), infer={"enumerate": "parallel"})
            fn = dist.MultivariateNormal(parts.loc[z], scale_tril=parts.scale_tril[z])
            pyro.sample("x", fn, obs=x)

    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)
    assert -loss == pytest.approx(float(mixture.log_prob(x).sum()), 1e-12)


def test_shape_errors_say_what_to_do() -> None:
    with pytest.raises(ShapeError, match="one weight per component"):
        Mixture(torch.tensor([0.5, 0.5]), dist.Normal(torch.zeros(3), 1.0))
    with pytest.raises(ShapeError, match="batch the parameters"):
        Mixture(torch.tensor([0.5, 0.5]), dist.Normal(0.0, 1.0))
    with pytest.raises(ShapeError, match="broadcast"):
        gaussian_mixture().expand([4]).expand([5])


def test_soft_categorical_is_linear_in_the_counts() -> None:
    probs = torch.tensor([0.2, 0.8, 0.0], dtype=F64, requires_grad=True)
    soft = SoftCategorical(probs)
    onehot = torch.eye(3, dtype=F64)
    torch.testing.assert_close(soft.log_prob(onehot[:2]), dist.OneHotCategorical(probs).log_prob(onehot[:2]))
    counts = torch.tensor([1.5, 2.5, 0.0], dtype=F64, requires_grad=True)
    value = soft.log_prob(counts)
    assert float(value.detach()) == pytest.approx(1.5 * np.log(0.2) + 2.5 * np.log(0.8))
    by_probs, by_counts = torch.autograd.grad(value, (probs, counts))
    assert by_probs.tolist() == pytest.approx([7.5, 3.125, 0.0])
    assert bool(by_counts.isfinite().all())
    assert float(soft.log_prob(onehot[2]).detach()) == -np.inf
    assert soft.expand([4]).sample((2,)).shape == (2, 4, 3)


def test_product_is_the_sum_over_columns() -> None:
    gaussian = dist.MultivariateNormal(torch.zeros(3, 2, dtype=F64), torch.eye(2, dtype=F64))
    product = Product([gaussian, dist.Bernoulli(torch.tensor([0.1, 0.5, 0.9], dtype=F64))], widths=[2, 1])
    assert product.batch_shape == (3,) and product.event_shape == (3,)
    draws = product.sample((500,))
    assert draws.shape == (500, 3, 3)
    expected = gaussian.log_prob(draws[..., :2]) + product.parts[1].log_prob(draws[..., 2])
    torch.testing.assert_close(product.log_prob(draws), expected)
    assert bool(product.support.check(draws).all())
    assert not bool(product.support.check(draws + 0.5).any())
    assert product.mean.tolist()[2] == [0.0, 0.0, 0.9]
    assert product.variance.shape == (3, 3)
    assert product.expand([4, 3]).sample().shape == (4, 3, 3)
    weights = torch.rand(500, 3, dtype=F64)
    torch.testing.assert_close(em_bound(product, draws, weights), (weights * expected).sum())


def test_product_of_mixture_components() -> None:
    parts = [dist.Normal(torch.tensor([0.0, 3.0], dtype=F64), 1.0), dist.Poisson(torch.tensor([1.0, 8.0], dtype=F64))]
    mixture = Mixture(torch.tensor([0.4, 0.6], dtype=F64), Product(parts))
    x = torch.tensor([[0.1, 2.0], [2.5, 9.0]], dtype=F64)
    joint = torch.stack([w.log() + parts[0].log_prob(x[:, :1])[:, k] + parts[1].log_prob(x[:, 1:])[:, k]
                         for k, w in enumerate(mixture.weights)], -1)  # fmt: skip
    torch.testing.assert_close(mixture.log_prob(x), joint.logsumexp(-1))
    weights = torch.ones(2, dtype=F64)
    torch.testing.assert_close(em_bound(mixture, x, weights), mixture.log_prob(x).sum())


def test_product_refuses_wrong_widths() -> None:
    with pytest.raises(ShapeError, match="width of part 0"):
        Product([dist.Normal(0.0, 1.0)], widths=[2])
    with pytest.raises(ShapeError, match="columns of all parts"):
        Product([dist.Normal(0.0, 1.0), dist.Normal(0.0, 1.0)]).log_prob(torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("shape", "support"),
    [
        ((), constraints.real),
        ((3, 2), constraints.real),
        ((4,), constraints.positive),
        ((3, 4), constraints.simplex),
        ((2, 3, 3), constraints.lower_cholesky),
        ((2, 3, 3), constraints.positive_definite),
        ((2, 3), constraints.ordered_vector),
    ],
)
def test_flat_starts_inside_its_support_and_scores_zero(
    shape: tuple[int, ...], support: constraints.Constraint
) -> None:
    torch.manual_seed(0)
    fn = flat(shape, support)
    assert fn.support.event_dim == len(shape)
    draws = fn.expand([5]).sample((2,))
    assert draws.shape == (2, 5, *shape)
    assert bool(fn.support.check(draws).all())
    assert float(bijection(fn.support).inv(draws).abs().max()) < 2.01
    score = fn.expand([5]).log_prob(draws.double())
    assert score.shape == (2, 5) and score.dtype == F64 and not bool(score.any())
    assert poutine.trace(lambda: pyro.sample("theta", fn)).get_trace().log_prob_sum() == 0.0


def test_flat_refuses_a_shape_too_small_for_its_support() -> None:
    with pytest.raises(ShapeError, match="whole value"):
        flat((), constraints.simplex)
