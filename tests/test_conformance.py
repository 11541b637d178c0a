"""Models that are not built in, through every verb of the library."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arviz_stats
import cases
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
from cases import CASES, USER, over
from sklearn.base import clone
from torch.distributions import constraints

import latentvars as lv

DISCRETE = [name for name in USER if CASES[name].discrete]
FITTED: dict[tuple[str, str], lv.Fit] = {}


def fitted(name: str, algorithm: str) -> lv.Fit:
    """A short run, once a model; the readouts change nothing."""
    if (name, algorithm) not in FITTED:
        ways: dict[str, Any] = {"EM": lv.EM(passes=5), "SVI": lv.SVI(passes=5)}
        FITTED[name, algorithm] = lv.fit(CASES[name].model(), CASES[name].data(), ways[algorithm], progress=False)
    return FITTED[name, algorithm]


def ways() -> Iterator[tuple[str, str]]:
    for name in USER:
        if CASES[name].em:
            yield name, "EM"
        yield name, "SVI"


over_ways = pytest.mark.parametrize(("name", "algorithm"), list(ways()))


@over_ways
def test_fit_and_print(name: str, algorithm: str) -> None:
    found = fitted(name, algorithm)
    assert math.isfinite(found.log_likelihood)
    assert np.isfinite(found.history).all() and 2 <= len(found.history) <= 5
    text = str(found)
    assert type(found.model).__name__ in text and f"by {algorithm}" in text
    assert f"{found.log_likelihood:.4f} nats" in text
    assert ("ELBO" in text) == (not CASES[name].exact)
    assert set(found.point) == set(found.program.space.names)
    assert found.row_log_likelihood.shape == (len(found.rows),)
    assert found.free_parameters > 0 and math.isfinite(found.bic) and found.aic < found.bic


@over([name for name in USER if CASES[name].em])
def test_explain_names_every_global_and_its_rule(name: str) -> None:
    lines = fitted(name, "EM").explain().splitlines()
    assert {line.split()[0] for line in lines[1:]} == set(fitted(name, "EM").point)
    assert all("closed form" in line or "L-BFGS" in line for line in lines[1:])


def test_the_rules_of_the_m_step_are_the_best_there_are() -> None:
    rules = {
        name: {line.split()[0]: "closed form" in line for line in fitted(name, "EM").explain().splitlines()[1:]}
        for name in ("user-chain", "user-mixture", "user-hierarchy", "user-student")
    }
    assert rules["user-chain"] == {"initial": True, "transition": True, "loc": True, "scale": True}
    assert rules["user-mixture"] == {"weights": True, "loc": True, "scale": False}
    assert rules["user-hierarchy"] == {"mu": False, "tau": False, "theta": False, "sigma": False}
    assert rules["user-student"] == {"weights": True, "loc": False, "scale": False}


class Idioms:
    """One mixture of two normals with scale 0.8, written in several ways."""

    def __init__(self, way: str) -> None:
        self.way = way

    def model(self, rows: lv.Batch) -> None:
        loc = pyro.sample("loc", lv.flat((2,)))
        if self.way == "logits":
            logits = pyro.sample("logits", lv.flat())
            share = torch.stack([-logits, logits]).softmax(-1)
        else:
            share = pyro.sample("share", lv.flat((2,), constraints.simplex))
        with rows.plate():
            if self.way == "same family":
                law = dist.MixtureSameFamily(dist.Categorical(share), dist.Normal(loc, 0.8))
            elif self.way == "one hot":
                law = dist.Normal(pyro.sample("z", dist.OneHotCategorical(share)) @ loc, 0.8)
            elif self.way == "bernoulli":
                law = dist.Normal(loc[pyro.sample("z", dist.Bernoulli(share[1])).long()], 0.8)
            elif self.way == "logits":
                z = pyro.sample("z", dist.Categorical(logits=torch.stack([-logits, logits])))
                law = dist.Normal(loc[z], 0.8)
            else:
                z = pyro.sample("z", dist.Categorical(share))
                law = dist.Normal(pyro.deterministic("mean", loc[z]), 0.8)
            if self.way == "factor":
                pyro.factor("x", law.log_prob(rows.x))
                pyro.sample("nothing", dist.Normal(0.0, 1.0), obs=torch.zeros(len(rows)))
            else:
                pyro.sample("x", law, obs=rows.x)


@pytest.mark.parametrize("way", ["one hot", "bernoulli", "logits", "same family", "factor"])
def test_idioms_of_pyro_are_one_model(way: str) -> None:
    start = {"loc": torch.tensor([-1.0, 1.0]), "share": torch.tensor([0.4, 0.6])}
    plain = lv.fit(Idioms("plain"), cases.line(21), lv.EM(), start=start, progress=False)
    assert set(plain.to_datatree(draws=2)["posterior_predictive"].data_vars) == {"x"}
    if way == "logits":
        start["logits"] = 0.5 * (start["share"][1] / start.pop("share")[0]).log()
    found = lv.fit(Idioms(way), cases.line(21), lv.EM(), start=start, progress=False)
    extra = 12 * math.log(2 * math.pi) if way == "factor" else 0.0  # of the 24 zeros that it observes
    assert found.log_likelihood + extra == pytest.approx(plain.log_likelihood, rel=1e-7)
    torch.testing.assert_close(found.point["loc"], plain.point["loc"], rtol=0, atol=1e-3)
    if way == "one hot":
        np.testing.assert_allclose(found.history, plain.history, rtol=1e-10)
    if way != "same family":
        torch.testing.assert_close(found.latent().mean("z"), plain.latent().mean("z"), rtol=0, atol=1e-3)


@over_ways
def test_scores_of_new_rows_and_of_the_point(name: str, algorithm: str) -> None:
    found = fitted(name, algorithm)
    some = found.rows.subset([4, 1])
    if CASES[name].exact:
        torch.testing.assert_close(found.score_rows(some), found.row_log_likelihood[[4, 1]], rtol=0, atol=1e-12)
    given = lv.from_point(found.model, found.rows, found.point)
    assert given.status is lv.Status.GIVEN
    if CASES[name].exact:
        torch.testing.assert_close(given.row_log_likelihood, found.row_log_likelihood, rtol=0, atol=1e-12)


@over(DISCRETE)
def test_beliefs_over_discrete_locals(name: str) -> None:
    found = fitted(name, "EM")
    latent = found.latent()
    assert len(latent) == len(found.rows)
    for site in latent.sites:
        probs = latent.mean(site)
        torch.testing.assert_close(probs.sum(-1), torch.ones(len(found.rows)).double(), rtol=0, atol=1e-12)
        assert torch.equal(latent.mode(site), probs.argmax(-1))
        entropy = latent.entropy(site)
        torch.testing.assert_close(entropy, -torch.special.xlogy(probs, probs).sum(-1), rtol=0, atol=1e-10)
        drawn = latent.sample(site, draws=600, seed=1)
        assert drawn.shape == (600, len(found.rows))
        shares = torch.stack([(drawn == k).double().mean(0) for k in range(probs.shape[-1])], -1)
        assert float((shares - probs).abs().max()) < 0.12
        picked = latent.log_prob(latent.mode(site), site)
        torch.testing.assert_close(picked, probs.max(-1).values.log(), rtol=0, atol=1e-9)
        torch.testing.assert_close(latent.std(site), (probs * (1 - probs)).sqrt(), rtol=0, atol=1e-9)
    new = found.latent(found.rows.subset([7]))
    torch.testing.assert_close(new.mean(latent.sites[0]), latent.mean(latent.sites[0])[[7]], rtol=0, atol=1e-12)


def test_beliefs_over_continuous_locals_are_the_guides() -> None:
    found = fitted("user-factors", "SVI")
    latent = found.latent()
    with torch.no_grad():
        guide = found.model.encoder(found.rows["x"])  # type: ignore[attr-defined]
    torch.testing.assert_close(latent.mean("z"), guide.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(latent.std("z"), guide.stddev, rtol=0, atol=1e-12)
    torch.testing.assert_close(latent.mode("z"), guide.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(latent.entropy("z"), guide.entropy(), rtol=0, atol=1e-12)
    torch.testing.assert_close(latent.log_prob(guide.mean, "z"), guide.log_prob(guide.mean), rtol=0, atol=1e-12)
    drawn = latent.sample("z", draws=500)
    assert drawn.shape == (500, 40, 2)
    assert float(((drawn.mean(0) - guide.mean) / guide.stddev).abs().max()) < 0.25


def test_a_model_without_locals_has_no_beliefs() -> None:
    for name in ("user-hierarchy", "user-regression"):
        assert fitted(name, "EM").latent().sites == ()


@over_ways
def test_the_datatree_and_its_summary(name: str, algorithm: str) -> None:
    found = fitted(name, algorithm)
    tree = found.to_datatree(draws=50)
    assert tree["log_likelihood"].ds.sizes["row"] == len(found.rows)
    if algorithm == "SVI":
        assert set(tree["posterior"].data_vars) == set(found.point)
        assert tree["posterior"].sizes["chain"] == 1 and tree["posterior"].sizes["draw"] == 50
        assert set(tree["sample_stats"].data_vars) >= {"lp", "log_q"}
    else:
        assert set(tree["point_estimate"].data_vars) == set(found.point)
        for site, value in found.point.items():
            np.testing.assert_array_equal(tree["point_estimate"][site].values.squeeze(), value.squeeze().numpy())
        logs = tree["log_likelihood"].ds
        total = sum(float(logs[site].sum()) for site in logs.data_vars) / logs[next(iter(logs))].size * len(found.rows)
        assert total == pytest.approx(found.log_likelihood, rel=1e-9)
    assert "observed_data" in tree.children and "posterior_predictive" in tree.children
    table = found.summary(draws=50)
    assert len(table) == sum(value.numel() for value in found.point.values())


@over(["user-mixture", "user-hierarchy", "user-chain"])
def test_the_loo_of_arviz_reads_the_tree(name: str) -> None:
    found = fitted(name, "SVI")
    loo = arviz_stats.loo(found.to_datatree(draws=50))
    draws, _ = found.globals.draws(40, 0)
    batch = found.rows.batch(dtype=torch.float64)
    scores = torch.stack([found.program.score({k: v[s] for k, v in draws.items()}, batch).rows for s in range(40)])
    lppd = float((torch.logsumexp(scores, 0) - math.log(40)).sum())
    assert lppd - 12 < loo.elpd < lppd + 3  # close to, and below, the density of the same rows


def test_predictions_of_a_users_model_are_like_its_data() -> None:
    found = lv.fit(user_models.ExplicitMixture(), cases.line(21), lv.EM(passes=20), progress=False)
    drawn = found.to_datatree(draws=200)["posterior_predictive"]["x"].values.ravel()
    assert drawn.mean() == pytest.approx(cases.line(21).mean(), abs=0.15)
    assert drawn.std() == pytest.approx(cases.line(21).std(), rel=0.1)


LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, user_models, latentvars as lv
from cases import CASES
name, path, out = sys.argv[2:]
found = lv.load(path, model=CASES[name].model())
site = found.latent().sites
torch.save({
    "point": found.point,
    "rows": found.row_log_likelihood,
    "score": found.score_rows(found.rows),
    "latent": found.latent().mean(site[0]) if site else torch.zeros(0),
    "draws": found.globals.draws(3, 1)[0],
}, out)
"""


