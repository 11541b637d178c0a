"""HiddenMarkov: hmmlearn, brute force over paths, published values, one sequence by default, starts, checks."""

from __future__ import annotations

import importlib
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from latentvars.errors import DataError, KindError, NameUnknownError, SettingError, ShapeError
from latentvars.models import HiddenMarkov, emissions
from latentvars.program import Program
from latentvars.rows import Rows

hmm = pytest.importorskip("hmmlearn.hmm")
FORMS = ("full", "tied", "diag", "spherical")
LENGTHS = [30, 1, 49]
RNG = np.random.default_rng(5)
LEVEL = np.repeat([0, 1, 0, 2], 20)
REAL = RNG.normal(3 * LEVEL[:, None], 1.0, (80, 2))
COUNTS = RNG.poisson(3 + 8 * LEVEL)
CODES = (LEVEL + RNG.integers(0, 2, 80)) % 4
EARTHQUAKES_2 = {
    "rate": torch.tensor([[15.472], [26.125]], dtype=torch.float64),
    "transition": torch.tensor([[0.934, 0.066], [0.1285, 0.8715]], dtype=torch.float64),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_likelihood(model: HiddenMarkov, point: dict[str, torch.Tensor], rows: Rows) -> float:
    rows = model.prepare(rows)
    return float(Program.of(model, rows).score(point, rows.batch(dtype=torch.float64)).rows.sum())


def fitted(name: str, **settings: Any) -> tuple[Any, np.ndarray]:
    x = {"GaussianHMM": REAL, "PoissonHMM": COUNTS[:, None], "CategoricalHMM": CODES[:, None]}[name]
    model = getattr(hmm, name)(3, random_state=0, n_iter=3, **settings)
    return model.fit(x, LENGTHS), x


MODELS: list[tuple[str, dict[str, str]]] = [("GaussianHMM", {"covariance_type": form}) for form in FORMS]
MODELS += [("PoissonHMM", {}), ("CategoricalHMM", {})]


@pytest.mark.parametrize(("name", "settings"), MODELS)
def test_a_converted_model_has_hmmlearns_log_likelihood_both_ways(name: str, settings: dict[str, str]) -> None:
    theirs, x = fitted(name, **settings)
    model, point = HiddenMarkov.from_hmmlearn(theirs)
    expected = theirs.score(x, LENGTHS)
    assert log_likelihood(model, point, Rows(x, lengths=LENGTHS)) == pytest.approx(expected, rel=1e-9)
    back = model.to_hmmlearn(point)
    assert type(back) is type(theirs)
    assert back.score(x, LENGTHS) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(back.predict_proba(x, LENGTHS), theirs.predict_proba(x, LENGTHS), atol=1e-9)
    again, same = HiddenMarkov.from_hmmlearn(back)
    assert again == model and all(torch.allclose(same[name], point[name], rtol=1e-12) for name in point)


def test_parameters_set_by_hand_in_hmmlearn_are_read_and_the_model_is_left_alone() -> None:
    for form, covars in (("full", np.stack([np.eye(2)] * 2)), ("spherical", np.array([1.0, 4.0]))):
        theirs = hmm.GaussianHMM(2, covariance_type=form)
        theirs.startprob_, theirs.transmat_ = np.array([0.3, 0.7]), np.array([[0.9, 0.1], [0.2, 0.8]])
        theirs.means_, theirs.covars_ = np.array([[0.0, 0.0], [6.0, 6.0]]), covars
        model, point = HiddenMarkov.from_hmmlearn(theirs)
        assert not hasattr(theirs, "n_features")
        assert log_likelihood(model, point, Rows(REAL)) == pytest.approx(theirs.score(REAL), rel=1e-9)


def test_conversion_refuses_what_hmmlearn_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (hmm.GaussianHMM(2), object()):
        with pytest.raises(KindError):
            HiddenMarkov.from_hmmlearn(wrong)
    model = HiddenMarkov(2, emissions.Bernoulli(1))
    point = model.initial(Rows(CODES % 2), generator())
    with pytest.raises(KindError, match="Bernoulli"):
        model.to_hmmlearn(point)
    model, point = HiddenMarkov.from_hmmlearn(fitted("PoissonHMM")[0])

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match="hmmlearn is not installed"):
        model.to_hmmlearn(point)


