"""A VAE that starts from coordinates: what decides which optimum training finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from sklearn.datasets import make_swiss_roll
from sklearn.manifold import Isomap, trustworthiness

import latentvars as lv
from latentvars.errors import DataError, SettingError, ShapeError


def adam(weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(weights, lr=1e-3)


def test_a_roll_is_unrolled() -> None:
    x, angle = make_swiss_roll(600, noise=0.05, random_state=0)
    truth = np.column_stack([angle, x[:, 1]])
    sheet = Isomap(n_neighbors=7, n_components=2).fit_transform(x)
    model = lv.models.VAE.mlp(3, 2, hidden=(64, 64), likelihood="gaussian")
    fit = lv.fit(
        model.taught(x, sheet, steps=500), x, lv.SVI(passes=10, batch_size=200, optimizer=adam), progress=False
    )
    z = lv.Embedding(fit).transform(x)
    assert np.sqrt(1 - procrustes((truth - truth.mean(0)) / truth.std(0), z)[2]) > 0.95
    assert trustworthiness(x, z, n_neighbors=10) > 0.98


def test_networks_are_taught_and_the_model_left_alone() -> None:
    noise = np.random.default_rng(0)
    z = noise.normal(size=(300, 2))
    x = np.column_stack([z[:, 0], np.tanh(z[:, 1]), z.sum(1)])
    model = lv.models.VAE.mlp(3, 2, hidden=(32,), likelihood="gaussian", seed=1)
    before = [weight.clone() for weight in model.encoder.parameters()]
    state = torch.get_rng_state()
    taught = model.taught(x, 7 * z + 3, steps=300)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip(before, model.encoder.parameters(), strict=True))
    found = taught.encoder_distribution(torch.from_numpy(x)).mean.detach().numpy()
    expected = (z - z.mean(0)) / z.std(0, ddof=1)
    assert np.abs(found - expected).mean() < 0.1
    back = taught.decoder_distribution(torch.from_numpy(expected).float()).mean.detach().numpy()
    assert np.abs(back - x).mean() < 0.1
    again = model.taught(x, 7 * z + 3, steps=300)
    assert all(torch.equal(*pair) for pair in zip(taught.encoder.parameters(), again.encoder.parameters(), strict=True))


def test_what_cannot_be_taught_is_refused() -> None:
    model = lv.models.VAE.mlp(3, 2, hidden=(4,), likelihood="gaussian")
    x, z = np.random.default_rng(0).normal(size=(10, 3)), np.random.default_rng(1).normal(size=(10, 2))
    with pytest.raises(ShapeError, match=r"\[10, 2\]"):
        model.taught(x, z[:, :1])
    with pytest.raises(DataError, match="constant"):
        model.taught(x, np.zeros((10, 2)))
    with pytest.raises(SettingError, match="spread=0"):
        model.taught(x, z, spread=0.0)
    with pytest.raises(DataError, match="missing entries"):
        model.taught(np.where(x > 1, np.nan, x), z)
