"""Leave-future-out: against a conjugate closed form, exact refits, and differences of scores of sequences cut short."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import latentvars as lv
from latentvars.distributions import HiddenMarkov
from latentvars.errors import DataError, KindError, SettingError
from latentvars.studies.leave_future_out import prefix_scores

SHORT = lv.NUTS(draws=300, tune=150, chains=2)
LENGTHS = [14, 9]


@dataclass(frozen=True)
class Steps:
    """Sequences of independent x ~ N(mu, 1), mu ~ N(0, 3)."""

    def model(self, rows: lv.Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 3.0))
        x = rows["x"]
        assert rows.mask is not None
        with rows.plate():
            law = dist.Normal(mu, 1.0).expand(x.shape).mask(rows.mask).to_event(1)
            pyro.sample("x", law, obs=x)


def data() -> lv.Rows:
    x = np.random.default_rng(0).normal(1.0, 1.0, sum(LENGTHS))
    x[8] = 4.5  # so that weights are tried
    return lv.Rows(x, lengths=LENGTHS)


def exact(first: int, ahead: int) -> np.ndarray:
    """log p(x_t+1..t+M of each sequence | the first t steps of both), by hand: ``[C, 2]``."""
    x = data()["x"].numpy()
    parts = [x[: LENGTHS[0]], x[LENGTHS[0] :]]
    found = []
    for t in range(first, max(LENGTHS) - ahead + 1):
        seen = np.concatenate([part[:t] for part in parts])
        v = 1 / (1 / 9 + len(seen))
        law = stats.multivariate_normal(np.full(ahead, v * seen.sum()), np.eye(ahead) + v)
        found.append([law.logpdf(p[t : t + ahead]) if len(p) >= t + ahead else np.nan for p in parts])
    return np.array(found)


@pytest.mark.parametrize("ahead", [1, 3])
def test_of_a_conjugate_model_it_is_the_closed_form(ahead: int) -> None:
    pytest.importorskip("nutpie")
    fit = lv.fit(Steps(), data(), SHORT, progress=False)
    found = lv.leave_future_out(fit, first=4, ahead=ahead, progress=False)
    expected = exact(4, ahead)
    assert found.cuts.tolist() == list(range(4, 14 - ahead + 1))
    np.testing.assert_array_equal(np.isnan(found.elpd_i), np.isnan(expected))
    np.testing.assert_allclose(found.elpd_i, expected, atol=0.15)
    assert found.elpd == pytest.approx(np.nansum(expected), abs=0.3)
    assert found.refits[0] == 4 and len(found.refits) < len(found.cuts) / 2
    assert found.pareto_k.max() <= 0.7
    terms = found.elpd_i[~np.isnan(found.elpd_i)]
    assert found.se == pytest.approx(np.sqrt(len(terms)) * terms.std())
    assert found.summary()["refitted"].sum() == len(found.refits)


def still(deviation: float) -> lv.SVI:
    """A guide that stays where it starts."""
    return lv.SVI(passes=1, guide=lv.MeanField(deviation), optimizer=partial(torch.optim.SGD, lr=0.0))


def test_draws_of_a_guide_are_weighted_towards_what_was_seen() -> None:
    fit = lv.fit(Steps(), data(), still(0.4), start={"mu": 1.2}, progress=False)
    found = lv.leave_future_out(fit, first=4, draws=3_000, progress=False)
    np.testing.assert_allclose(found.elpd_i, exact(4, 1), atol=0.1)


class Sticky:
    """Two states of known rates that are left with one unknown probability, 1 − stay, stay ~ Beta(2, 2)."""

    def __init__(self, classes: bool = False) -> None:
        self.classes = classes

    def model(self, rows: lv.Batch) -> None:
        stay = pyro.sample("stay", dist.Beta(torch.tensor(2.0, dtype=torch.float64), 2.0))
        move = torch.stack([torch.stack([stay, 1 - stay]), torch.stack([1 - stay, stay])])
        law = dist.Poisson(torch.tensor(RATES, dtype=torch.float64))
        chain = HiddenMarkov(torch.tensor([0.5, 0.5]), move, law, rows.lengths, rows.x.shape[1])
        with rows.plate():
            pyro.sample("x", chain, obs=rows.x)
            if self.classes:  # no more than one kind, but no chain alone either
                pyro.sample("kind", dist.Categorical(torch.ones(1)))


RATES = (3.0, 12.0)
COUNTS = np.array([3, 4, 2, 3, 4, 2, 5, 3, 12, 15, 14, 5, 2, 13, 11, 3])


def by_quadrature(first: int) -> np.ndarray:
    """log p(x_t+1 | x_1..t) by the forward recursion at 2,000 values of stay."""
    stay = (np.arange(2_000) + 0.5) / 2_000
    density = stats.poisson.pmf(COUNTS[:, None], RATES)
    forward, evidence = np.full((2_000, 2), 0.5) * density[0], []
    for t in range(len(COUNTS)):
        if t:
            moved = stay[:, None] * forward + (1 - stay)[:, None] * forward[:, ::-1]
            forward = moved * density[t]
        evidence.append(np.log((forward.sum(1) * stats.beta(2, 2).pdf(stay)).mean()))
    return np.diff(evidence)[first - 1 :]


def test_a_chain_agrees_with_quadrature_at_every_step() -> None:
    pytest.importorskip("nutpie")
    sampler = lv.NUTS(draws=250, tune=100, chains=1)
    fit = lv.fit(Sticky(), lv.Rows(COUNTS, lengths=[16]), sampler, progress=False)
    found = lv.leave_future_out(fit, first=7, progress=False)
    expected = by_quadrature(7)
    np.testing.assert_allclose(found.elpd_i[:, 0], expected, atol=0.12)
    assert found.elpd == pytest.approx(expected.sum(), abs=0.3)
    assert len(found.refits) < len(found.cuts) / 2


def test_below_every_threshold_it_fits_again_at_each_cut() -> None:
    fit = lv.fit(Steps(), data(), still(0.4), start={"mu": 1.2}, progress=False)
    found = lv.leave_future_out(fit, first=9, threshold=-np.inf, draws=400, progress=False)
    assert found.refits == tuple(found.cuts) == tuple(range(9, 14))
    np.testing.assert_allclose(found.elpd_i, exact(9, 1), atol=0.25)
    few = [lv.leave_future_out(fit, first=13, threshold=-np.inf, draws=50, progress=False) for _ in range(2)]
    np.testing.assert_array_equal(few[0].elpd_i, few[1].elpd_i)


def test_chains_take_one_pass_and_other_models_are_cut() -> None:
    rows = lv.Rows(np.random.default_rng(1).poisson(5.0, 20), lengths=[8, 12])
    found = []
    for model in (Sticky(), Sticky(classes=True)):
        fit = lv.from_point(model, rows, {"stay": 0.8})
        draws = {name: value[None] for name, value in fit.point.items()}
        found.append(prefix_scores(fit.program, fit.rows, draws, range(1, 13)))
    for t in range(1, 13):
        np.testing.assert_allclose(found[0][t], found[1][t], atol=1e-10)
    cut = lv.from_point(Sticky(), lv.Rows(rows["x"][8:13], lengths=[5]), {"stay": 0.8})
    assert float(found[0][5][0, 1]) == pytest.approx(cut.log_likelihood)
    assert float(found[0][12][0, 0]) == pytest.approx(float(found[0][8][0, 0]))


def test_what_has_no_future_is_refused() -> None:
    fit = lv.fit(Steps(), data(), still(0.4), start={"mu": 1.2}, progress=False)
    for settings in ({"first": 0}, {"first": 4, "ahead": 0}, {"first": 14}):
        with pytest.raises(SettingError, match="first="):
            lv.leave_future_out(fit, **settings)
    with pytest.raises(KindError, match=r"a point[\s\S]*lv\.NUTS"):
        lv.leave_future_out(lv.from_point(Steps(), data(), {"mu": 1.0}), first=4)
    with pytest.raises(SettingError, match=r"no future[\s\S]*lv\.loo"):
        lv.leave_future_out(lv.fit(lv.models.GaussianMixture(1), np.arange(5.0), progress=False), first=2)
    with pytest.raises(SettingError, match=r"lv\.leave_future_out"):
        lv.loo(fit, unit="future")  # type: ignore[arg-type]
    weighted = lv.Rows(data()["x"], lengths=LENGTHS, weights=[1.0, 2.0])
    with pytest.raises(DataError, match="weights"):
        lv.leave_future_out(lv.fit(Steps(), weighted, still(0.4), start={"mu": 1.2}, progress=False), first=4)


def test_sequences_are_cut_to_their_first_steps() -> None:
    rows = lv.Rows(
        {"x": np.arange(7.0), "y": np.arange(14.0).reshape(7, 2)},
        lengths=[4, 1, 2],
        weights=[1.0, 2.0, 3.0],
        known={"z": [0, 1, -1, 1, 0, 1, 1]},
        names=["a", "b", "c"],
    )
    cut = rows.first_steps(2)
    assert cut["x"].tolist() == [0, 1, 4, 5, 6] and cut["y"][:, 1].tolist() == [1, 3, 9, 11, 13]
    assert cut.lengths is not None and cut.lengths.tolist() == [2, 1, 2] and cut.weights.tolist() == [1, 2, 3]
    assert cut.known["z"].tolist() == [0, 1, 0, 1, 1] and list(cut.names) == ["a", "b", "c"]
    with pytest.raises(KindError, match="first 2 steps"):
        lv.Rows(np.arange(3.0)).first_steps(2)