@pytest.mark.parametrize("initial", ["free", "stationary"])
def test_the_score_is_the_sum_over_all_paths(initial: str) -> None:
    x = COUNTS[18:24]
    model = HiddenMarkov(3, emissions.Poisson(), initial)
    point = model.initial(Rows(COUNTS), generator())
    transition, rate = point["transition"].numpy(), point["rate"].numpy()[:, 0]
    if initial == "free":
        law = point["initial"].numpy()
    else:
        values, vectors = np.linalg.eig(transition.T)
        law = np.real(vectors[:, np.argmax(np.real(values))])
        law = law / law.sum()
    total = 0.0
    for path in product(range(3), repeat=len(x)):
        prob = law[path[0]] * np.prod([transition[a, b] for a, b in pairwise(path)])
        total += prob * np.prod(stats.poisson.pmf(x, rate[list(path)]))
    assert log_likelihood(model, point, Rows(x)) == pytest.approx(np.log(total), rel=1e-12)


def test_published_values_of_the_earthquakes(truth: Path) -> None:
    counts = np.loadtxt(truth / "earthquakes" / "earthquakes.csv", delimiter=",", skiprows=1)[:, 1]
    model = HiddenMarkov(2, emissions.Poisson(), initial="stationary")
    # the parameters are printed to three digits; the log-likelihood is flat at its maximum
    assert log_likelihood(model, EARTHQUAKES_2, Rows(counts)) == pytest.approx(-342.3183, abs=2e-3)
    free = {**EARTHQUAKES_2, "initial": torch.tensor([1.0, 0.0], dtype=torch.float64)}
    value = log_likelihood(HiddenMarkov(2, emissions.Poisson()), free, Rows(counts))
    assert -341.8787 - 0.05 < value < -341.8787 + 5e-5  # the maximum lies a little beside these parameters
    theirs = model.to_hmmlearn(EARTHQUAKES_2)
    assert theirs.score(counts[:, None].astype(int)) == pytest.approx(-342.3183, abs=2e-3)


def test_published_value_of_a_product_of_emissions(truth: Path) -> None:
    table = np.loadtxt(truth / "speed" / "speed.csv", delimiter=",", skiprows=1, dtype=str)
    x = np.stack([table[:, 0].astype(float), table[:, 1] == "cor"], 1)
    point = {
        "initial": [0.0, 1.0],
        "transition": [[0.899, 0.101], [0.084, 0.916]],
        "loc_0": [[5.52], [6.39]],
        "scale_0": [[0.202], [0.24]],
        "probs_1": [[0.528], [0.902]],
    }
    model = HiddenMarkov(2, emissions.Product(emissions.Gaussian(1, "diag"), emissions.Bernoulli(1)))
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in point.items()}
    rows = Rows(x, lengths=[168, 134, 137])
    assert log_likelihood(model, tensors, rows) == pytest.approx(-296.115107102, abs=1e-8)


def test_plain_data_are_one_sequence_and_sequences_stay_as_they_are() -> None:
    model = HiddenMarkov(2, emissions.Gaussian(2, "diag"))
    single = model.prepare(Rows(REAL))
    assert len(single) == 1 and single.lengths is not None and single.lengths.tolist() == [80]
    rows = Rows(REAL, lengths=LENGTHS)
    assert model.prepare(rows) is rows
    point = model.initial(Rows(REAL), generator())
    assert log_likelihood(model, point, Rows(REAL)) == log_likelihood(model, point, Rows(REAL, lengths=[80]))
    with pytest.raises(ShapeError, match="single observations"):
        Program.of(model, Rows(REAL))
    for weights in (np.arange(80.0), np.full(80, 2.0)):
        with pytest.raises(DataError, match="one weight for each sequence"):
            model.prepare(Rows(REAL, weights=weights))


def test_feature_names_survive_and_reach_the_coords() -> None:
    frames = pytest.importorskip("pandas")
    rows = Rows(frames.DataFrame(REAL, columns=["height", "width"]))
    model = HiddenMarkov(2, emissions.Gaussian())
    assert model.coords(model.prepare(rows))["feature_bis"] == ["height", "width"]


