"""Inputs that drive weights, components, first states and moves: against statsmodels, scipy and enumeration."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import statsmodels.api as sm
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import norm, poisson
from torch import Tensor

import latentvars as lv
from latentvars.errors import DataError, MissingDataError, NameUnknownError, SettingError, ShapeError
from latentvars.models.inputs import categories

EXACTLY = lv.EM(passes=400, stop=lv.Tolerance(1e-12))


@functools.cache
def lines(size: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Two lines that cross, with weights that depend on the input: x ``[N]``, inputs ``[N, 2]``."""
    noise = np.random.default_rng(0)
    u = noise.normal(size=size)
    first = noise.random(size) < 1 / (1 + np.exp(-(0.3 + 1.2 * u)))
    x = np.where(first, 1.0 + 2.0 * u, -0.5 - 1.5 * u) + 0.4 * noise.normal(size=size)
    return x, np.column_stack([np.ones(size), u])


def line_rows() -> lv.Rows:
    x, inputs = lines()
    return lv.Rows({"x": x, "inputs": inputs})


@functools.cache
def moving_chain() -> lv.Rows:
    """Sequences whose moves depend on an input."""
    noise = np.random.default_rng(3)
    x, inputs, lengths = [], [], [9, 4, 1, 7, 2]
    for steps in lengths:
        u, z = noise.normal(size=steps), [int(noise.random() < 0.5)]
        for t in range(steps - 1):
            z.append(int(noise.random() < 1 / (1 + np.exp(1 - 2 * z[-1] - 1.5 * u[t]))))
        x.append(0.6 * noise.normal(size=steps) + 2.0 * np.array(z))
        inputs.append(np.column_stack([np.ones(steps), u]))
    return lv.Rows({"x": np.concatenate(x), "inputs": np.concatenate(inputs)}, lengths=lengths)


def per_row(found: lv.Fit) -> float:
    """Largest entry of the gradient of the log-likelihood at the point, nats per row and unit."""
    space, batch = found.program.space, found.rows.batch(dtype=torch.float64)
    free = space.unconstrain(found.point).requires_grad_()
    score = found.program.score(space.constrain(free)[0], batch)
    return float(torch.autograd.grad((score.rows * batch.weights).sum(), free)[0].abs().max()) / len(found.rows)


def assert_climbs(found: lv.Fit) -> None:
    assert np.diff(found.history).min() >= -1e-10 * abs(found.history[-1])


# --- regressions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("response", ["normal", "poisson", "bernoulli"])
def test_one_component_is_the_generalised_linear_model(response: str) -> None:
    noise = np.random.default_rng(1)
    inputs = np.column_stack([np.ones(80), noise.normal(size=(80, 2))])
    eta = inputs @ [0.4, 0.5, -0.3]
    x, family = {
        "normal": (eta + 0.7 * noise.normal(size=80), sm.families.Gaussian()),
        "poisson": (noise.poisson(np.exp(eta)), sm.families.Poisson()),
        "bernoulli": ((noise.random(80) < 1 / (1 + np.exp(-eta))).astype(float), sm.families.Binomial()),
    }[response]
    weights = noise.integers(1, 4, 80)
    found = lv.fit(
        lv.models.Mixture(1, lv.emissions.Regression(response)),
        lv.Rows({"x": x, "inputs": inputs}, weights=weights),
        EXACTLY,
        progress=False,
    )
    theirs = sm.GLM(np.repeat(x, weights), np.repeat(inputs, weights, 0), family).fit(tol=1e-13)
    np.testing.assert_allclose(found.point["coefficients"][0, :, 0], theirs.params, atol=2e-6)
    expected = theirs.llf
    if response == "normal":
        expected = sm.OLS(np.repeat(x, weights), np.repeat(inputs, weights, 0)).fit().llf
    assert found.log_likelihood == pytest.approx(expected, abs=1e-7)


def test_two_columns_are_two_regressions_and_a_product_of_them() -> None:
    x, inputs = lines()
    both = np.column_stack([x, np.random.default_rng(2).poisson(np.exp(0.3 * inputs[:, 1]))])
    part = lv.emissions.Regression
    product = lv.emissions.Product(part("normal", 1), part("poisson", 1))
    rows = lv.Rows({"x": both, "inputs": inputs})
    found = lv.fit(lv.models.Mixture(1, product), rows, EXACTLY, progress=False)
    ols = sm.OLS(x, inputs).fit()
    glm = sm.GLM(both[:, 1], inputs, sm.families.Poisson()).fit(tol=1e-13)
    np.testing.assert_allclose(found.point["coefficients_0"][0, :, 0], ols.params, atol=2e-6)
    np.testing.assert_allclose(found.point["coefficients_1"][0, :, 0], glm.params, atol=2e-6)
    assert found.log_likelihood == pytest.approx(ols.llf + glm.llf, abs=1e-7)
    tree = found.to_datatree(2)
    assert tree["point_estimate"]["coefficients_0"].dims[-2:] == ("inputs_feature_0", "feature_0")
    assert list(tree["point_estimate"]["inputs_feature_1"].values) == ["inputs0", "inputs1"]


