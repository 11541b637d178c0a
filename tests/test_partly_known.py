"""Globals that are fixed, tied, ordered or bounded, and zeros of transitions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
from scipy import optimize, stats
from torch.distributions import constraints

import latentvars as lv
from latentvars.distributions.ordering import OrderedBy, OrderedTransform
from latentvars.errors import ModelError, SettingError
from latentvars.program.restriction import restriction_of

NAN = float("nan")
LOC = np.array([[0.1, NAN], [NAN, -1.3]])
WEIGHTS = np.array([0.3, 0.7])
SCALE = np.array([[0, 1], [0, -1]])
LEFT_RIGHT = np.array([[NAN, NAN, 0.0], [0.0, NAN, NAN], [0.0, 0.0, 1.0]])
ALGORITHMS: dict[str, Any] = {
    "em": lv.EM(passes=60),
    "squarem": lv.EM(passes=60, accelerate=True),
    "restarts": lv.EM(passes=60, restarts=6),
    "online": lv.OnlineEM(batch_size=10, passes=5),
    "svi-delta": lv.SVI(passes=30, guide=lv.Delta()),
    "svi-full-rank": lv.SVI(passes=30, guide=lv.FullRank()),
}


def partly(algorithm: Any, **settings: Any) -> lv.Fit:
    model = lv.models.GaussianMixture(2, 2, "diag")
    known = {"fixed": {"loc": LOC, "weights": WEIGHTS}, "tied": {"scale": SCALE}}
    return lv.fit(model, cases.blobs(3), algorithm, **{**known, "progress": False, **settings})


def same(value: torch.Tensor, fixed: np.ndarray) -> bool:
    held = ~np.isnan(fixed)
    return np.array_equal(value.numpy()[..., held], np.broadcast_to(fixed[held], value.numpy()[..., held].shape))


# --- fixed and tied --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_fixed_values_stay_to_the_bit_and_tied_ones_are_equal(name: str) -> None:
    found = partly(ALGORITHMS[name], seed=1)
    draws = found.globals.draws(3, 0)[0]
    for values in (found.point, draws):
        assert same(values["loc"], LOC)
        assert same(values["weights"], WEIGHTS)
        scale = values["scale"]
        assert torch.equal(scale[..., 0, 0], scale[..., 1, 0])
    assert float(found.point["loc"][1, 0]) > 0.5  # free entries have moved
    assert found.free_parameters == 2 + 3
    assert found.bic == pytest.approx(-2 * found.log_likelihood + 5 * np.log(40))


def test_fixed_entries_win_over_the_start() -> None:
    found = partly(lv.EM(passes=0), start={"loc": np.full((2, 2), 3.0)})
    assert found.point["loc"].tolist() == [[0.1, 3.0], [3.0, -1.3]]


def test_em_with_fixed_and_tied_entries_is_the_maximum_of_the_likelihood() -> None:
    x = cases.blobs(3)

    def negative(free: np.ndarray) -> float:
        loc = np.array([[0.1, free[0]], [free[1], -1.3]])
        scale = np.exp([[free[2], free[3]], [free[2], free[4]]])
        parts = np.log(WEIGHTS) + stats.norm.logpdf(x[:, None], loc, scale).sum(-1)
        return -np.logaddexp.reduce(parts, 1).sum()

    best = min(
        (optimize.minimize(negative, start, method="BFGS") for start in (np.zeros(5), [0, 2, 0, 0, 0])),
        key=lambda found: found.fun,
    )
    found = partly(lv.EM(stop=lv.Tolerance(per_row=1e-13)))
    assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-6)
    ours = [found.point["loc"][0, 1], found.point["loc"][1, 0], *found.point["scale"].log()[[0, 0, 1], [0, 1, 1]]]
    np.testing.assert_allclose(ours, best.x, atol=1e-4)
    rules = found.explain()
    assert "2 of 4 entries fixed" in rules and "4 entries have 3 values" in rules and "2 of 2 entries fixed" in rules
    assert "L-BFGS" not in rules


def test_a_vector_fixed_in_part_is_maximised_given_its_covariance() -> None:
    x = np.random.default_rng(5).normal(size=(50, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
    found = lv.fit(
        lv.models.GaussianMixture(1, 2, "full"), x, lv.EM(stop=lv.Tolerance(per_row=1e-13)), fixed={"loc": [[0.5, NAN]]}
    )
    assert "L-BFGS" in found.explain().splitlines()[-1] and "loc" in found.explain().splitlines()[-1]

    def negative(free: np.ndarray) -> float:
        factor = np.array([[np.exp(free[1]), 0.0], [free[2], np.exp(free[3])]])
        return -stats.multivariate_normal.logpdf(x, [0.5, free[0]], factor @ factor.T).sum()

    best = optimize.minimize(negative, np.zeros(4), method="BFGS")
    assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-6)
    assert float(found.point["loc"][0, 1]) == pytest.approx(best.x[0], abs=1e-4)
    assert float(found.point["loc"][0, 0]) == 0.5


def test_whole_blocks_are_fixed_in_closed_form_and_whole_covariances_too() -> None:
    covariance = np.array([[1.0, 0.2], [0.2, 0.5]])
    found = lv.fit(
        lv.models.GaussianMixture(2, 2, "tied"),
        cases.blobs(3),
        lv.EM(),
        fixed={"loc": [[0.0, 0.0], [NAN, NAN]], "covariance": covariance},
    )
    assert "closed form: MultivariateNormal loc" in found.explain()
    assert np.array_equal(found.point["covariance"].numpy(), covariance)
    assert np.array_equal(found.point["loc"][0].numpy(), [0.0, 0.0])
    assert found.free_parameters == 1 + 2


def test_probabilities_fixed_in_part_share_the_rest_in_proportion_to_their_counts() -> None:
    codes = np.repeat([0, 1, 2, 3], [10, 20, 30, 40])
    model = lv.models.Mixture(1, lv.emissions.Categorical(4))
    found = lv.fit(model, codes, lv.EM(), fixed={"probs": [[0.25, NAN, NAN, NAN]]})
    np.testing.assert_allclose(found.point["probs"][0].numpy(), [0.25, *(0.75 * np.array([2, 3, 4]) / 9)], rtol=1e-14)
    assert found.free_parameters == 2
    errors = found.standard_errors().errors["probs"][0].numpy()
    share = np.array([2, 3, 4]) / 9  # of the 90 rows that are free to fall into three categories
    np.testing.assert_allclose(errors, [0.0, *(0.75 * np.sqrt(share * (1 - share) / 90))], rtol=1e-6)


def test_a_model_without_sufficient_statistics_keeps_what_is_fixed() -> None:
    fixed = {"loc": [NAN, 2.0]}
    found = lv.fit(user_models.StudentMixture(), cases.heavy_tails(), lv.EM(passes=20), fixed=fixed)
    delta = lv.fit(
        user_models.StudentMixture(), cases.heavy_tails(), lv.SVI(passes=1, guide=lv.Delta()), fixed=fixed, seed=1
    )
    assert float(found.point["loc"][1]) == 2.0 == float(delta.point["loc"][1])
    assert np.diff(found.history).min() >= -1e-9


@pytest.mark.parametrize(
    ("shape", "support", "fixed", "tied"),
    [
        ((2, 3), constraints.real, [[1, NAN, NAN], [NAN, 2, NAN]], None),
        ((4,), constraints.positive, [NAN, 2, NAN, NAN], [0, -1, 0, -1]),
        ((2, 2), constraints.interval(-1.0, 3.0), None, [[0, 1], [1, 0]]),
        ((3, 4), constraints.simplex, [[0.2, NAN, NAN, NAN], [NAN, 0, 0.5, NAN], [0.2, 0.3, 0.5, NAN]], None),
    ],
    ids=["real", "positive", "interval", "simplex"],
)
def test_the_restricted_space_has_an_inverse_and_the_right_volume(
    shape: tuple[int, ...], support: Any, fixed: Any, tied: Any
) -> None:
    event = len(shape) - support.event_dim
    found = restriction_of("x", torch.Size(shape), constraints.independent(support, event), fixed, tied)
    assert found is not None
    free = torch.randn(5, found.free, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value: Any = found(free)
    assert value.shape == (5, *shape)
    assert bool(support.check(value).all())
    torch.testing.assert_close(found.inv(value), free, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.project(value), value)
    # one free coordinate of the value for each unconstrained one: the determinant of their square Jacobian
    jacobian = torch.autograd.functional.jacobian(lambda u: found(u).flatten(), free[0])
    assert isinstance(jacobian, torch.Tensor)
    chosen: list[int] = []
    for row in range(len(jacobian)):
        if torch.linalg.matrix_rank(jacobian[[*chosen, row]]) > len(chosen):
            chosen.append(row)
    volume = found.log_abs_det_jacobian(free, value).reshape(5, -1).sum(-1)[0]
    assert float(torch.linalg.slogdet(jacobian[chosen]).logabsdet) == pytest.approx(float(volume), abs=1e-9)


# --- zeros of transitions --------------------------------------------------------------------------------------------


def left_right_data() -> tuple[np.ndarray, list[int]]:
    noise = np.random.default_rng(8)
    lengths = [12, 9, 15, 11, 10, 14]
    states = [np.searchsorted([0.3, 0.7], np.arange(n) / n) for n in lengths]
    chances = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]])
    return np.array([noise.choice(3, p=chances[z]) for path in states for z in path]), lengths


def test_a_left_right_chain_is_that_of_hmmlearn() -> None:
    hmm = pytest.importorskip("hmmlearn.hmm")
    codes, lengths = left_right_data()
    start = {
        "initial": np.array([1.0, 0.0, 0.0]),
        "transition": np.array([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]]),
        "probs": np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]]),
    }
    other = hmm.CategoricalHMM(3, n_iter=20, tol=-np.inf, init_params="", params="ste")
    other.startprob_, other.transmat_, other.emissionprob_ = start["initial"], start["transition"], start["probs"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other.fit(codes[:, None], lengths)
    rows = lv.Rows(codes, lengths=lengths)
    model = lv.models.HiddenMarkov(3, lv.emissions.Categorical(3))
    em = lv.EM(passes=20, stop=lv.Never())
    by_start = lv.fit(model, rows, em, start=start)
    by_fixing = lv.fit(model, rows, em, start=start, fixed={"transition": LEFT_RIGHT, "initial": [1, 0, 0]})
    for found in (by_start, by_fixing):
        np.testing.assert_allclose(found.point["transition"].numpy(), other.transmat_, atol=1e-9)
        np.testing.assert_allclose(found.point["probs"].numpy(), other.emissionprob_, atol=1e-9)
        assert same(found.point["transition"], LEFT_RIGHT)
    assert by_fixing.free_parameters == 2 + 6 and by_start.free_parameters == 2 + 6 + 6


@pytest.mark.parametrize("algorithm", [lv.SVI(passes=20), lv.SVI(passes=20, guide=lv.Delta())], ids=["field", "delta"])
def test_zeros_stay_under_gradients(algorithm: Any) -> None:
    codes, lengths = left_right_data()
    model = lv.models.HiddenMarkov(3, lv.emissions.Categorical(3))
    fixed = {"transition": LEFT_RIGHT, "initial": [1, 0, 0]}
    found = lv.fit(model, lv.Rows(codes, lengths=lengths), algorithm, fixed=fixed, progress=False)
    assert same(found.point["transition"], LEFT_RIGHT)
    assert np.isfinite(found.history).all()
    torch.testing.assert_close(found.point["transition"].sum(-1), torch.ones(3).double())


def test_zeros_stay_in_a_stationary_chain() -> None:
    fixed = np.array([[NAN, NAN, 0.0], [0.1, NAN, NAN], [NAN, 0.0, NAN]])
    model = lv.models.HiddenMarkov(3, lv.emissions.Poisson(1), initial="stationary")
    found = lv.fit(model, cases.count_sequences(), lv.EM(passes=4, stop=lv.Never()), fixed={"transition": fixed})
    assert same(found.point["transition"], fixed)
    assert "L-BFGS" in found.explain() and "3 of 9 entries fixed" in found.explain()
    assert np.diff(found.history).min() >= 0
    assert found.free_parameters == 3 + 3


# --- ordered and bounded ---------------------------------------------------------------------------------------------


class Ordered:
    """Two normals whose locations are in order, the first one's scale bounded."""

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat((2,), dist.constraints.ordered_vector))
        scale = pyro.sample("scale", lv.flat((2,), constraints.interval(0.1, 1.0)))
        weights = torch.full((2,), 0.5, dtype=rows.x.dtype)
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=rows.x)


