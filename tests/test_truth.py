"""Numbers that were published elsewhere, reached through the public face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import latentvars as lv


def table(truth: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(truth / name / f"{name}.csv")


def test_gmm1_old_faithful(truth: Path) -> None:
    x = table(truth, "faithful")[["eruptions", "waiting"]]
    fit = lv.fit(lv.models.GaussianMixture(2), x, lv.EM(restarts=3))
    order = fit.point["weights"].argsort()
    assert fit.log_likelihood == pytest.approx(-1130.264, abs=0.005)
    assert fit.bic == pytest.approx(2322.192, abs=0.01)
    np.testing.assert_allclose(fit.point["weights"][order], [0.3559, 0.6441], atol=1e-4)
    np.testing.assert_allclose(fit.point["loc"][order], [[2.0364, 54.4785], [4.2897, 79.9681]], atol=1e-3)
    assert lv.fit(lv.models.GaussianMixture(1), x).log_likelihood == pytest.approx(-1289.7967, abs=1e-3)


@pytest.mark.parametrize(
    ("components", "covariance", "mclust_bic"),
    [
        (1, "full", -829.9782),
        (1, "tied", -829.9782),
        (1, "diag", -1522.1202),
        (1, "spherical", -1804.0854),
        (2, "full", -574.0178),
        (2, "tied", -688.0972),
        (2, "diag", -857.5515),
        (2, "spherical", -1012.2352),
        (3, "full", -580.8396),
        (3, "tied", -632.9647),
        (3, "diag", -744.6382),
        (3, "spherical", -853.8144),
    ],
)
def test_gmm2_iris(truth: Path, components: int, covariance: str, mclust_bic: float) -> None:
    x = table(truth, "iris").select_dtypes("number").filter(regex="Length|Width")
    fit = lv.fit(lv.models.GaussianMixture(components, covariance=covariance), x, lv.EM(restarts=5))
    assert -fit.bic >= mclust_bic - 0.02
    if components == 1:
        assert -fit.bic == pytest.approx(mclust_bic, abs=1e-3)


HMM1 = {
    1: (-391.9189, [19.364]),
    2: (-342.3183, [15.472, 26.125]),
    3: (-329.4603, [13.146, 19.721, 29.714]),
}


# test_criteria.py has the three states and their AIC too
@pytest.mark.parametrize("states", [1, 2, pytest.param(3, marks=pytest.mark.long)])
def test_hmm1_earthquakes_stationary(truth: Path, states: int) -> None:
    fit = _earthquakes(truth, states, "stationary")
    log_likelihood, rates = HMM1[states]
    order = fit.point["rate"][:, 0].argsort()
    assert fit.log_likelihood == pytest.approx(log_likelihood, abs=0.002)
    np.testing.assert_allclose(fit.point["rate"][order, 0], rates, atol=0.01)
    transition = fit.point["transition"][order][:, order]
    if states == 2:
        np.testing.assert_allclose([transition[0, 1], transition[1, 0]], [0.066, 0.1285], atol=0.005)
        assert (fit.aic, fit.bic) == (pytest.approx(692.6365, abs=0.005), pytest.approx(703.3278, abs=0.005))
    if states == 3:
        law = np.linalg.matrix_power(transition.numpy(), 1_000)[0]
        np.testing.assert_allclose(law, [0.4436, 0.4045, 0.1519], atol=0.002)
        assert (fit.aic, fit.bic) == (pytest.approx(676.9206, abs=0.005), pytest.approx(700.976, abs=0.005))


@pytest.mark.parametrize(("states", "log_likelihood"), [(2, -341.8787), (3, -328.5275)])
def test_hmm2_earthquakes_free(truth: Path, states: int, log_likelihood: float) -> None:
    fit = _earthquakes(truth, states, "free")
    assert fit.log_likelihood == pytest.approx(log_likelihood, abs=0.002)
    if states == 3:
        np.testing.assert_allclose(fit.point["rate"][:, 0].sort().values, [13.134, 19.713, 29.710], atol=0.01)


def _earthquakes(truth: Path, states: int, initial: str) -> lv.Fit:
    counts = table(truth, "earthquakes")["count"].to_numpy()
    return lv.fit(lv.models.HiddenMarkov(states, lv.emissions.Poisson(), initial=initial), counts)


def test_hmm3_speed_at_fixed_parameters(truth: Path) -> None:
    data = table(truth, "speed")
    steps = np.column_stack([data["rt"], data["corr"] == "cor"]).astype(float)
    emission = lv.emissions.Product(lv.emissions.Gaussian(1), lv.emissions.Bernoulli(1))
    model = lv.models.HiddenMarkov(2, emission)
    point = {
        "initial": torch.tensor([0.0, 1.0]),
        "transition": torch.tensor([[0.899, 0.101], [0.084, 0.916]], dtype=torch.float64),
        "loc_0": torch.tensor([[5.52], [6.39]], dtype=torch.float64),
        "covariance_0": torch.tensor([0.202**2, 0.24**2], dtype=torch.float64).reshape(2, 1, 1),
        "probs_1": torch.tensor([[0.528], [0.902]], dtype=torch.float64),
    }
    fit = lv.from_point(model, lv.Rows(steps, lengths=[168, 134, 137]), point)
    assert fit.log_likelihood == pytest.approx(-296.115107102, abs=1e-8)
