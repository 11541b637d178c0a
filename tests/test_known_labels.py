"""Semi-supervised fits: discrete locals that are known at some rows or steps."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import torch
import user_models
from scipy import optimize, stats

import latentvars as lv
from latentvars.errors import DataError, NameUnknownError, ShapeError
from latentvars.program import Program

X = cases.blobs(3)
TRUE = (np.arange(40) % 5 < 2).astype(int)
SOME = np.where(np.arange(40) % 4 == 0, TRUE, -1)
EXACT = lv.EM(stop=lv.Tolerance(per_row=1e-13))


def program_of(model: object, rows: lv.Rows) -> Program:
    return Program.of(model, rows)  # type: ignore[arg-type]


def test_fully_labelled_rows_give_the_estimates_of_each_class() -> None:
    for labels in (TRUE, 1 - TRUE):
        found = lv.fit(lv.models.GaussianMixture(2, 2, "diag"), lv.Rows(X, known={"z": labels}), EXACT, seed=3)
        for k in (0, 1):
            own = X[labels == k]
            np.testing.assert_allclose(found.point["loc"][k].numpy(), own.mean(0), rtol=1e-12)
            np.testing.assert_allclose(found.point["scale"][k].numpy(), own.std(0), rtol=1e-9)
            assert float(found.point["weights"][k]) == pytest.approx(len(own) / 40, rel=1e-12)
        joint = np.log(found.point["weights"].numpy()[labels]) + stats.norm.logpdf(
            X, found.point["loc"].numpy()[labels], found.point["scale"].numpy()[labels]
        ).sum(1)
        np.testing.assert_allclose(found.row_log_likelihood.numpy(), joint, rtol=1e-12)
        np.testing.assert_array_equal(found.latent().mean("z").numpy(), np.eye(2)[labels])


def test_semi_supervised_em_is_the_maximum_of_the_likelihood() -> None:
    def negative(free: np.ndarray) -> float:
        loc, scale = free[:4].reshape(2, 2), np.exp(free[4:8].reshape(2, 2))
        parts = -np.logaddexp(0, [free[8], -free[8]]) + stats.norm.logpdf(X[:, None], loc, scale).sum(-1)
        known = np.take_along_axis(parts, SOME.clip(0)[:, None], 1)[:, 0]
        return -np.where(SOME >= 0, known, np.logaddexp.reduce(parts, 1)).sum()

    found = lv.fit(lv.models.GaussianMixture(2, 2, "diag"), lv.Rows(X, known={"z": SOME}), EXACT)
    start = np.concatenate([X[TRUE == 0].mean(0), X[TRUE == 1].mean(0), np.zeros(5)])
    best = optimize.minimize(negative, start, method="BFGS", options={"gtol": 1e-7})
    assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-7)
    np.testing.assert_allclose(found.point["loc"].numpy(), best.x[:4].reshape(2, 2), atol=1e-4)
    beliefs = found.latent().mean("z").numpy()
    assert np.array_equal(beliefs[SOME >= 0], np.eye(2)[SOME[SOME >= 0]])
    assert (beliefs[SOME < 0].max(1) < 1).any()


def test_explicit_and_collapsed_sites_agree_and_gradients_too() -> None:
    rows = lv.Rows(X, known={"z": SOME})
    start = lv.models.GaussianMixture(2, 2, "diag").initial(rows, torch.Generator().manual_seed(0))
    models = (lv.models.GaussianMixture(2, 2, "diag"), user_models.FlatMixture(2, 2))
    algorithms: tuple[Any, ...] = (lv.EM(passes=7), lv.SVI(passes=7, guide=lv.Delta()))
    for algorithm in algorithms:
        ours, theirs = (lv.fit(m, rows, algorithm, start=start, progress=False) for m in models)
        for name, value in ours.point.items():
            torch.testing.assert_close(theirs.point[name], value, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.history, theirs.history, rtol=1e-10)
    ends = [lv.fit(m, rows, lv.EM(restarts=5), start=start, progress=False).history[-1] for m in models]
    assert ends[0] == pytest.approx(ends[1], abs=1e-7)


def test_labels_of_dependent_locals_bear_on_each_other() -> None:
    x = cases.six_groups()
    z1, z2 = np.full(48, -1), np.full(48, -1)
    z1[:8], z2[4:12] = np.arange(8) % 2, np.arange(8) % 3
    rows = lv.Rows(x, known={"z1": z1, "z2": z2})
    program = program_of(user_models.TwoLevels(), rows)
    values = program.prior_draw(4)
    classes, weights, loc, scale = (values[name].numpy() for name in ("classes", "weights", "loc", "scale"))
    table = classes[:, None] * weights * stats.norm.pdf(x[:, None, None], loc, scale[:, None])
    table = np.where((z1 >= 0)[:, None, None] & (np.arange(2)[:, None] != z1[:, None, None]), 0, table)
    table = np.where((z2 >= 0)[:, None, None] & (np.arange(3) != z2[:, None, None]), 0, table)
    batch = rows.batch()
    np.testing.assert_allclose(program.score(values, batch).rows.numpy(), np.log(table.sum((1, 2))), rtol=1e-10)
    beliefs = program.beliefs(values, batch)
    for name, other in (("z1", 2), ("z2", 1)):
        by_hand = table.sum(other) / table.sum((1, 2))[:, None]
        np.testing.assert_allclose(beliefs[name].probs.numpy(), by_hand, atol=1e-10)  # type: ignore[attr-defined]
    draws = [program.joint_draw(values, batch, seed) for seed in range(40)]
    for name, labels in (("z1", z1), ("z2", z2)):
        drawn = torch.stack([draw[name] for draw in draws]).numpy()
        assert (drawn[:, labels >= 0] == labels[labels >= 0]).all()
    share = np.mean([draw["z1"].numpy()[8:12] for draw in draws])  # z2 is known there, z1 is not
    assert share == pytest.approx((table.sum(2)[8:12, 1] / table.sum((1, 2))[8:12]).mean(), abs=0.15)


def test_known_states_of_a_chain_against_a_sum_over_paths() -> None:
    lengths = [4, 2, 5]
    x = np.random.default_rng(2).poisson(4.0, 11)
    known = np.array([-1, 1, -1, -1, 0, -1, -1, -1, 1, 0, -1])
    rows = lv.Rows(x, lengths=lengths, known={"z": known})
    model = lv.models.HiddenMarkov(2, lv.emissions.Poisson(1))
    program = program_of(model, rows)
    values = program.prior_draw(1)
    initial, move, rate = (values[name].numpy() for name in ("initial", "transition", "rate"))
    scores, marginals = [], np.zeros((3, 5, 2))
    for row, (first, size) in enumerate(zip(np.cumsum(lengths) - lengths, lengths, strict=True)):
        total = 0.0
        for path in itertools.product(range(2), repeat=size):
            given = known[first : first + size]
            if any(label not in (-1, z) for label, z in zip(given, path, strict=True)):
                continue
            p = initial[path[0]] * np.prod([move[a, b] for a, b in itertools.pairwise(path)])
            p *= stats.poisson.pmf(x[first : first + size], rate[list(path), 0]).prod()
            total += p
            marginals[row, np.arange(size), path] += p
        marginals[row] /= total
        scores.append(np.log(total))
    batch = rows.batch()
    np.testing.assert_allclose(program.score(values, batch).rows.numpy(), scores, rtol=1e-10)
    belief = program.beliefs(values, batch)["z"]
    np.testing.assert_allclose(belief.marginals.numpy(), marginals, atol=1e-10)  # type: ignore[attr-defined]
    steps = lv.fit(model, rows, lv.EM(passes=10, stop=lv.Never()))
    assert np.diff(steps.history).min() >= -1e-12


def test_all_states_known_give_counts_of_moves() -> None:
    states, lengths = cases.switching(11)
    rows = lv.Rows(np.arange(len(states)) % 3, lengths=lengths, known={"z": states})
    found = lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Categorical(3)), rows, lv.EM())
    ends = np.cumsum(lengths)
    moves = np.zeros((2, 2))
    for first, last in zip(ends - lengths, ends, strict=True):
        np.add.at(moves, (states[first : last - 1], states[first + 1 : last]), 1)
    np.testing.assert_allclose(found.point["transition"].numpy(), moves / moves.sum(1, keepdims=True), rtol=1e-12)
    for k in (0, 1):
        share = np.bincount(rows["x"].numpy()[states == k], minlength=3) / (states == k).sum()
        np.testing.assert_allclose(found.point["probs"][k].numpy(), share, rtol=1e-12)


def test_labels_follow_their_rows(tmp_path: Path) -> None:
    states, lengths = cases.switching(11)
    rows = lv.Rows(np.arange(len(states)) % 3, lengths=lengths, known={"z": states, "class": np.arange(6)})
    part = rows.subset([4, 1])
    assert part.known["z"].tolist() == [*states[32:35], *states[9:13]] and part.known["class"].tolist() == [4, 1]
    batch = rows.batch([4, 1])
    assert batch.known["z"].tolist() == [[*states[32:35], -1], list(states[9:13])]
    assert batch.select([0]).known["z"].tolist() == [list(states[32:35])]
    grouped = lv.Rows([1.0, 2.0, 3.0], groups=["a", "b", "a"], known={"z": [0, 1, np.nan]})
    assert grouped.known["z"].tolist() == [0, -1, 1]
    assert rows.digest() != lv.Rows(rows.columns, lengths=lengths).digest()
    assert lv.Rows(X, known={"z": SOME}).with_weights(np.ones(40)).as_sequence().batch().known["z"].shape == (1, 40)
    found = lv.fit(lv.models.GaussianMixture(2, 2), lv.Rows(X, known={"z": SOME}), lv.EM(passes=3))
    found.save(tmp_path / "fit", datatree=False)
    again = lv.load(tmp_path / "fit")
    assert torch.equal(again.rows.known["z"], torch.as_tensor(SOME))
    torch.testing.assert_close(again.score_rows(found.rows), found.row_log_likelihood)


def test_wrong_labels_are_refused() -> None:
    model = lv.models.GaussianMixture(2, 2)
    with pytest.raises(DataError, match="label 2 of 'z' in row 7"):
        lv.fit(model, lv.Rows(X, known={"z": np.where(np.arange(40) == 7, 2, -1)}), lv.EM())
    with pytest.raises(DataError, match="row 1, step 3"):
        labels = [-1] * 12 + [5] + [-1] * 30
        lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Gaussian(2)), with_labels(cases.normal_sequences(), labels))
    with pytest.raises(NameUnknownError, match="'class'"):
        lv.fit(model, lv.Rows(X, known={"class": SOME}), lv.EM())
    with pytest.raises(ShapeError, match="shape"):
        lv.Rows(X, known={"z": SOME[:5]})
    for wrong in (-2, 0.5):
        with pytest.raises(DataError, match="whole numbers"):
            lv.Rows(X, known={"z": np.where(np.arange(40) == 7, wrong, 0)})
    with pytest.raises(ShapeError, match="of rows"):
        lv.fit(lv.models.HiddenMarkov(2, lv.emissions.Gaussian(2)), with_labels(cases.normal_sequences(), [0] * 6))
    found = lv.fit(model, X, lv.EM(passes=1))
    with pytest.raises(DataError, match="label 9"):
        found.latent(lv.Rows(X, known={"z": np.full(40, 9)}))


def with_labels(rows: lv.Rows, labels: list[int]) -> lv.Rows:
    return lv.Rows(rows.columns, lengths=rows.lengths, known={"z": labels})
