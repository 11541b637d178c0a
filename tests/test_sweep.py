"""Sweeps: each value is fitted as it would be alone; the table says what the fits say; pictures show it."""

from __future__ import annotations

import importlib
import math
import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
from matplotlib.figure import Figure
from sklearn import mixture

import latentvars as lv
from latentvars.errors import DataError, KindError, NameUnknownError, NumericalError, SettingError

# in the package the name of the module is that of its function
study = importlib.import_module("latentvars.studies.sweep")

IRIS = lv.datasets.iris().x
EM = lv.EM(restarts=3)


def groups() -> np.ndarray:
    noise = np.random.default_rng(0)
    return noise.normal(size=(90, 1)) + 6.0 * (np.arange(90) % 3)[:, None]


def model(components: int) -> lv.models.GaussianMixture:
    return lv.models.GaussianMixture(components, covariance="tied")


def run(factory: Any, data: Any, values: Any = None, algorithm: Any = EM, **settings: Any) -> lv.Sweep:
    return lv.sweep(factory, data, values, algorithm, **({"workers": 1, "progress": False} | settings))


@pytest.fixture(scope="module")
def swept() -> lv.Sweep:
    return run(model, groups(), range(1, 5))


def test_each_value_is_fitted_as_it_would_be_alone(swept: lv.Sweep) -> None:
    assert list(swept.fits) == [1, 2, 3, 4] == list(swept.values) and swept.failures == {} and len(swept) == 4
    alone = lv.fit(model(3), groups(), EM, seed=0, progress=False)
    assert swept[3].log_likelihood == alone.log_likelihood
    for name, value in alone.point.items():
        assert np.array_equal(swept[3].point[name], value)
    assert swept.best("bic") is swept[3] and swept.best_value() == 3 and swept.best_value("icl") == 3


def test_the_table_has_the_numbers_of_the_fits(swept: lv.Sweep) -> None:
    """BIC and AIC as those of scikit-learn's optimum; the others as the fits have them."""
    table = swept.table()
    assert list(table["value"]) == [1, 2, 3, 4]
    for line in table.to_dict("records"):
        fit = swept[line["value"]]
        for name in ("log_likelihood", "aic", "bic", "sabic", "caic", "icl", "entropy"):
            assert line[name] == getattr(fit, name)
        assert line["df"] == fit.free_parameters and line["status"] == "converged" and line["seconds"] > 0
        assert fit.optima is not None and (line["replicated"], line["starts"]) == (fit.optima.replicated, 3)
        assert line["failure"] == "" and line["degenerate"] == "" and math.isnan(line["elpd"])
    for k in (1, 3):
        other = mixture.GaussianMixture(k, covariance_type="tied", n_init=5, tol=1e-9, max_iter=1_000, random_state=0)
        other.fit(groups())
        assert table["bic"][k - 1] == pytest.approx(other.bic(groups()), abs=0.01)
        assert table["aic"][k - 1] == pytest.approx(other.aic(groups()), abs=0.01)
    text = str(swept)
    assert "BIC: 3, ICL: 3" in text and "converged" in text and "failure" not in text and "elpd" not in text


def test_structures_of_the_irises_are_those_of_mclust() -> None:
    """Fraley & Raftery (2002): among these BIC prefers two components with covariances of their own (VVV,2)."""

    def of(value: tuple[int, str]) -> lv.models.GaussianMixture:
        return lv.models.GaussianMixture(value[0], covariance=value[1])

    values = [(k, form) for form in ("full", "tied", "spherical") for k in (1, 2, 3)]
    found = run(of, IRIS, values)
    assert found.best_value() == (2, "full")
    assert found.criterion("bic")[(2, "full")] == pytest.approx(574.0178, abs=0.02)
    assert found.criterion("bic")[(1, "full")] == pytest.approx(829.9782, abs=1e-3)
    assert found.criterion("bic")[(3, "tied")] <= 632.9647 + 0.02
    figure = lv.plots.sweep(found, criteria=("bic",))
    assert [line.get_label() for line in figure.axes[0].lines if not line.get_label().startswith("_")] == [
        "full BIC", "tied BIC", "spherical BIC",
    ]  # fmt: skip


def test_names_of_a_mapping_and_models_of_ones_own() -> None:
    class Line:
        def __init__(self, slope: bool) -> None:
            self.slope = slope

        def model(self, rows: lv.Batch) -> None:
            level = pyro.sample("level", lv.flat(()))
            slope = pyro.sample("slope", lv.flat(())) if self.slope else 0.0
            with rows.plate():
                pyro.sample("y", dist.Normal(level + slope * rows["t"], 1.0), obs=rows["y"])

    t = np.linspace(-1, 1, 40)
    data = {"y": 2 * t + np.random.default_rng(1).normal(size=40), "t": t}
    found = run({"level": Line(False), "line": Line(True)}, data, algorithm=lv.EM())
    assert found.best_value() == "line" and [found[name].free_parameters for name in ("level", "line")] == [1, 2]
    table = found.table()
    assert table["icl"].isna().all() and table["starts"].isna().all()
    with pytest.raises(SettingError, match="discrete locals for icl"):
        found.best("icl")
    assert "best by BIC: line" in str(found)


