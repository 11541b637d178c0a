"""The stick-breaking prior: its density from Beta sticks, its modes by scipy, and the components that it leaves."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize, special, stats
from sklearn.mixture import BayesianGaussianMixture
from torch.distributions import AffineTransform, SigmoidTransform, StickBreakingTransform, TransformedDistribution

import latentvars as lv
from latentvars.distributions import StickBreaking
from latentvars.distributions.stick_breaking import SHORTEST
from latentvars.errors import NameUnknownError, SettingError, SupportError


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def by_torch(components: int, alpha: float) -> TransformedDistribution:
    """Beta sticks → log-odds → torch's own stick-breaking, whose sticks are sigmoid(x_k − log(K − k))."""
    sticks = torch.distributions.Beta(number(1.0), number(alpha)).expand([components - 1])
    offset = torch.arange(components - 1, 0, -1, dtype=torch.float64).log()
    steps = [SigmoidTransform().inv, AffineTransform(offset, torch.ones_like(offset)), StickBreakingTransform()]
    return TransformedDistribution(torch.distributions.Independent(sticks, 1), steps)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("components", [2, 3, 8])
def test_the_density_is_that_of_transformed_sticks(components: int, alpha: float) -> None:
    weights = torch.distributions.Dirichlet(torch.ones(components, dtype=torch.float64)).sample((50,))
    law = lv.stick_breaking(components, number(alpha))
    expected = by_torch(components, alpha).log_prob(weights)
    torch.testing.assert_close(law.log_prob(weights), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.7, 1.0, 2.5])
def test_the_density_integrates_to_one(alpha: float) -> None:
    """By midpoints over the triangle w_1 + w_2 < 1, which are closer together where the density is high."""
    law = lv.stick_breaking(3, number(alpha))
    place = (torch.arange(600, dtype=torch.float64) + 0.5) / 600
    left, step = (1 - place) ** 6, 6 * (1 - place) ** 5 / 600
    rest, third = torch.meshgrid(left, left, indexing="ij")
    weights = torch.stack([1 - rest, rest * (1 - third), rest * third], -1)
    found = (law.log_prob(weights).exp() * rest * step[:, None] * step).sum()
    assert float(found) == pytest.approx(1.0, abs=1e-4)


def test_draws_have_beta_sticks_and_their_means() -> None:
    law = lv.stick_breaking(5, number(1.7))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = law.sample((20_000,))
    torch.testing.assert_close(drawn.sum(-1), torch.ones(20_000, dtype=torch.float64))
    rest = 1 - drawn.cumsum(-1)
    sticks = torch.stack([drawn[:, 0], drawn[:, 1] / rest[:, 0], drawn[:, 3] / rest[:, 2]], 1).numpy()
    for stick in sticks.T:
        assert stats.kstest(stick, stats.beta(1, 1.7).cdf).pvalue > 0.001
    assert abs(np.corrcoef(sticks.T)[0, 1]) < 0.03
    np.testing.assert_allclose(law.mean, drawn.mean(0), atol=0.01)
    assert float(law.mean.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_the_prior_number_of_occupied_components_is_that_of_a_dirichlet_process(alpha: float) -> None:
    """E[K_n] = Σ_{i<n} α / (α + i) (Antoniak 1974); 200 components of a process of concentration 2 leave 1e-35."""
    size, draws = 40, 4_000
    with torch.random.fork_rng():
        torch.manual_seed(1)
        weights = lv.stick_breaking(200, number(alpha)).sample((draws,))
        labels = torch.distributions.Categorical(weights).sample((size,)).mT
    found = np.array([len(np.unique(row)) for row in labels.numpy()])
    expected = sum(alpha / (alpha + i) for i in range(size))
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / np.sqrt(draws))


