"""Duplicate rows, constant columns, more components than distinct rows, empty components: finite, or an error that says
which component and which rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from pyro.distributions import constraints
from sklearn.datasets import load_iris

import latentvars as lv
from latentvars.errors import DataError, NumericalError, SettingError

E = lv.emissions
IRIS: Any = load_iris(return_X_y=True)[0]
EMISSIONS: dict[str, Any] = {
    **{form: E.Gaussian(covariance=form) for form in ("full", "tied", "diag", "spherical")},
    "poisson": E.Poisson(2),
    "categorical": E.Categorical(3),
    "bernoulli": E.Bernoulli(2),
    "product": E.Product(E.Gaussian(1), E.Bernoulli(1)),
    "regression-normal": E.Regression("normal"),
    "regression-poisson": E.Regression("poisson"),
    "regression-bernoulli": E.Regression("bernoulli"),
}
SAME = 12  # rows that are equal


def spread(name: str) -> np.ndarray:
    """Rows that differ, in the support of an emission."""
    noise = np.random.default_rng(3)
    if name == "categorical":
        return noise.integers(0, 3, size=25)
    if name in ("poisson", "regression-poisson"):
        x = noise.poisson(6.0, size=(25, 2)).astype(float)
    elif name in ("bernoulli", "regression-bernoulli"):
        x = (noise.random((25, 2)) < 0.5).astype(float)
    else:
        x = noise.normal(size=(25, 2)) + 4.0
    if name == "product":
        x[:, 1] = noise.random(25) < 0.5
    return x[:, 0] if name.startswith("regression") else x


def rows_of(name: str, x: np.ndarray) -> lv.Rows:
    if not name.startswith("regression"):
        return lv.Rows(x)
    slope = np.linspace(-1.0, 1.0, len(x))
    return lv.Rows({"x": x, "inputs": np.column_stack([np.ones(len(x)), slope])})


def duplicates(name: str) -> lv.Rows:
    x = spread(name)
    return rows_of(name, np.concatenate([np.zeros((SAME, *x.shape[1:])), x]))


def few_distinct(name: str) -> lv.Rows:
    x = spread(name)
    other = next(row for row in x if not np.array_equal(row, x[0]))
    return rows_of(name, np.stack([x[0], other] * 9))


DATA = {"duplicate rows": duplicates, "two distinct rows": few_distinct}


def model_of(kind: str, name: str, components: int = 4) -> Any:
    return (lv.models.Mixture if kind == "mixture" else lv.models.HiddenMarkov)(components, EMISSIONS[name])


def check_finite(fit: lv.Fit) -> None:
    assert all(bool(value.isfinite().all()) for value in fit.point.values())
    assert np.isfinite(fit.history).all() and np.isfinite(fit.log_likelihood)
    assert (np.diff(fit.history) > -1e-7).all()
    assert bool(fit.latent().mean("z").isfinite().all())


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", ["mixture", "chain"])
@pytest.mark.parametrize("name", EMISSIONS)
def test_degenerate_data_give_finite_fits(name: str, kind: str, data: str) -> None:
    numeric = name.startswith("regression")  # each M-step by L-BFGS
    model = model_of(kind, name, 3 if numeric else 4)
    check_finite(lv.fit(model, DATA[data](name), lv.EM(passes=4 if numeric else 20), progress=False))


@pytest.mark.parametrize("kind", ["mixture", "chain"])
@pytest.mark.parametrize("name", ["full", "diag", "spherical", "product"])
def test_a_component_on_equal_rows_is_named(name: str, kind: str) -> None:
    """With two components one of them takes the equal rows: a spread of zero, held up by the floor alone."""
    rows = duplicates(name)
    labels = (np.arange(len(rows)) < SAME).astype(int)
    start = lv.Memberships(labels)
    fit = lv.fit(model_of(kind, name, 2), rows, lv.EM(passes=60), start=start, progress=False)
    check_finite(fit)
    assert fit.collapsed and all("[1" in element for element in fit.collapsed)
    assert "collapsed onto a few rows" in str(fit)
    with pytest.raises(NumericalError, match=r"\[1.* has collapsed onto row") as caught:
        lv.fit(model_of(kind, name, 2), rows, lv.EM(passes=60, degenerate=lv.Refuse()), start=start, progress=False)
    if kind == "mixture" and name in ("full", "diag", "spherical"):
        assert "[0, 1, 2, 3, 4, ...] (12 rows)" in str(caught.value)
    assert caught.value.fit.collapsed == fit.collapsed  # type: ignore[attr-defined]


def test_a_floor_shared_by_features_of_other_units_is_seen() -> None:
    """One scale for two features whose variances differ by 10,000: it stands on the mean of their floors."""
    x = np.concatenate([np.zeros((SAME, 2)), np.random.default_rng(0).normal(size=(25, 2)) + 4]) * [1.0, 100.0]
    start = lv.Memberships((np.arange(len(x)) < SAME).astype(int))
    fit = lv.fit(lv.models.GaussianMixture(2, covariance="spherical"), x, start=start, progress=False)
    assert fit.collapsed == ("scale[1]",)
    floor = 1e-6 * x.var(0).mean()
    assert float(fit.point["scale"][1]) ** 2 == pytest.approx(floor, rel=1e-6)


def test_the_floor_of_a_regression_is_a_share_of_the_variance_of_the_response() -> None:
    slope = np.linspace(-1.0, 1.0, 40)
    y = np.concatenate([2.0 + slope[:20], np.random.default_rng(1).normal(size=20)])
    rows = lv.Rows({"x": y, "inputs": np.column_stack([np.ones(40), slope])})
    start = lv.Memberships(np.arange(40) // 20)
    model = lv.models.Mixture(2, E.Regression("normal"))
    for floor in (1e-6, 1e-3):
        fit = lv.fit(model, rows, lv.EM(variance_floor=floor), start=start, progress=False)
        assert fit.collapsed == ("scale[0, 0]",)
        assert float(fit.point["scale"][0, 0]) ** 2 == pytest.approx(floor * y.var(), rel=1e-6)
        np.testing.assert_allclose(fit.point["coefficients"][0, :, 0], [2.0, 1.0], atol=0.05)


# --- a user's mixture ------------------------------------------------------------------------------------------------


class Users:
    """Three components of two features, written with an explicit z."""

    def model(self, rows: lv.Batch) -> None:
        weights = pyro.sample("weights", lv.flat((3,), constraints.simplex))
        loc = pyro.sample("loc", lv.flat((3, 2)))
        scale = pyro.sample("scale", lv.flat((3, 2), constraints.positive))
        with rows.plate():
            z = pyro.sample("z", dist.Categorical(weights))
            law: Any = dist.Normal(loc[z], scale[z])
            pyro.sample("x", law.to_event(1), obs=rows.x)


def plane(seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed)
    return np.concatenate([np.zeros((SAME, 2)), noise.normal(size=(15, 2)) + 4, noise.normal(size=(15, 2)) - 6])


GROUPS = lv.Memberships(np.repeat([0, 1, 2], [SAME, 15, 15]))


def test_a_users_mixture_collapses_to_a_named_floor() -> None:
    fit = lv.fit(Users(), plane(), start=GROUPS, progress=False)
    check_finite(fit)
    assert fit.collapsed == ("scale[0, 0]", "scale[0, 1]")
    with pytest.raises(
        NumericalError, match=r"scale\[0, 0\] has collapsed onto rows \[0, 1, 2, 3, 4, ...\] \(12 rows\)"
    ):
        lv.fit(Users(), plane(), lv.EM(degenerate=lv.Refuse()), start=GROUPS, progress=False)


@pytest.mark.parametrize("value", [0.0, 3.0, 0.1])
def test_a_constant_column_is_named_by_built_in_models_and_finite_in_a_users(value: float) -> None:
    x = plane()
    x[:, 1] = value
    with pytest.raises(DataError, match="constant feature"):
        lv.fit(lv.models.GaussianMixture(3), x, progress=False)
    fit = lv.fit(Users(), x, start=GROUPS, progress=False)
    check_finite(fit)
    assert {"scale[0, 1]", "scale[1, 1]", "scale[2, 1]"} <= set(fit.collapsed)


def test_an_empty_component_is_named_kept_or_refused() -> None:
    x = plane()
    start = {"weights": [0.5, 0.5, 0.0], "loc": [[0.0, 0.0], [4.0, 4.0], [50.0, 50.0]], "scale": np.full((3, 2), 5.0)}
    for model in (Users(), lv.models.GaussianMixture(3, covariance="diag")):
        fit = lv.fit(model, x, lv.EM(variance_floor=0.05), start=start, progress=False)
        check_finite(fit)
        assert fit.empty == ("z[2]",) and "empty: z[2]" in str(fit)
        with pytest.raises(NumericalError, match=r"z\[2\] is empty: no row belongs to it"):
            refusing = lv.EM(variance_floor=0.05, degenerate=lv.Refuse())
            lv.fit(model, x, refusing, start=start, progress=False)


def test_an_empty_state_is_named() -> None:
    x = np.random.default_rng(0).poisson(5.0, size=40)
    start = {"initial": [0.5, 0.5, 0.0], "transition": [[0.5, 0.5, 0.0]] * 3, "rate": [[4.0], [6.0], [9.0]]}
    fit = lv.fit(lv.models.HiddenMarkov(3, E.Poisson()), x, lv.EM(passes=20), start=start, progress=False)
    check_finite(fit)
    assert fit.empty == ("z[2]",)


# --- rules -----------------------------------------------------------------------------------------------------------


def test_restart_begins_anew_until_an_end_is_sound() -> None:
    x = np.concatenate([plane()[SAME:], np.random.default_rng(5).normal(size=(20, 2))])
    near = {"loc": [[0.0, 0.0], [4.0, 4.0], [-6.0, -6.0]], "scale": np.full((3, 2), 1.0), "weights": [0.2, 0.4, 0.4]}
    spike = {**near, "loc": [x[0], [4.0, 4.0], [-3.0, -3.0]], "scale": [[1e-2, 1e-2], [3.0, 3.0], [4.0, 4.0]]}
    model = lv.models.GaussianMixture(3, covariance="diag")
    kept = lv.fit(model, x, lv.EM(), start=spike, progress=False)
    assert kept.collapsed
    fit = lv.fit(model, x, lv.EM(degenerate=lv.Restart()), start=spike, progress=False)
    assert not fit.collapsed and not fit.empty
    assert fit.log_likelihood == pytest.approx(lv.fit(model, x, start=near, progress=False).log_likelihood, abs=1e-3)
    every = np.repeat(x[:2], 9, axis=0)
    with pytest.raises(NumericalError, match="a degenerate fit"):
        lv.fit(model, every, lv.EM(degenerate=lv.Restart(2)), progress=False)


def test_of_several_starts_degenerate_ones_failed_where_they_are_refused() -> None:
    many = lv.fit(lv.models.GaussianMixture(4), IRIS, lv.EM(restarts=8, degenerate=lv.Refuse()), seed=3)
    assert many.optima is not None and not many.collapsed and not many.optima.spurious
    with pytest.raises(NumericalError, match="a degenerate fit: "):
        refusing = lv.EM(restarts=3, degenerate=lv.Refuse())
        lv.fit(Users(), np.repeat(plane()[[0, 20]], 9, axis=0), refusing, start=lv.KMeansPlusPlus(), progress=False)


def test_without_a_floor_an_end_is_finite_or_names_the_component_and_its_rows() -> None:
    named = 0
    for model in (lv.models.GaussianMixture(3), Users(), lv.models.GaussianMixture(3, covariance="diag")):
        try:
            check_finite(lv.fit(model, plane(), lv.EM(variance_floor=0.0), start=GROUPS, progress=False))
        except NumericalError as error:
            assert "[0" in str(error) and "collapsed onto rows [0, 1, 2, 3, 4, ...] (12 rows)" in str(error)
            named += 1
    assert named


def test_a_rule_says_how_often() -> None:
    with pytest.raises(SettingError, match="times=0"):
        lv.Restart(0)


@pytest.mark.parametrize("guide", [lv.Delta(), lv.MeanField()], ids=["point", "mean field"])
def test_svi_on_equal_rows_is_finite_or_an_error(guide: Any) -> None:
    try:
        fit = lv.fit(lv.models.GaussianMixture(3), plane(), lv.SVI(passes=150, guide=guide), progress=False)
    except NumericalError as error:
        assert "do:" in str(error)
    else:
        assert all(bool(value.isfinite().all()) for value in fit.point.values())
        assert np.isfinite(fit.log_likelihood)