def test_ordered_and_bounded_globals_stay_so() -> None:
    x = np.concatenate([cases.line(21), [9.0, -9.0]])
    algorithms: tuple[Any, ...] = (lv.EM(passes=30), lv.SVI(passes=100, guide=lv.Delta()))
    for algorithm in algorithms:
        found = lv.fit(Ordered(), x, algorithm, start={"loc": [-0.5, 0.5], "scale": [0.5, 0.5]}, progress=False)
        assert float(found.point["loc"].diff()) > 0
        scale = found.point["scale"]
        assert bool(((scale >= 0.1) & (scale <= 1.0)).all())
    with pytest.raises(ModelError, match="outside its support"):
        lv.fit(Ordered(), x, lv.EM(), start={"loc": [0.5, -0.5]})


@pytest.mark.parametrize("positive", [False, True])
def test_numbers_of_an_order_have_the_jacobian_of_autograd(positive: bool) -> None:
    transform = OrderedTransform(OrderedBy(1, positive))
    free = torch.linspace(-1.0, 1.5, 12, dtype=torch.float64).reshape(4, 3)[torch.tensor([2, 0, 3, 1])]
    value = transform(free)
    assert bool(transform.codomain.check(value))
    assert not bool(transform.codomain.check(value.flip(0)))
    torch.testing.assert_close(transform.inv(value), free)
    slopes: Any = torch.autograd.functional.jacobian(lambda v: transform(v.reshape(4, 3)).flatten(), free.flatten())
    torch.testing.assert_close(transform.log_abs_det_jacobian(free, value), torch.linalg.slogdet(slopes)[1])