def test_failures_are_kept_with_their_reason() -> None:
    found = run(model, groups()[:3], [1, 2, 5], lv.EM())
    assert list(found.fits) == [1, 2] and "SettingError: 5 components for 3 rows" in found.failures[5]
    table = found.table()
    assert table["status"].tolist()[2] == "failed" and "5 components" in table["failure"].tolist()[2]
    assert math.isnan(table["bic"].tolist()[2]) and "5 components" in str(found)
    with pytest.raises(NameUnknownError, match="which failed: SettingError"):
        _ = found[5]
    with pytest.raises(NameUnknownError, match=r"one of \[1, 2\]"):
        _ = found[9]

    def broken(value: int) -> Any:
        raise RuntimeError(f"no model of {value}")

    with pytest.raises(NumericalError, match=r"2 values, none.*RuntimeError: no model of 1"):
        run(broken, groups(), [1, 2])


def test_an_interrupt_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, calls = study.fit_model, []

    def slow(*given: Any, **settings: Any) -> lv.Fit:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(*given, **settings)

    monkeypatch.setattr(study, "fit_model", slow)
    found = run(model, groups(), range(1, 5))
    assert found.interrupted and list(found.fits) == [1, 2] and "interrupted: 3, 4 not fitted" in str(found)
    assert list(found.table()["value"]) == [1, 2]


def test_collapsed_fits_are_set_aside(swept: lv.Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component on two equal rows, whose variance the floor alone holds, has the highest likelihood of all."""
    x = np.concatenate([groups()[:, 0], [40.0, 40.0]])
    start = {"weights": [0.9, 0.1], "loc": [[6.0], [40.0]], "scale": [5.0, 0.1]}
    fit = lv.fit(lv.models.GaussianMixture(2, 1, "spherical"), x, lv.EM(), start=start, progress=False)
    assert fit.collapsed
    plain = lv.fit(lv.models.GaussianMixture(1, 1, "spherical"), x, lv.EM(), progress=False)
    found = replace(swept, fits={1: plain, 2: fit}, values=(1, 2), seconds={1: 0.1, 2: 0.1})
    assert found.criterion("bic")[2] < found.criterion("bic")[1] and found.best_value() == 1
    assert found.table()["degenerate"][1].startswith("collapsed scale[1]")
    assert replace(found, fits={2: fit}).best_value() == 2


def test_leave_one_out_of_fits_with_draws() -> None:
    class Normal:
        def __init__(self, spread: float) -> None:
            self.spread = spread

        def model(self, rows: lv.Batch) -> None:
            mu = pyro.sample("mu", dist.Normal(0.0, self.spread))
            with rows.plate():
                pyro.sample("x", dist.Normal(mu, 1.0), obs=rows.x)

    x = np.random.default_rng(2).normal(0.8, 1.0, 30)
    found = run(Normal, x, [0.5, 10.0], lv.SVI(passes=150))
    table = found.table()
    others = {value: lv.loo(found[value], unit="row") for value in (0.5, 10.0)}
    for k, other in enumerate(others.values()):
        assert (table["elpd"][k], table["elpd_se"][k]) == pytest.approx((other.elpd, other.se))
    assert found.best_value("elpd") == max(others, key=lambda value: others[value].elpd)
    line = lv.plots.sweep(found, ("elpd",)).axes[0].lines[0]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), -2 * table["elpd"])


def test_pictures_show_the_criteria(swept: lv.Sweep) -> None:
    figure = lv.plots.sweep(swept, criteria=("bic", "icl", "aic"))
    figure.draw_without_rendering()
    axis = figure.axes[0]
    lines = [line for line in axis.lines if not str(line.get_label()).startswith("_")]
    assert [line.get_label() for line in lines] == ["BIC", "ICL", "AIC"] and axis.get_xlabel() == "components"
    table = swept.table()
    for line, name in zip(lines, ("bic", "icl", "aic"), strict=True):
        np.testing.assert_array_equal(np.asarray(line.get_xdata(), float), [1, 2, 3, 4])
        np.testing.assert_array_equal(np.asarray(line.get_ydata(), float), table[name])
    rings = [line for line in axis.lines if str(line.get_label()).startswith("_")]
    assert [float(np.asarray(ring.get_xdata())[0]) for ring in rings] == [
        table["value"][table[name].idxmin()] for name in ("bic", "icl", "aic")
    ]
    own = Figure().add_subplot()
    assert lv.plots.sweep(swept, axis=own, labels=("K", "nats")) is own.get_figure() and own.get_xlabel() == "K"
    with pytest.raises(NameUnknownError, match="'cpu'"):
        lv.plots.sweep(swept, ("cpu",))
    with pytest.raises(SettingError, match="no criteria"):
        lv.plots.sweep(swept, ())


def test_names_stand_side_by_side_in_pictures(swept: lv.Sweep) -> None:
    named = replace(
        swept, fits={"one": swept[1], "three": swept[3]}, values=("one", "lost", "three"), failures={"lost": "lost"}
    )
    axis = lv.plots.sweep(named, ("bic",)).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["one", "lost", "three"]
    assert np.asarray(axis.lines[0].get_xdata(), float).tolist() == [0.0, 2.0] and axis.get_xlabel() == ""


def test_wrong_arguments_are_refused(swept: lv.Sweep) -> None:
    with pytest.raises(KindError, match="without values"):
        run(model, groups())
    with pytest.raises(KindError, match="tuples in the place of lists"):
        run(model, groups(), [[1], [2]])
    for values in ([], [2, 2]):
        with pytest.raises(SettingError, match="each once"):
            run(model, groups(), values)
    with pytest.raises(NameUnknownError, match="criterion 'cpu'"):
        swept.best("cpu")
    with pytest.raises(DataError):
        run(model, np.array([np.inf, 1.0]), [1])
    assert isinstance(swept.table(), pd.DataFrame)
