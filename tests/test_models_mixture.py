"""Mixture and GaussianMixture: scikit-learn, an explicit-z model, starts, checks, conversions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as ScikitMixture

from latentvars.contract import LatentModel
from latentvars.distributions import flat
from latentvars.errors import DataError, KindError, MissingDataError, NameUnknownError, SettingError, ShapeError
from latentvars.inference import EM, fit
from latentvars.models import GaussianMixture, Mixture, emissions
from latentvars.program import Program
from latentvars.rows import Batch, Rows

IRIS = load_iris().data
FORMS = ("full", "tied", "diag", "spherical")


def scikit(form: str, x: np.ndarray = IRIS) -> ScikitMixture:
    return ScikitMixture(3, covariance_type=form, random_state=0).fit(x)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("columns", [4, 1])
@pytest.mark.parametrize("form", FORMS)
def test_the_score_of_a_converted_mixture_is_scikit_learns(form: str, columns: int) -> None:
    x = IRIS[:, :columns]
    fitted = scikit(form, x)
    model, point = GaussianMixture.from_sklearn(fitted)
    rows = Rows(x)
    score = Program.of(model, rows).score(point, rows.batch(dtype=torch.float64))
    np.testing.assert_allclose(score.rows.numpy(), fitted.score_samples(x), rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_degrees_of_freedom_are_scikit_learns(form: str) -> None:
    model, _ = GaussianMixture.from_sklearn(scikit(form))
    assert Program.of(model, Rows(IRIS)).space.size == scikit(form)._n_parameters()


@pytest.mark.parametrize("form", ["full", "tied"])
def test_mixtures_of_many_features_end_where_scikit_learns_do(form: str) -> None:
    """Starting values of covariances without a prior are drawn; with 27 features and more they were singular."""
    noise = np.random.default_rng(0)
    x = noise.normal(size=(2_000, 60)) @ (np.eye(60) + 0.1 * noise.normal(size=(60, 60)))
    x[:800] += 1.0
    theirs = ScikitMixture(2, covariance_type=form, tol=1e-10, max_iter=2_000, reg_covar=0, random_state=0).fit(x)
    _, point = GaussianMixture.from_sklearn(theirs)
    found = fit(GaussianMixture(2, covariance=form), x, EM(), start=point, progress=False)
    assert found.log_likelihood / len(x) == pytest.approx(theirs.score(x), abs=1e-7)
    drawn = flat((3, 200, 200), constraints.positive_definite).sample()
    assert float(torch.linalg.cond(drawn).max()) < 1e4


@pytest.mark.parametrize("form", FORMS)
def test_a_mixture_goes_to_scikit_learn_and_is_a_working_estimator_there(form: str) -> None:
    fitted = scikit(form)
    model, point = GaussianMixture.from_sklearn(fitted)
    back = model.to_sklearn(point)
    np.testing.assert_allclose(back.score_samples(IRIS), fitted.score_samples(IRIS), rtol=1e-9)
    np.testing.assert_allclose(back.predict_proba(IRIS), fitted.predict_proba(IRIS), atol=1e-9)
    np.testing.assert_allclose(back.precisions_, fitted.precisions_, rtol=1e-7)
    assert back.bic(IRIS) == pytest.approx(fitted.bic(IRIS))
    assert back.sample(5)[0].shape == (5, 4)
    with pytest.raises(ValueError, match="features"):
        back.predict(IRIS[:, :2])
    again, same = GaussianMixture.from_sklearn(back)
    assert again == model and all(torch.allclose(same[name], point[name], rtol=1e-12) for name in point)


def test_conversion_copies_and_refuses_what_is_no_fitted_mixture() -> None:
    model, point = GaussianMixture.from_sklearn(scikit("full"))
    back = model.to_sklearn(point)
    back.means_[:] = 0
    assert bool((point["loc"] != 0).all())
    for wrong in (ScikitMixture(2), object()):
        with pytest.raises(KindError):
            GaussianMixture.from_sklearn(wrong)
    with pytest.raises(NameUnknownError, match="'loc'"):
        model.to_sklearn({"weights": point["weights"]})


class ExplicitMixture:
    """The same mixture as a user would write it in Pyro, with z enumerated."""

    def model(self, rows: Batch) -> None:
        weights = pyro.sample("weights", flat((3,), constraints.simplex))
        loc = pyro.sample("loc", flat((3, 4)))
        covariance = pyro.sample("covariance", flat((3, 4, 4), constraints.positive_definite))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.MultivariateNormal(loc[z], covariance[z]), obs=rows.x)


def test_the_explicit_model_has_the_same_score_gradient_and_posterior() -> None:
    rows = Rows(IRIS)
    point = GaussianMixture(3).initial(rows, generator())
    results = []
    for model in (ExplicitMixture(), GaussianMixture(3)):
        program = Program.of(model, rows)
        free = program.space.unconstrain(point).requires_grad_()
        batch = rows.batch(dtype=torch.float64)
        score = program.score(program.space.constrain(free)[0], batch)
        (gradient,) = torch.autograd.grad(score.rows.sum(), free)
        results.append((score.rows.detach(), gradient, program.beliefs(point, batch)["z"].probs))
    for explicit, collapsed in zip(*results, strict=True):
        torch.testing.assert_close(explicit, collapsed, rtol=1e-10, atol=1e-10)


def test_the_model_is_frozen_fits_the_contract_and_takes_its_features_from_the_data() -> None:
    model = GaussianMixture(2)
    assert isinstance(model, LatentModel) and model == GaussianMixture(components=2, covariance="full")
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.components = 3  # type: ignore[misc]
    assert Program.of(model, Rows(IRIS)).space["loc"].shape == (2, 4)
    assert model.dims()["covariance"] == ("component", "feature", "feature_bis")
    names = {"feature": ["x0", "x1", "x2", "x3"], "feature_bis": ["x0", "x1", "x2", "x3"]}
    assert model.coords(Rows(IRIS)) == {"component": [0, 1]} | names


def test_named_columns_are_read_by_their_only_name_or_as_x() -> None:
    for data in ({"length": IRIS}, {"length": IRIS[:, 0], "x": IRIS}):
        rows = Rows(data)
        model = GaussianMixture(2)
        point = model.initial(rows, generator())
        plain = GaussianMixture(2).initial(Rows(IRIS), generator())
        assert all(torch.equal(point[name], plain[name]) for name in plain)
        assert Program.of(model, rows).score(point, rows.batch()).rows.shape == (150,)
    with pytest.raises(NameUnknownError, match="'x'"):
        GaussianMixture(2).prepare(Rows({"a": IRIS, "b": IRIS}))


def test_a_start_finds_groups_that_lie_far_apart() -> None:
    centres = torch.tensor([[0.0, 0.0], [500.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    label = torch.arange(300) % 3
    x = centres[label] + 0.1 * torch.randn(300, 2, generator=generator(), dtype=torch.float64)
    for seed in range(5):
        loc = GaussianMixture(3).initial(Rows(x), generator(seed))["loc"]
        distance = ((loc[:, None] - centres) / torch.tensor([500.0, 9.0])).norm(dim=-1)
        assert sorted(distance.argmin(1).tolist()) == [0, 1, 2] and float(distance.min(1).values.max()) < 0.05


def test_rows_of_weight_zero_do_not_reach_the_start() -> None:
    x, weights = np.concatenate([IRIS, 1e6 + IRIS]), np.repeat([1.0, 0.0], 150)
    model = GaussianMixture(3, covariance="diag")
    weighted = model.initial(Rows(x, weights=weights), generator())
    plain = model.initial(Rows(IRIS), generator())
    assert all(torch.allclose(weighted[name], plain[name], rtol=1e-9) for name in plain)
    scaled = model.initial(Rows(IRIS, weights=np.full(150, 7.0)), generator())
    assert all(torch.allclose(scaled[name], plain[name], rtol=1e-9) for name in plain)


def test_a_start_draws_a_sample_of_many_rows_and_leaves_the_global_generator_alone() -> None:
    x = torch.randn(30_000, 2, generator=generator())
    before = torch.get_rng_state()
    point = Mixture(4, emissions.Gaussian(2, "diag")).initial(Rows(x), generator())
    assert torch.equal(torch.get_rng_state(), before)
    assert float(point["weights"].sum()) == pytest.approx(1, abs=1e-12)


def test_a_start_is_a_better_place_than_one_component() -> None:
    rows = Rows(IRIS)
    model = GaussianMixture(3)
    program = Program.of(model, rows)
    starts = [float(program.score(model.initial(rows, generator(s)), rows.batch()).rows.sum()) for s in range(10)]
    single = scikit_log_likelihood(1)
    assert np.median(starts) > single


def scikit_log_likelihood(components: int) -> float:
    return float(ScikitMixture(components, random_state=0).fit(IRIS).score_samples(IRIS).sum())


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (Rows(IRIS[:2]), SettingError, "3 components for 2 rows"),
        (Rows(IRIS, weights=[1.0] + [0.0] * 149), SettingError, "3 components for 1 rows"),
        (Rows(IRIS, lengths=[50, 100]), ShapeError, "2 sequences"),
        (Rows(np.where(np.arange(4) == 2, np.nan, IRIS)), MissingDataError, "feature 'x2' missing in all 150 obs"),
        (Rows(np.where(np.arange(4) == 2, 1.0, IRIS)), DataError, "constant feature 'x2'"),
        (Rows(IRIS[:, :3]), ShapeError, "3 features in the data"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(rows: Rows, error: type[Exception], message: str) -> None:
    digest = rows.digest()
    model = GaussianMixture(3, 4)
    with pytest.raises(error, match=message):
        model.check(rows)
    with pytest.raises(error, match=message):
        model.initial(rows, generator())
    assert rows.digest() == digest


def test_a_single_row_can_be_read_though_not_fitted() -> None:
    rows = Rows(IRIS[:1])
    assert GaussianMixture(3, 4).prepare(rows) is rows


def test_settings_out_of_range_are_refused() -> None:
    for arguments in ((0,), (2.5,), (2, 0), (2, 4, "banded")):
        with pytest.raises(SettingError):
            GaussianMixture(*arguments)
    with pytest.raises(NameUnknownError, match="weights, loc, covariance"):
        GaussianMixture(2, priors={"scale": dist.Gamma(1.0, 1.0)})