@pytest.mark.parametrize("feature", [0, pytest.param(2, marks=pytest.mark.long)])
def test_components_in_the_order_of_a_feature_reach_the_same_optimum(feature: int) -> None:
    x = lv.datasets.iris().x
    model = lv.models.GaussianMixture(3, priors={"loc": lv.ordered((3, 4), feature=feature)})
    found = lv.fit(model, x, lv.EM(restarts=3), progress=False)
    free = lv.fit(lv.models.GaussianMixture(3), x, lv.EM(restarts=3), progress=False)
    assert bool((found.point["loc"][:, feature].diff() > 0).all())
    assert found.log_likelihood == pytest.approx(free.log_likelihood, abs=1e-5)
    moving = lv.fit(model, x, lv.SVI(passes=10), progress=False)
    assert bool((moving.point["loc"][:, feature].diff() > 0).all())


def test_what_a_model_proposes_outside_its_own_support_is_an_error() -> None:
    class Begins(Ordered):
        def initial(self, rows: lv.Rows, generator: torch.Generator) -> dict[str, torch.Tensor]:
            return {"loc": torch.tensor([-0.5, 0.5]), "scale": torch.tensor([0.5, 2.0])}

    with pytest.raises(ModelError, match="'scale' outside its support"):
        lv.fit(Begins(), cases.line(21), lv.EM())


