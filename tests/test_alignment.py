"""Planted permutations of labels are found and undone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import latentvars as lv
from latentvars.errors import ShapeError
from latentvars.posterior.alignment import Labels, labels_of, matching
from latentvars.posterior.axes import Axes

NOISE = np.random.default_rng(81)


def probabilities(rows: int, labels: int) -> torch.Tensor:
    return torch.from_numpy(NOISE.dirichlet(np.full(labels, 0.3), rows))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_order_of_three_labels_is_found(order: tuple[int, ...]) -> None:
    reference = probabilities(50, 3)
    blurred = 0.7 * reference + 0.3 * probabilities(50, 3)
    other = torch.empty_like(reference)
    other[:, list(order)] = blurred
    assert matching(reference, other).tolist() == list(order)


def test_the_matching_is_the_best_of_all_orders() -> None:
    reference, other, weights = probabilities(30, 4), probabilities(30, 4), torch.from_numpy(NOISE.random(30))

    def distance(order: tuple[int, ...]) -> float:
        return float(((reference - other[:, list(order)]).abs().sum(-1) * weights).sum())

    best = min(itertools.permutations(range(4)), key=distance)
    assert tuple(matching(reference, other, weights).tolist()) == best


def test_weights_decide_which_rows_count() -> None:
    reference = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    other = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]).flip(-1)
    other[2] = torch.tensor([0.0, 1.0])
    assert matching(reference, other).tolist() == [1, 0]
    assert matching(reference, other, torch.tensor([0.1, 0.1, 5.0])).tolist() == [0, 1]


def chain() -> lv.Fit:
    states = np.array([0] * 9 + [2] * 7 + [1] * 8 + [0] * 6)
    counts = NOISE.poisson(np.array([2.0, 9.0, 25.0])[states])
    return lv.fit(lv.models.HiddenMarkov(3, lv.emissions.Poisson()), counts, lv.EM(passes=20), progress=False)


def mixture() -> lv.Fit:
    x = NOISE.normal(size=(90, 2)) + 4.0 * (np.arange(90) % 3)[:, None]
    return lv.fit(lv.models.GaussianMixture(3), x, lv.EM(passes=20), progress=False)


@pytest.mark.parametrize("make", [chain, mixture])
def test_a_permuted_fit_is_brought_back(make) -> None:
    fit = make()
    (labels,) = labels_of(Axes.of(fit.model, fit.rows).names, fit.program.space.names, ("z",))
    reference = fit.latent().mean("z")
    planted = torch.tensor([2, 0, 1])
    shuffled = lv.from_point(fit.model, fit.rows, labels.permuted(fit.point, planted))
    assert shuffled.log_likelihood == pytest.approx(fit.log_likelihood, rel=1e-12)
    order = matching(reference, shuffled.latent().mean("z"))
    back = labels.permuted(shuffled.point, order)
    for name, value in fit.point.items():
        assert torch.equal(back[name], value)


def test_a_chain_has_its_labels_on_both_axes_of_its_transitions() -> None:
    model = lv.models.HiddenMarkov(2, lv.emissions.Poisson())
    (labels,) = labels_of(model.dims(), ("initial", "transition", "rate"), ("z",))
    assert labels == Labels("z", {"initial": (0,), "transition": (0, 1), "rate": (0,)})
    draws = {"initial": torch.rand(5, 2), "transition": torch.rand(5, 2, 2), "rate": torch.rand(5, 2, 1)}
    turned = labels.permuted(draws, torch.tensor([1, 0]), lead=1)
    assert torch.equal(turned["transition"], draws["transition"].flip(1).flip(2))


def test_labels_are_read_off_dims_only() -> None:
    assert labels_of({}, ("weights",), ("z",)) == []
    dims = {"weights": ("component",), "loc": ("component", "feature")}
    (labels,) = labels_of(dims, ("weights", "loc", "scale"), ("z",))
    assert labels == Labels("z", {"weights": (0,), "loc": (0,)})
    assert labels_of(dims, ("weights", "loc"), ("z1", "z2")) == []  # whose labels they are is not said


def test_beliefs_of_other_rows_are_refused() -> None:
    with pytest.raises(ShapeError, match="same rows"):
        matching(probabilities(4, 2), probabilities(5, 2))