def hand_written(free: np.ndarray, concomitant: bool) -> float:
    """−log likelihood of two lines: weights, coefficients, log scales."""
    x, inputs = lines()
    logits = inputs @ free[:2] if concomitant else np.full(len(x), free[0])
    log_weights = log_softmax(np.column_stack([np.zeros(len(x)), logits]), 1)
    density = norm.logpdf(x[:, None], inputs @ free[2:6].reshape(2, 2).T, np.exp(free[6:8]))
    return -logsumexp(log_weights + density, axis=1).sum()


@pytest.mark.parametrize("concomitant", [False, True])
def test_two_regressions_are_the_direct_maximum(concomitant: bool) -> None:
    by = "inputs" if concomitant else None
    model = lv.models.Mixture(2, lv.emissions.Regression(), weights_by=by)
    found = lv.fit(model, line_rows(), EXACTLY, progress=False)
    assert_climbs(found)
    assert per_row(found) < 1e-5
    point = {name: value.numpy() for name, value in found.point.items()}
    logits = point["weight_coefficients"][:, 0] if concomitant else [np.log(np.divide(*point["weights"][::-1])), 0.0]
    free = np.concatenate([logits, point["coefficients"].ravel(), np.log(point["scale"]).ravel()])
    assert hand_written(free, concomitant) == pytest.approx(-found.log_likelihood, rel=1e-12)
    top = minimize(hand_written, free + 0.05, (concomitant,), "BFGS", options={"gtol": 1e-7})
    assert found.log_likelihood == pytest.approx(-top.fun, abs=1e-6)
    kept = slice(0, 8) if concomitant else slice(2, 8)
    np.testing.assert_allclose(free[kept], top.x[kept], atol=1e-3)


def test_weights_by_inputs_are_the_direct_maximum_for_counts() -> None:
    noise = np.random.default_rng(5)
    u = noise.normal(size=100)
    inputs = np.column_stack([np.ones(100), u])
    x = noise.poisson(np.where(noise.random(100) < 1 / (1 + np.exp(-1.5 * u)), 9.0, 2.0))
    rows = lv.Rows({"x": x, "inputs": inputs})
    found = lv.fit(lv.models.Mixture(2, lv.emissions.Poisson(), weights_by="inputs"), rows, EXACTLY, progress=False)
    assert_climbs(found)

    def negative(free: np.ndarray) -> float:
        log_weights = log_softmax(np.column_stack([np.zeros(100), inputs @ free[:2]]), 1)
        return -logsumexp(log_weights + poisson.logpmf(x[:, None], np.exp(free[2:])), axis=1).sum()

    start = np.concatenate([found.point["weight_coefficients"][:, 0], found.point["rate"][:, 0].log()])
    top = minimize(negative, start + 0.1, method="BFGS", options={"gtol": 1e-7})
    assert found.log_likelihood == pytest.approx(-top.fun, abs=1e-6)
    np.testing.assert_allclose(start, top.x, atol=1e-3)


def test_known_classes_make_the_weights_a_multinomial_logit() -> None:
    noise = np.random.default_rng(6)
    inputs = np.column_stack([np.ones(150), noise.normal(size=150)])
    chance = softmax(inputs @ np.array([[0.0, 0.5, -0.4], [0.0, 1.0, -0.8]]), 1)
    label = np.array([noise.choice(3, p=p) for p in chance])
    x = 100.0 * label + noise.normal(size=150)
    loc = torch.tensor([[0.0], [100.0], [200.0]], dtype=torch.float64)
    found = lv.fit(
        lv.models.Mixture(3, lv.emissions.Gaussian(covariance="spherical"), weights_by="inputs"),
        lv.Rows({"x": x, "inputs": inputs}),
        EXACTLY,
        start={"loc": loc},
        progress=False,
    )
    theirs = sm.MNLogit(label, inputs).fit(disp=0, tol=1e-12)
    np.testing.assert_allclose(found.point["weight_coefficients"], np.asarray(theirs.params), atol=1e-4)
    assert found.latent().mode("z").tolist() == label.tolist()