@pytest.mark.long  # test_storage.py does so with six fits, one of them of a model of this kind
def test_saved_and_loaded_in_a_fresh_process_it_is_the_same_to_the_bit(tmp_path: Path) -> None:
    name = "user-factors"
    found = fitted(name, "SVI")
    found.save(tmp_path / "fit", datatree=False)
    places = [str(place) for place in (Path(__file__).parent, name, tmp_path / "fit", tmp_path / "out")]
    subprocess.run([sys.executable, "-c", LOAD, *places], check=True, capture_output=True, text=True)
    loaded = torch.load(tmp_path / "out", weights_only=True)
    for site, value in found.point.items():
        assert torch.equal(loaded["point"][site], value)
        assert torch.equal(loaded["draws"][site], found.globals.draws(3, 1)[0][site])
    assert torch.equal(loaded["rows"], found.row_log_likelihood)
    assert torch.equal(loaded["score"], found.score_rows(found.rows))
    assert torch.equal(loaded["latent"], found.latent().mean(found.latent().sites[0]))


@over(["user-mixture", "user-factors", "user-chain", "user-two-levels"])
def test_the_embedding_is_the_posterior_mean(name: str) -> None:
    algorithm = "EM" if CASES[name].em else "SVI"
    found = fitted(name, algorithm)
    site = CASES[name].discrete or "z"
    x = found.rows.columns["x"].numpy()
    x = x[:, None] if x.ndim == 1 else x
    if name in ("user-factors", "user-chain"):
        vectors = lv.Embedding(found, sites=[site]).transform(x)
        np.testing.assert_array_equal(vectors, found.latent().mean(site).numpy())
        assert np.array_equal(vectors[::-1], lv.Embedding(found, sites=[site]).transform(x[::-1]))
        assert clone(lv.Embedding(found, sites=[site])).get_params()["sites"] == [site]
    else:
        vectors = lv.Embedding(found, sites=[site]).transform(found.rows)
        np.testing.assert_array_equal(vectors, found.latent().mean(site).numpy())
