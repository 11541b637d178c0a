"""Iris with three components by NUTS, its chains begun in different orders: one posterior, whatever the labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import latentvars as lv
from latentvars.errors import LabelSwitchingError
from latentvars.inference.sampling import Draws

pytest.importorskip("nutpie")

PRIORS = {
    "weights": dist.Dirichlet(torch.full((3,), 5.0, dtype=torch.float64)),
    "loc": dist.Normal(torch.tensor(0.0, dtype=torch.float64), 3.0),
    "scale": dist.LogNormal(torch.tensor(-0.7, dtype=torch.float64), 0.5),
}
# length and width of petals by species, in standard deviations (Fisher 1936)
SPECIES = {
    "weights": [1 / 3] * 3,
    "loc": [[-1.3, -1.3], [0.3, 0.2], [1.0, 1.1]],
    "scale": [[0.1, 0.1], *[[0.3, 0.3]] * 2],
}


@pytest.fixture(scope="module")
def drawn() -> lv.Fit:
    """Two chains that begin in two orders of one mode, of which neither undoes the other; petals alone, for time."""
    iris = lv.datasets.iris()
    x = ((iris.x - iris.x.mean(0)) / iris.x.std(0))[:, 2:]
    model = lv.models.GaussianMixture(3, covariance="diag", priors=PRIORS)
    chains = []
    for number, order in enumerate(([0, 1, 2], [2, 0, 1])):
        start = {name: np.array(value)[order] for name, value in SPECIES.items()}
        sampler = lv.NUTS(draws=500, tune=250, chains=1)
        chains.append(lv.fit(model, x, sampler, seed=number, start=start, progress=False))
    parts = [chain.globals for chain in chains]
    assert all(isinstance(part, Draws) for part in parts)
    free = torch.cat([part.free for part in parts])  # type: ignore[union-attr]
    stats = {name: torch.cat([part.stats[name] for part in parts]) for name in parts[0].stats}  # type: ignore[union-attr]
    return replace(chains[0], globals=Draws(parts[0].space, free, stats))  # type: ignore[union-attr]


def test_chains_agree_once_their_labels_do(drawn: lv.Fit) -> None:
    with pytest.raises(LabelSwitchingError):
        drawn.summary()
    found = lv.align(drawn)
    assert max(float(value.max()) for value in found.r_hat_before.values()) > 1.5
    assert max(float(value.max()) for value in found.r_hat.values()) < 1.01
    table = found.fit.summary()
    assert float(table["r_hat"].max()) < 1.01
    setosa = found.fit.point["loc"][:, 0].argmin()
    assert float(found.fit.point["weights"][setosa]) == pytest.approx(1 / 3, abs=0.03)


def test_prediction_knows_no_labels(drawn: lv.Fit) -> None:
    aligned = lv.align(drawn).fit
    before, after = (lv.loo(fit, unit="row", draws=300) for fit in (drawn, aligned))
    assert after.elpd == pytest.approx(before.elpd, abs=1e-6)
    one, two = (
        fit.to_datatree(300, predictive=300, latents=False)["posterior_predictive"]["x"].values
        for fit in (drawn, aligned)
    )
    np.testing.assert_allclose(one.mean((0, 1, 2)), two.mean((0, 1, 2)), atol=0.05)
    np.testing.assert_allclose(one.std((0, 1, 2)), two.std((0, 1, 2)), rtol=0.05)