def test_states_in_the_order_of_their_rates_and_scales_between_bounds() -> None:
    quakes = lv.datasets.earthquakes().x
    chain = lv.models.HiddenMarkov(2, lv.emissions.Poisson(), priors={"rate": lv.ordered((2, 1), positive=True)})
    for seed in range(3):
        found = lv.fit(chain, quakes, lv.EM(stop=lv.Tolerance(1e-10)), seed=seed, progress=False)
        assert found.point["rate"].flatten().tolist() == pytest.approx([15.4207, 26.0182], abs=2e-3)
    bounds = {"scale": lv.flat((2, 1), constraints.interval(0.1, 0.5))}
    model = lv.models.GaussianMixture(2, covariance="diag", priors=bounds)
    bounded = lv.fit(model, np.concatenate([cases.line(21), [9.0, -9.0]]), lv.EM(passes=20), progress=False)
    assert bool(((bounded.point["scale"] >= 0.1) & (bounded.point["scale"] <= 0.5)).all())
    with pytest.raises(SettingError, match="feature 2"):
        lv.ordered((3, 2), feature=2)


# --- kept elsewhere, and refused -------------------------------------------------------------------------------------


def test_a_saved_fit_keeps_what_is_fixed(tmp_path: Path) -> None:
    algorithms: tuple[Any, ...] = (lv.EM(passes=5), lv.SVI(passes=5))
    for algorithm in algorithms:
        found = partly(algorithm)
        found.save(tmp_path / type(algorithm).__name__, datatree=False)
        again = lv.load(tmp_path / type(algorithm).__name__)
        assert again.free_parameters == found.free_parameters
        assert all(torch.equal(again.point[name], value) for name, value in found.point.items())