def test_new_rows_are_read_with_their_own_inputs() -> None:
    model = lv.models.Mixture(2, lv.emissions.Regression(), weights_by="inputs")
    found = lv.fit(model, line_rows(), lv.EM(passes=30), progress=False)
    point = {name: value.numpy() for name, value in found.point.items()}
    x, inputs = np.array([0.5, 0.5]), np.array([[1.0, -1.0], [1.0, 1.5]])
    new = lv.Rows({"x": x, "inputs": inputs})
    joint = log_softmax(np.column_stack([np.zeros(2), inputs @ point["weight_coefficients"][:, 0]]), 1)
    joint = joint + norm.logpdf(x[:, None], inputs @ point["coefficients"][..., 0].T, point["scale"][:, 0])
    np.testing.assert_allclose(found.score_rows(new), logsumexp(joint, 1), rtol=1e-12)
    np.testing.assert_allclose(found.latent(new).mean("z"), softmax(joint, 1), rtol=1e-10)
    errors = found.standard_errors().errors
    assert errors["weight_coefficients"].shape == (2, 1) and bool((errors["coefficients"] > 0).all())
    assert "weight_coefficients[inputs1, 1]" in str(found.summary().index.tolist())


def test_a_gap_in_x_gives_the_weights_of_its_inputs() -> None:
    x, inputs = lines()
    model = lv.models.Mixture(2, lv.emissions.Regression(), weights_by="inputs")
    found = lv.fit(model, lv.Rows({"x": np.where(np.arange(120) == 7, np.nan, x), "inputs": inputs}), lv.EM(passes=5))
    assert_climbs(found)
    weights = categories(torch.tensor(inputs), found.point["weight_coefficients"])
    torch.testing.assert_close(found.latent().mean("z")[7], weights[7], rtol=0, atol=1e-12)
    assert float(found.row_log_likelihood[7]) == pytest.approx(0.0, abs=1e-12)
    means = torch.tensor(inputs[7]) @ found.point["coefficients"][..., 0].mT
    assert float(found.impute()["x"][7]) == pytest.approx(float(weights[7] @ means), rel=1e-10)


def test_a_formula_gives_the_fit_of_its_matrix() -> None:
    x, inputs = lines()
    frame = pd.DataFrame({"u": inputs[:, 1]})
    design = lv.Design("~ u", frame)
    rows = lv.Rows({"x": x, "inputs": design.frame})
    model = lv.models.Mixture(2, lv.emissions.Regression(), weights_by="inputs")
    ours, theirs = (lv.fit(model, data, lv.EM(passes=4), progress=False) for data in (rows, line_rows()))
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
    assert list(ours.to_datatree(2)["point_estimate"]["inputs_feature"].values) == ["Intercept", "u"]
    new = lv.Rows({"x": x[:3], "inputs": design.of(frame[:3]).frame})
    torch.testing.assert_close(ours.score_rows(new), ours.score_rows()[:3], rtol=0, atol=1e-12)


# --- chains -----------------------------------------------------------------------------------------------------------


def by_enumeration(rows: lv.Rows, point: dict[str, Tensor]) -> list[float]:
    """log p of each sequence: inputs drive first states, moves and emissions; all paths summed."""
    found, at = [], 0
    assert rows.lengths is not None
    for steps in rows.lengths.tolist():
        x, u = rows["x"][at : at + steps].numpy(), rows["inputs"][at : at + steps].numpy()
        at += steps
        first = log_softmax(np.concatenate([[0.0], u[0] @ point["initial_coefficients"].numpy()]))
        moves = [
            [log_softmax(np.concatenate([[0.0], u[t] @ beta])) for beta in point["transition_coefficients"].numpy()]
            for t in range(steps - 1)
        ]
        emitted = norm.logpdf(x[:, None], u @ point["coefficients"][..., 0].numpy().T, point["scale"][:, 0].numpy())
        joint = [
            first[path[0]]
            + sum(emitted[t, k] for t, k in enumerate(path))
            + sum(moves[t][path[t]][path[t + 1]] for t in range(steps - 1))
            for path in itertools.product(range(emitted.shape[1]), repeat=steps)
        ]
        found.append(float(logsumexp(joint)))
    return found


def random_point(states: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(8)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "initial_coefficients": normal(2, states - 1),
        "transition_coefficients": normal(states, 2, states - 1),
        "coefficients": normal(states, 2, 1),
        "scale": normal(states, 1).exp(),
    }