def test_shapes_gradients_and_precision() -> None:
    law = StickBreaking(4, torch.tensor([0.5, 2.0], dtype=torch.float64))
    assert law.batch_shape == (2,) and law.event_shape == (4,) and law.expand((3, 2)).batch_shape == (3, 2)
    with torch.random.fork_rng():
        drawn = law.expand((3, 2)).sample((7,))
    assert drawn.shape == (7, 3, 2, 4)
    single = [lv.stick_breaking(4, number(a)).log_prob(drawn[:, :, k]) for k, a in enumerate((0.5, 2.0))]
    torch.testing.assert_close(law.log_prob(drawn), torch.stack(single, 2))
    alpha = number(1.3).requires_grad_()
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: StickBreaking(4, a).log_prob(weights), (alpha,))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        assert torch.autograd.grad(StickBreaking(4, alpha).rsample((1_000,))[:, 0].mean(), alpha)[0] == pytest.approx(
            -1 / 2.3**2, abs=0.02  # of the mean 1 / (1 + α)
        )  # fmt: skip
    assert float(lv.stick_breaking(1).log_prob(torch.ones(1))) == 0.0
    assert bool(lv.stick_breaking(4).log_prob(torch.tensor([1.0, 0.0, 0.0, 0.0])).isfinite())
    for wrong in ({"components": 0}, {"components": 3, "concentration": 0.0}):
        with pytest.raises(SettingError):
            lv.stick_breaking(**wrong)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 6.0])
def test_modes_are_those_that_scipy_finds(alpha: float) -> None:
    """Over the sticks, none of which leaves less than a millionth; counts with empty components among them."""
    law = lv.stick_breaking(4, number(alpha))
    for counts in ([30.0, 12.0, 8.0, 5.0], [20.0, 1.5, 0.4, 0.2], [5.0, 0.0, 9.0, 0.5], [0.0, 3.0, 0.0, 0.0]):
        n = torch.tensor(counts, dtype=torch.float64)

        def objective(weights: torch.Tensor, n: torch.Tensor = n) -> float:
            return float(torch.special.xlogy(n, weights).sum() + law.log_prob(weights))

        def negative(sticks: np.ndarray) -> float:
            v = torch.cat([torch.from_numpy(sticks), torch.ones(1, dtype=torch.float64)])
            before = torch.cat([torch.ones(1, dtype=torch.float64), (1 - v[:-1]).cumprod(0)])
            found = objective(before * v)
            return -found if np.isfinite(found) else 1e10

        found = objective(law.mode_given(n))
        bounds = [(0.0 if n[k] == 0 else 1e-9, 1 - SHORTEST) for k in range(3)]
        starts = np.random.default_rng(0).uniform(0.05, 0.95, (6, 3))
        best = max(-optimize.minimize(negative, s, bounds=bounds, method="Nelder-Mead").fun for s in starts)
        assert found >= best - 1e-6 * abs(best)
        assert float(law.mode_given(n).sum()) == pytest.approx(1.0)


EM = lv.EM(stop=lv.Tolerance(1e-6))