def test_replicates_and_resumed_runs_keep_what_is_fixed() -> None:
    found = partly(lv.EM(passes=5))
    assert same(lv.bootstrap(found, replicates=3, workers=1, progress=False).draws["loc"], LOC)
    assert same(lv.fit(found.model, cases.blobs(3), lv.EM(passes=9), resume=found).point["loc"], LOC)
    fitter = lv.Fitter(lv.models.GaussianMixture(2, 2, "diag"), lv.EM(passes=3), fixed={"loc": LOC})
    assert same(fitter(cases.blobs(3)).point["loc"], LOC)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"fixed": {"weights": [0.9, 0.2]}}, ValueError, "sum to 1.1"),
        ({"fixed": {"weights": [1.2, NAN]}}, ValueError, "at most 1"),
        ({"fixed": {"weights": [0.3, 0.3]}}, ValueError, "exactly 1"),
        ({"fixed": {"scale": [[-1.0, NAN], [NAN, NAN]]}}, ValueError, "outside its support"),
        ({"fixed": {"loc": [0.0, NAN]}}, ValueError, r"shape \[2\]"),
        ({"fixed": {"mean": 0.0}}, KeyError, "'mean'"),
        ({"tied": {"mean": 0}}, KeyError, "'mean'"),
        ({"fixed": {"loc": "one"}}, TypeError, "no array of numbers"),
        ({"tied": {"scale": [[0.5, 0], [0, 0]]}}, TypeError, "whole numbers"),
        ({"tied": {"weights": [0, 0]}}, ValueError, "support"),
        ({"fixed": {"scale": [[1.0, NAN], [NAN, NAN]]}, "tied": {"scale": [[0, 0], [1, 1]]}}, ValueError, "both"),
    ],
)
def test_what_cannot_be_known_is_refused(settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        lv.fit(lv.models.GaussianMixture(2, 2, "diag"), cases.blobs(3), lv.EM(), **settings)


def test_single_entries_of_a_covariance_cannot_be_fixed() -> None:
    fixed = {"covariance": [[[1.0, NAN], [NAN, 1.0]], [[NAN, NAN], [NAN, NAN]]]}
    with pytest.raises(ValueError, match="independent"):
        lv.fit(lv.models.GaussianMixture(2, 2), cases.blobs(3), lv.EM(), fixed=fixed)


def test_a_built_in_model_takes_bounds_by_its_prior() -> None:
    priors: Any = {"loc": lv.flat((2, 2), constraints.interval(-1.0, 2.0))}
    model = lv.models.GaussianMixture(2, 2, "diag", priors=priors)
    found = lv.fit(model, cases.blobs(3), lv.EM(passes=15), start={"loc": [[0.0, 0.0], [1.5, -0.9]]})
    assert float(found.point["loc"].min()) >= -1.0 and float(found.point["loc"].max()) <= 2.0
    assert float(found.point["loc"].min()) < -0.95  # the bound is felt: the group's own mean lies below it
    assert "restricts the argument" in found.explain()