@pytest.mark.parametrize(
    ("emission", "x"),
    [
        (emissions.Gaussian(), REAL),
        (emissions.Gaussian(1), REAL[:, 0]),
        (emissions.Gaussian(2, "tied"), REAL),
        (emissions.Poisson(), COUNTS),
        (emissions.Categorical(4), CODES),
        (emissions.Product(emissions.Poisson(), emissions.Categorical(4)), np.stack([COUNTS, CODES], 1)),
    ],
)
@pytest.mark.parametrize("initial", ["free", "stationary"])
def test_sites_starts_and_axes_agree(emission: emissions.Emission, x: np.ndarray, initial: str) -> None:
    model, rows = HiddenMarkov(3, emission, initial), Rows(x, lengths=LENGTHS)
    point, again, other = (model.initial(rows, generator(seed)) for seed in (0, 0, 1))
    space, dims, coords = Program.of(model, rows).space, model.dims(), model.coords(rows)
    assert ("initial" in dims) == (initial == "free")
    assert set(space.names) == set(point) == set(dims) - {"z"}
    for site in space.sites:
        value = point[site.name]
        assert value.shape == site.shape and bool(site.support.check(value).all())
        assert [len(coords[axis]) for axis in dims[site.name]] == list(value.shape)
        assert torch.equal(value, again[site.name])
    assert any(not torch.equal(point[name], other[name]) for name in point)
    assert np.isfinite(log_likelihood(model, point, rows))


def test_a_start_sees_how_long_states_last_but_not_across_sequences() -> None:
    level = np.repeat([0, 1], 50)
    x = 100.0 * level + np.random.default_rng(0).normal(size=100)
    model = HiddenMarkov(2, emissions.Gaussian(1))
    apart = model.initial(Rows(x, lengths=[50, 50]), generator())
    joined = model.initial(Rows(x), generator())
    rapid = model.initial(Rows(100.0 * (np.arange(100) % 2) + x - 100.0 * level), generator())
    low = int(apart["loc"][:, 0].argmin())
    assert apart["loc"][:, 0].sort().values.tolist() == pytest.approx([0, 100], abs=3)
    assert bool((apart["transition"].diagonal() > 0.8).all()) and bool((rapid["transition"].diagonal() < 0.6).all())
    assert float(joined["transition"][low, 1 - low]) > float(apart["transition"][low, 1 - low])
    assert float(joined["initial"][low]) > 0.6


def test_sequences_of_weight_zero_do_not_reach_the_start() -> None:
    x = np.concatenate([REAL, 1e6 + REAL])
    model = HiddenMarkov(3, emissions.Gaussian(2, "diag"))
    weighted = model.initial(Rows(x, lengths=[80, 80], weights=[3.0, 0.0]), generator())
    plain = model.initial(Rows(REAL), generator())
    assert float(weighted["loc"].max()) < 100
    assert weighted["transition"].diagonal().tolist() == pytest.approx(plain["transition"].diagonal().tolist(), abs=0.1)


@pytest.mark.parametrize(
    ("emission", "rows", "error", "message"),
    [
        (emissions.Gaussian(2), Rows(REAL[:2]), SettingError, "3 states for 2 steps"),
        (emissions.Gaussian(3), Rows(REAL), ShapeError, "2 features in the data"),
        (emissions.Gaussian(2), Rows(REAL * [1, 0]), DataError, "constant feature 'x1'"),
        (emissions.Poisson(), Rows(COUNTS - 20, lengths=LENGTHS), DataError, "whole numbers"),
        (emissions.Categorical(3), Rows(CODES), DataError, "codes 0 … 2"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(
    emission: emissions.Emission, rows: Rows, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        HiddenMarkov(3, emission).check(rows)
    with pytest.raises(error, match=message):
        HiddenMarkov(3, emission).initial(rows, generator())


def test_priors_and_settings() -> None:
    model = HiddenMarkov(2, emissions.Poisson(), priors={"transition": dist.Dirichlet(torch.tensor([2.0, 3.0]))})
    rows = model.prepare(Rows(COUNTS))
    point = model.initial(rows, generator())
    expected = sum(stats.dirichlet([2.0, 3.0]).logpdf(row / row.sum()) for row in point["transition"].numpy())
    assert float(Program.of(model, rows).score(point, rows.batch()).prior) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(NameUnknownError):
        HiddenMarkov(2, emissions.Poisson(), "stationary", {"initial": dist.Dirichlet(torch.ones(2))})
    for states, initial in ((0, "free"), (2, "uniform")):
        with pytest.raises(SettingError):
            HiddenMarkov(states, emissions.Poisson(), initial)