def clusters(size: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Three clusters on a line, six standard deviations apart."""
    noise = np.random.default_rng(8)
    labels = np.repeat([0, 1, 2], [size // 2, size // 3, size - size // 2 - size // 3])
    return noise.normal(size=size) + 6.0 * labels, labels


def mixture(components: int = 8, alpha: float = 1.0) -> lv.models.GaussianMixture:
    """Proper priors, about the clusters' own scale, for components that no row may have."""
    priors = {
        "weights": lv.stick_breaking(components, alpha),
        "loc": dist.Normal(6.0, 8.0),
        "scale": dist.Gamma(8.0, 8.0),
    }
    return lv.models.GaussianMixture(components, 1, "spherical", priors=priors)


def by_sklearn(x: np.ndarray, components: int = 8, alpha: float = 1.0) -> int:
    found = BayesianGaussianMixture(
        n_components=components, covariance_type="spherical", weight_concentration_prior_type="dirichlet_process",
        weight_concentration_prior=alpha, max_iter=2_000, n_init=3, random_state=0,
    ).fit_predict(x[:, None])  # fmt: skip
    return len(np.unique(found))


def test_em_has_a_closed_form_and_never_falls() -> None:
    x, _ = clusters()
    fit = lv.fit(mixture(5), x, EM, progress=False)
    assert "Categorical probs, StickBreaking prior" in fit.explain()
    assert fit.status.converged and bool((np.diff(fit.history) >= -1e-9).all())
    counts = fit.latent().mean("z").sum(0)
    mode = lv.stick_breaking(5, number(1.0)).mode_given(counts)
    torch.testing.assert_close(fit.point["weights"], mode, atol=1e-5, rtol=1e-3)


def test_em_with_a_fixed_weight_goes_by_gradients() -> None:
    x, _ = clusters(60)
    known = [0.25, np.nan, np.nan]
    fit = lv.fit(mixture(3, 6.0), x, lv.EM(passes=4), fixed={"weights": known}, progress=False)
    assert "L-BFGS" in fit.explain() and float(fit.point["weights"][0]) == 0.25
    assert bool((np.diff(fit.history) >= -1e-9).all())


def test_em_svi_and_scikit_learn_find_the_same_number_of_components() -> None:
    x, labels = clusters()
    expected = by_sklearn(x, 6, 0.3)
    assert expected == 3
    mode = lv.fit(mixture(6, 0.3), x, EM, progress=False)
    assert lv.occupied(mode, draws=50).probs == {3: 1.0}
    found = mode.latent().mode("z").numpy()
    assert len(set(zip(found.tolist(), labels.tolist(), strict=True))) == 3  # the clusters themselves, but for names
    fit = lv.fit(mixture(6, 0.3), x, lv.SVI(passes=300), start=inner(mode.point), progress=False)
    belief = lv.occupied(fit, draws=100, share=0.02)
    assert belief.mode == expected and belief.probs[3] > 0.5


def inner(point: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights away from the edge, where a guide can begin."""
    weights = point["weights"].clamp(min=1e-3)
    return {**point, "weights": weights / weights.sum()}


class Small:
    """Three components of unit variance at most."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.stick_breaking(3, 0.7))
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)


def by_enumeration(x: np.ndarray, alpha: float) -> np.ndarray:
    """P(1, 2, 3 components | x) over all 3^N labellings, weights and means integrated out in closed form."""
    found = np.zeros(3)
    for labels in itertools.product(range(3), repeat=len(x)):
        counts = np.bincount(labels, minlength=3)
        behind = counts[::-1].cumsum()[::-1] - counts
        log = sum(special.betaln(1 + counts[k], alpha + behind[k]) - special.betaln(1, alpha) for k in range(2))
        for k in range(3):
            own = x[np.array(labels) == k]
            if len(own):
                log += stats.multivariate_normal(cov=np.eye(len(own)) + 9.0).logpdf(own)
        found[(counts > 0).sum() - 1] += np.exp(log)
    return found / found.sum()


def test_nuts_gives_the_exact_posterior_of_the_number() -> None:
    pytest.importorskip("nutpie")
    x = np.array([-2.1, -1.6, 0.4, 1.9, 2.6])
    expected = by_enumeration(x, 0.7)
    fit = lv.fit(Small(), x, lv.NUTS(draws=200, tune=150, chains=2), progress=False)
    probs = lv.occupied(fit, draws=300).probs
    np.testing.assert_allclose([probs[k] for k in (1, 2, 3)], expected, atol=0.1)


class Learnt:
    """Components of unit variance, their concentration under a gamma prior."""

    def __init__(self, components: int) -> None:
        self.components = components

    def model(self, rows: lv.Batch) -> None:
        alpha = pyro.sample("alpha", dist.Gamma(2.0, 2.0))
        weights = pyro.sample("weights", lv.stick_breaking(self.components, alpha))
        loc = pyro.sample("loc", dist.Normal(6.0, 8.0).expand([self.components]).to_event(1))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=rows.x)


def test_a_concentration_that_is_learnt() -> None:
    """Given the weights its posterior is Gamma(2 + K − 1, 2 − log w_K), a conjugate pair (Escobar & West 1995)."""
    x, _ = clusters(90)
    fit = lv.fit(Learnt(6), x, lv.EM(passes=60), progress=False)
    assert fit.point["weights"].min() > 0
    weights, alpha = fit.point["weights"], float(fit.point["alpha"])
    mode = (2 + 5 - 1) / (2 - float(weights[-1].log()))
    assert alpha == pytest.approx(mode, rel=1e-3)
    svi = lv.fit(Learnt(6), x, lv.SVI(passes=200), start=inner(fit.point), progress=False)
    assert svi.status.name != "FAILED" and 3 <= lv.occupied(svi, draws=50, share=0.02).mode <= 4