def test_a_chain_driven_by_inputs_is_the_sum_over_all_paths() -> None:
    model = lv.models.HiddenMarkov(3, lv.emissions.Regression(), initial_by="inputs", transition_by="inputs")
    rows = moving_chain().subset([1, 2, 3, 4])
    point = random_point(3)
    found = lv.from_point(model, rows, point)
    np.testing.assert_allclose(found.score_rows(), by_enumeration(rows, point), rtol=1e-12)
    again = lv.from_point(model, rows.subset([3, 0]), point)
    np.testing.assert_allclose(again.score_rows(), found.score_rows()[[3, 0]], rtol=1e-12)


def test_equal_inputs_make_the_plain_chain() -> None:
    rows = moving_chain()
    ones = lv.Rows({"x": rows["x"], "inputs": np.ones((rows.steps, 1))}, lengths=rows.lengths)
    emission = lv.emissions.Gaussian(covariance="spherical")
    driven = lv.models.HiddenMarkov(2, emission, initial_by="inputs", transition_by="inputs")
    fits: list[Any] = [
        lv.fit(m, ones, lv.EM(passes=12, stop=lv.Never()), progress=False)
        for m in (driven, lv.models.HiddenMarkov(2, emission))
    ]
    np.testing.assert_allclose(fits[0].history, fits[1].history, atol=1e-6)
    transition = categories(torch.ones(1, dtype=torch.float64), fits[0].point["transition_coefficients"])
    torch.testing.assert_close(transition, fits[1].point["transition"], rtol=0, atol=1e-3)


def test_em_of_a_driven_chain_climbs_to_a_stationary_point() -> None:
    model = lv.models.HiddenMarkov(2, lv.emissions.Regression(), transition_by="inputs", priors=PRIORS)
    found = lv.fit(model, moving_chain(), lv.EM(passes=60, stop=lv.Tolerance(1e-10)), progress=False)
    assert_climbs(found)
    space, batch = found.program.space, found.rows.batch(dtype=torch.float64)
    free = space.unconstrain(found.point).requires_grad_()
    score = found.program.score(space.constrain(free)[0], batch)
    (gradient,) = torch.autograd.grad(score.prior + score.rows.sum(), free)
    assert float(gradient.abs().max()) < 5e-3
    assert found.latent().mode("z").shape == (5, 9)
    assert torch.isfinite(found.impute(draws=2)["x"]).all()
    assert found.to_datatree(3)["posterior_predictive"]["x"].shape[1] == 3


PRIORS = {
    "initial": dist.Dirichlet(torch.full((2,), 2.0, dtype=torch.float64)),
    "transition_coefficients": dist.Normal(torch.zeros((), dtype=torch.float64), 3.0),
}


# --- what is wrong with them ------------------------------------------------------------------------------------------


def test_bad_inputs_are_named() -> None:
    x, inputs = lines()
    mixture = lv.models.Mixture(2, lv.emissions.Regression(), weights_by="inputs")

    def fit(**columns: Any) -> lv.Fit:
        return lv.fit(mixture, lv.Rows({"x": x, **columns}), lv.EM(passes=1), progress=False)

    with pytest.raises(NameUnknownError, match="'inputs'"):
        fit(other=inputs)
    with pytest.raises(ShapeError, match="matrix"):
        fit(inputs=inputs[:, 1])
    gap = pd.DataFrame(inputs, columns=["one", "u"])
    gap.loc[4, "u"] = np.nan
    with pytest.raises(MissingDataError, match="'u' at position 4"):
        fit(inputs=gap)
    twice = pd.DataFrame({"one": 1.0, "u": inputs[:, 1], "v": 2 * inputs[:, 1] - 1.0, "zero": 0.0})
    with pytest.raises(DataError, match="collinear") as error:
        fit(inputs=twice)
    assert "'zero', which is 0" in str(error.value) and "'v'" in str(error.value)
    found = fit(inputs=inputs)
    with pytest.raises(ShapeError, match="3 features in 'inputs'"):
        found.score_rows(lv.Rows({"x": x[:2], "inputs": np.ones((2, 3))}))
    with pytest.raises(SettingError, match="one group"):
        lv.models.Mixture(1, lv.emissions.Poisson(), weights_by="inputs")
    with pytest.raises(SettingError, match="stationary"):
        lv.models.HiddenMarkov(2, lv.emissions.Poisson(), initial="stationary", transition_by="inputs")
    with pytest.raises(SettingError, match="response"):
        lv.emissions.Regression("gamma")
    with pytest.raises(DataError, match="counts"):
        lv.fit(lv.models.Mixture(1, lv.emissions.Regression("poisson")), lv.Rows({"x": x, "inputs": inputs}))