def test_occupied_counts_labels_whatever_their_order_and_by_weight() -> None:
    point = {"weights": [0.5, 0.3, 0.2], "loc": [[0.0], [50.0], [100.0]], "scale": [1.0, 1.0, 1.0]}
    model = lv.models.GaussianMixture(3, 1, "spherical")
    x = np.array([0.1, 0.2, 50.3, 50.1, 100.0])
    assert lv.occupied(lv.from_point(model, x, point)).probs == {3: 1.0}
    turned = {name: [value[k] for k in (2, 0, 1)] for name, value in point.items()}
    assert lv.occupied(lv.from_point(model, x, turned)).probs == {3: 1.0}
    assert lv.occupied(lv.from_point(model, x, point), share=0.25).probs == {2: 1.0}
    weighted = lv.from_point(model, lv.Rows(x, weights=[1, 1, 1, 1, 0]), point)
    found = lv.occupied(weighted, draws=20)
    assert found.probs == {2: 1.0} and found.mean == 2.0 and found.interval() == (2, 2) and len(found.counts) == 20
    assert found.table().to_dict("list") == {"occupied": [2], "probability": [1.0]} and "'z'" in str(found)
    assert lv.occupied(lv.from_point(model, x, point), x[:2]).probs == {1: 1.0}


def test_occupied_is_the_posterior_of_the_number() -> None:
    """Two components over three rows, by enumeration of the eight labellings."""
    x = np.array([-0.5, 0.1, 0.7])
    point = {"weights": [0.4, 0.6], "loc": [[0.0], [1.0]], "scale": [1.0, 1.0]}
    fit = lv.from_point(lv.models.GaussianMixture(2, 1, "spherical"), x, point)
    joint = np.array([0.4, 0.6]) * stats.norm.pdf(x[:, None], [0.0, 1.0])
    probs = joint / joint.sum(1, keepdims=True)
    expected = float(probs[:, 0].prod() + probs[:, 1].prod())
    assert lv.occupied(fit, draws=1_000).probs[1] == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 1_000))


def test_occupied_states_of_chains_do_not_count_padding() -> None:
    rows = lv.Rows(np.array([1, 1, 2, 60, 61]), lengths=[3, 2])
    point = {"initial": [0.4, 0.3, 0.3], "transition": np.full((3, 3), 1 / 3), "rate": [[1.0], [60.0], [1e4]]}
    fit = lv.from_point(lv.models.HiddenMarkov(3, lv.emissions.Poisson()), rows, point)
    assert lv.occupied(fit, draws=5).probs == {2: 1.0}


def test_occupied_refuses_what_has_no_components() -> None:
    point = {"weights": [0.5, 0.5], "loc": [[0.0], [5.0]], "scale": [1.0, 1.0]}
    fit = lv.from_point(lv.models.GaussianMixture(2, 1, "spherical"), np.arange(4.0), point)
    with pytest.raises(SettingError, match=r"share=1"):
        lv.occupied(fit, share=1.0)
    with pytest.raises(NameUnknownError, match=r"'y'.*\['z'\]|\['z'\]"):
        lv.occupied(fit, local="y")
    with pytest.raises(SettingError, match="probability=89"):
        lv.occupied(fit, draws=3).interval(89)

    class Plain:
        def model(self, rows: lv.Batch) -> None:
            loc = pyro.sample("loc", lv.flat(()))
            with rows.plate():
                pyro.sample("x", dist.Normal(loc, 1.0), obs=rows.x)

    with pytest.raises(SupportError, match="without discrete locals"):
        lv.occupied(lv.from_point(Plain(), np.arange(4.0), {"loc": 0.0}))


def test_a_saved_model_has_its_prior(tmp_path: Path) -> None:
    x, _ = clusters(60)
    fit = lv.fit(mixture(4), x, lv.EM(passes=5), progress=False)
    again: Any = lv.load(fit.save(tmp_path / "fit", datatree=False))
    prior = again.model.priors["weights"]
    assert isinstance(prior, StickBreaking) and prior.components == 4 and float(prior.concentration) == 1.0
    assert torch.equal(again.point["weights"], fit.point["weights"])
