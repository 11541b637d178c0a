"""Embedding: posterior means, the same to the bit whatever stands beside a row, and never a draw."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import Tensor, nn
from user_models import ExplicitMixture, FactorAnalysis, FlatMixture, Hierarchy, TwoLevels

import latentvars as lv
from latentvars.embedding import blocks
from latentvars.errors import KindError, ModelError, NameUnknownError, SettingError, ShapeError

SIZE = 24
noise = np.random.default_rng(7)
TABLE = noise.normal(size=(SIZE, 5)) + 2.0 * (np.arange(SIZE) % 3)[:, None]
LENGTHS = [1, 2, 3, 4, 9, 9, 17, 9, 3, 1]
VECTORS = [noise.normal(size=(t, 2)) + 2.0 * (k % 2) for k, t in enumerate(LENGTHS)]
COUNTS = [noise.poisson(3 + 6 * (k % 2), size=(t, 1)) for k, t in enumerate(LENGTHS)]
CODES = [noise.integers(0, 4, size=t) for t in LENGTHS]


def mixture(covariance: str) -> lv.Fit:
    return lv.fit(lv.models.GaussianMixture(3, covariance=covariance), TABLE, lv.EM(passes=4), progress=False)


def chain(emission: Any, sequences: list[np.ndarray]) -> lv.Fit:
    return lv.fit(lv.models.HiddenMarkov(3, emission), sequences, lv.EM(passes=4), progress=False)


def vae(dtype: torch.dtype, activation: str = "softplus") -> lv.Fit:
    """Odd widths and an activation whose last elements are computed by another function than the rest."""
    model = lv.models.VAE.mlp(5, 3, (33, 17), "gaussian", activation=activation, dtype=dtype)
    return lv.from_point(model, TABLE, {})


def explicit() -> lv.Fit:
    return lv.fit(FlatMixture(3, 5), TABLE, lv.EM(passes=4), progress=False)


def two_levels() -> lv.Fit:
    return lv.fit(TwoLevels(), TABLE[:, 0], lv.EM(passes=2), progress=False)


def amortised() -> lv.Fit:
    return lv.fit(FactorAnalysis(5, 2), TABLE, lv.SVI(passes=2), progress=False)


CASES: dict[str, Callable[[], lv.Fit]] = {
    **{f"mixture-{form}": lambda form=form: mixture(form) for form in ("full", "tied", "diag", "spherical")},
    "explicit": explicit,
    "two-levels": two_levels,
    "vae-float32": lambda: vae(torch.float32),
    "vae-float64": lambda: vae(torch.float64),
    "vae-gelu": lambda: vae(torch.float32, "gelu"),
    "amortised": amortised,
    "chain-gaussian": lambda: chain(lv.emissions.Gaussian(2), VECTORS),
    "chain-poisson": lambda: chain(lv.emissions.Poisson(), COUNTS),
    "chain-categorical": lambda: chain(lv.emissions.Categorical(4), CODES),
}
FITS: dict[str, lv.Fit] = {}


def made(name: str) -> lv.Fit:
    if name not in FITS:
        FITS[name] = CASES[name]()
    return FITS[name]


def per_row(vectors: np.ndarray, rows: lv.Rows, steps: str) -> list[np.ndarray]:
    """The vectors of each row, in order."""
    if steps == "pooled" or rows.lengths is None:
        return list(vectors)
    return np.split(vectors, rows.lengths.cumsum(0)[:-1].numpy())


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


# --- the vectors are the posterior means ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["full", "tied", "diag", "spherical"])
def test_of_a_mixture_they_are_scikit_learns_responsibilities(form: str) -> None:
    fit = made(f"mixture-{form}")
    vectors = lv.Embedding(fit).transform(TABLE)
    expected = lv.models.GaussianMixture(3, covariance=form).to_sklearn(fit.point).predict_proba(TABLE)
    assert vectors.dtype == np.float64
    np.testing.assert_allclose(vectors, expected, atol=1e-12)


def test_of_a_chain_they_are_hmmlearns_smoothed_probabilities_pooled_or_each() -> None:
    fit = made("chain-gaussian")
    fitted = lv.models.HiddenMarkov(3, lv.emissions.Gaussian(2)).to_hmmlearn(fit.point)
    expected = fitted.predict_proba(np.concatenate(VECTORS), LENGTHS)
    each = lv.Embedding(fit, steps="each").transform(VECTORS)
    assert each.shape == (sum(LENGTHS), 3)
    np.testing.assert_allclose(each, expected, atol=1e-10)
    pooled = lv.Embedding(fit).transform(VECTORS)
    means = [part.mean(0) for part in np.split(expected, np.cumsum(LENGTHS)[:-1])]
    np.testing.assert_allclose(pooled, means, atol=1e-10)


def test_of_an_autoencoder_they_are_what_the_encoder_says_in_its_own_precision() -> None:
    fit = made("vae-float32")
    vectors = lv.Embedding(fit).transform(TABLE)
    with torch.no_grad():
        expected = fit.model.encoder_distribution(torch.as_tensor(TABLE)).mean.numpy()
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)


def test_an_explicit_component_is_the_collapsed_one() -> None:
    fit = made("explicit")
    collapsed = lv.from_point(lv.models.GaussianMixture(3, covariance="diag"), TABLE, fit.point)
    np.testing.assert_allclose(lv.Embedding(fit).transform(TABLE), lv.Embedding(collapsed).transform(TABLE), atol=1e-12)


def test_several_sites_stand_side_by_side_in_the_order_asked_for() -> None:
    fit, x = made("two-levels"), TABLE[:, 0]
    one, two = (lv.Embedding(fit, sites=site).transform(x) for site in ("z1", "z2"))
    assert one.shape == (SIZE, 2) and two.shape == (SIZE, 3)
    np.testing.assert_array_equal(lv.Embedding(fit, sites=["z2", "z1"]).transform(x), np.hstack([two, one]))
    both = lv.Embedding(fit)
    assert list(both.get_feature_names_out()) == ["z10", "z11", "z20", "z21", "z22"]
    np.testing.assert_array_equal(both.transform(x), np.hstack([one, two]))


# --- to the bit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=10)
@given(data=st.data())
def test_a_row_has_one_vector_in_any_order_subset_and_company(name: str, data: st.DataObject) -> None:
    fit = made(name)
    steps = data.draw(st.sampled_from(["pooled", "each"] if fit.rows.lengths is not None else ["pooled"]))
    embedding = lv.Embedding(fit, steps=steps, batch_rows=data.draw(st.integers(4, SIZE)))
    whole = per_row(lv.Embedding(fit, steps=steps).transform(fit.rows), fit.rows, steps)
    chosen = data.draw(st.lists(st.integers(0, len(fit.rows) - 1), min_size=1, max_size=SIZE))
    part = fit.rows.subset(chosen)
    assert same(per_row(embedding.transform(part), part, steps), [whole[k] for k in chosen])


@pytest.mark.parametrize("name", CASES)
def test_a_row_has_one_vector_in_every_batch_size_run_and_number_of_threads(name: str) -> None:
    fit = made(name)
    embedding = lv.Embedding(fit).fit(fit.rows)
    whole = embedding.transform(fit.rows)
    for size in (1, 2, 3, 7, len(fit.rows) - 1):
        parts = [fit.rows.subset(slice(k, k + size)) for k in range(0, len(fit.rows), size)]
        assert np.array_equal(np.concatenate([embedding.transform(part) for part in parts]), whole), size
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert np.array_equal(embedding.transform(fit.rows), whole)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_wide_networks_give_one_vector_though_their_kernels_depend_on_the_batch() -> None:
    x = np.random.default_rng(0).normal(size=(700, 784))
    for dtype in (torch.float32, torch.float64):
        model = lv.models.VAE.mlp(784, 20, (400,), "gaussian", activation="softplus", dtype=dtype)
        fit = lv.from_point(model, x[:50], {})
        plain = fit.latent(x).mean("z").numpy()
        alone = np.concatenate([fit.latent(x[k : k + 1]).mean("z").numpy() for k in range(20)])
        assert not np.array_equal(alone, plain[:20])  # what the rule is there for
        embedding = lv.Embedding(fit)
        whole = embedding.transform(x)
        np.testing.assert_allclose(whole, plain, rtol=1e-3, atol=1e-5)
        order = np.random.default_rng(1).permutation(len(x))
        assert np.array_equal(embedding.transform(x[order]), whole[order])
        assert all(np.array_equal(embedding.transform(x[k : k + 1])[0], whole[k]) for k in range(8))


@dataclass(frozen=True)
class Volatile:
    """A fit whose numbers depend a little on all that they should not: place, batch, padding, threads, weights."""

    steps: bool = False
    sites: tuple[str, ...] = ("z",)

    def latent(self, data: Any) -> Volatile.Means:
        rows = lv.Rows.of(data)
        batch = rows.batch()
        flaws = 1e-7 * torch.arange(1.0, len(rows) + 1, dtype=torch.float64)
        flaws = flaws + 1e-7 * (len(rows) + rows.steps * self.steps + torch.get_num_threads()) + 1e-7 * batch.weights
        if self.steps:
            flaws = flaws + 1e-7 * batch.x.shape[1]
        if batch.observed is not None:
            flaws = flaws + 1e-7 * len(batch.observed["x"].flatten(1).unique(dim=0))
        mean = batch.x.double().nan_to_num(nan=3.0) * (1 + flaws.reshape(-1, *[1] * (batch.x.ndim - 1)))
        return Volatile.Means({"z": mean})

    @dataclass(frozen=True)
    class Means:
        values: dict[str, Any]
        sites: tuple[str, ...] = ("z",)

        def mean(self, name: str | None = None) -> Any:
            return self.values[name or "z"]


def test_what_depends_on_place_and_company_is_held_fixed() -> None:
    x = np.random.default_rng(0).normal(size=(1_500, 2))
    source = Volatile()
    assert not np.array_equal(source.latent(x[::-1]).mean(), source.latent(x).mean().flip(0))
    embedding = lv.Embedding(source)
    whole = embedding.transform(lv.Rows(x, weights=np.arange(1.0, 1_501.0)))
    np.testing.assert_allclose(whole, x, rtol=1e-3)
    for order in (np.arange(1_500)[::-1], np.arange(3), np.array([9, 9, 9, 4]), np.arange(700, 1_400)):
        assert np.array_equal(embedding.transform(x[order]), whole[order])
    assert np.array_equal(lv.Embedding(source, batch_rows=100).transform(x), whole)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert np.array_equal(embedding.transform(x), whole)
    finally:
        torch.set_num_threads(before)


def test_what_others_miss_is_held_fixed() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    embedding = lv.Embedding(Volatile())
    whole = embedding.transform(x)
    for k in range(40):
        assert np.array_equal(embedding.transform(x[k : k + 1]), whole[k : k + 1])
    sequences = [x[k : k + 1 + k % 5] for k in range(100)]
    embedding = lv.Embedding(Volatile(steps=True), steps="each")
    whole = embedding.transform(sequences)
    assert np.array_equal(np.concatenate([embedding.transform([one]) for one in sequences]), whole)


def test_rows_with_gaps_give_the_exact_posterior_of_what_was_observed() -> None:
    x = TABLE.copy()
    x[::3, 0], x[1::4, 3:] = np.nan, np.nan
    fit = made("mixture-full")
    vectors = lv.Embedding(fit).transform(x)
    weights, loc, covariance = (fit.point[name].numpy() for name in ("weights", "loc", "covariance"))
    for row, vector in zip(x, vectors, strict=True):
        o = ~np.isnan(row)
        laws = [multivariate_normal(loc[k][o], covariance[k][np.ix_(o, o)]) for k in range(3)]
        joint = weights * [law.pdf(row[o]) for law in laws]
        np.testing.assert_allclose(vector, joint / joint.sum(), atol=1e-10)
    order = np.random.default_rng(0).permutation(SIZE)[:17]
    assert np.array_equal(lv.Embedding(fit).transform(x[order]), vectors[order])


def test_the_lengths_of_other_sequences_are_held_fixed() -> None:
    embedding = lv.Embedding(Volatile(steps=True))
    for sequences in (VECTORS, VECTORS * 12):
        whole = embedding.transform(sequences)
        assert np.array_equal(embedding.transform(sequences[::-1]), whole[::-1])
        alone = np.concatenate([embedding.transform([one]) for one in sequences[: len(LENGTHS)]])
        assert np.array_equal(alone, whole[: len(LENGTHS)])
    np.testing.assert_allclose(whole, [one.mean(0) for one in VECTORS * 12], rtol=1e-3, atol=1e-6)


def test_threads_of_the_caller_do_not_disturb_one_another() -> None:
    fit = made("vae-float32")
    embedding, found = lv.Embedding(fit), {}
    whole, before = embedding.transform(TABLE), torch.get_num_threads()

    def work(k: int) -> None:
        found[k] = [embedding.transform(TABLE[k:]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(part, whole[k:]) for k, parts in found.items() for part in parts)
    assert torch.get_num_threads() == before


def test_torchs_generator_is_left_alone() -> None:
    fit = made("amortised")  # whose networks torch's generator initialises
    before = torch.get_rng_state()
    lv.Embedding(fit).transform(TABLE)
    assert torch.equal(torch.get_rng_state(), before)


# --- blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequences", [None, VECTORS * 9])
def test_blocks_cover_each_row_once_at_a_slot_of_its_own(sequences: list[np.ndarray] | None) -> None:
    rows = lv.Rows(np.random.default_rng(0).normal(size=(3_000, 2))) if sequences is None else lv.Rows(sequences)
    keys, members = blocks.fingerprints(rows), np.arange(0, len(rows), 2)
    shapes: dict[int, set[tuple[int, int]]] = {}
    covered, slot_of = [], {}
    for block in blocks.blocks(rows, keys, members):
        covered += block.members.tolist()
        steps = 1 if block.rows.lengths is None else int(block.rows.lengths.max())
        shapes.setdefault(steps, set()).add((len(block.rows), steps))
        for place, member in zip(block.places.tolist(), block.members.tolist(), strict=True):
            slot_of[member] = place
            found = blocks.rows_at(block.rows, np.array([place])).columns["x"]
            assert torch.equal(found, blocks.rows_at(rows, np.array([member])).columns["x"])
    assert sorted(covered) == members.tolist()
    assert all(len(shape) == 1 for shape in shapes.values())
    if sequences is None:
        assert len(set(slot_of.values())) > 450  # well spread over the 512


def test_fingerprints_tell_rows_apart_and_equal_rows_together() -> None:
    x = np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [np.nan, 1.0], [-np.nan, 1.0], [1e-300, 1.0]])
    rows = lv.Rows(x)
    keys = blocks.fingerprints(rows)
    assert blocks.originals(rows, keys).tolist() == [0, 1, 2, 0, 4, 4, 6]  # 1 / 0 is not 1 / −0
    counts = lv.Rows(np.arange(100_000))
    assert len(set(blocks.fingerprints(counts).tolist())) == 100_000
    # steps of another order, and one more zero, are another sequence
    ragged = lv.Rows([np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.0]), np.array([0.0, 0.0])])
    assert len(set(blocks.fingerprints(ragged).tolist())) == 4


def test_a_collision_of_hashes_costs_time_and_nothing_else() -> None:
    rows = lv.Rows(TABLE[:4])
    assert blocks.originals(rows, np.zeros(4, np.uint64)).tolist() == [0, 1, 2, 3]


def test_equal_rows_are_computed_once() -> None:
    @dataclass(frozen=True)
    class Counting(Volatile):
        asked: list[int] = field(default_factory=list)

        def latent(self, data: Any) -> Volatile.Means:
            self.asked.append(len(data))
            return super().latent(data)

    source = Counting()
    vectors = lv.Embedding(source).transform(np.tile([[1.0, 2.0], [3.0, 4.0]], (5_000, 1)))
    assert sum(source.asked) < 2_000 and len(np.unique(vectors, axis=0)) == 2


# --- names and shapes ----------------------------------------------------------------------------------------------


def test_names_come_from_the_site_and_its_axes() -> None:
    assert list(lv.Embedding(made("mixture-full")).get_feature_names_out()) == [f"z_component_{k}" for k in range(3)]
    assert list(lv.Embedding(made("chain-poisson")).get_feature_names_out()) == [f"z_state_{k}" for k in range(3)]
    assert list(lv.Embedding(made("vae-float32")).get_feature_names_out()) == [f"z_latent_{k}" for k in range(3)]
    assert list(lv.Embedding(made("explicit")).get_feature_names_out()) == ["z0", "z1", "z2"]


class Labelled(ExplicitMixture):
    """A user's model that names and labels the axis of its latent."""

    def dims(self) -> dict[str, tuple[str, ...]]:
        return {"z": ("row", "mood")}

    def coords(self, rows: lv.Rows) -> dict[str, list[str]]:
        return {"mood": ["calm", "wild"]}


def test_labels_of_the_user_are_the_names() -> None:
    embedding = lv.Embedding(lv.Fitter(Labelled(), lv.EM(passes=2))).fit(lv.Rows(TABLE[:, 0]))
    assert list(embedding.get_feature_names_out()) == ["z_calm", "z_wild"]


class Path:
    """A latent number for each step, and one for each sequence, in the guide's own words."""

    def __init__(self) -> None:
        self.scale = nn.Linear(1, 1, dtype=torch.float64)

    def model(self, rows: lv.Batch) -> None:
        steps = rows.x.shape[1]
        with rows.plate():
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(level[:, None].expand(-1, steps), 1.0).to_event(1))
            law = dist.Normal(z, 1.0).mask(rows.mask).to_event(1)
            pyro.sample("x", law, obs=rows.x)

    def guide(self, rows: lv.Batch) -> None:
        weight = self.scale.weight.squeeze()
        with rows.plate():
            pyro.sample("level", dist.Normal(rows.x[:, 0], 1.0))
            pyro.sample("z", dist.Normal(weight * rows.x + 5.0, 1.0).to_event(1))


def test_a_continuous_latent_for_each_step_beside_one_for_each_sequence() -> None:
    series = [noise.normal(size=t) for t in (3, 1, 6, 2)]
    fit = lv.from_point(Path(), series, {})
    weight = float(fit.model.scale.weight.detach())
    first = np.array([one[0] for one in series])
    pooled = lv.Embedding(fit, sites=["z", "level"])
    expected = np.stack([[weight * one.mean() + 5 for one in series], first], 1)
    np.testing.assert_allclose(pooled.transform(series), expected)
    assert list(pooled.get_feature_names_out()) == ["z", "level"]
    each = lv.Embedding(fit, sites=["z", "level"], steps="each").transform(series)
    expected = np.stack([weight * np.concatenate(series) + 5, np.repeat(first, [3, 1, 6, 2])], 1)
    np.testing.assert_allclose(each, expected)


def test_observations_become_one_sequence_where_the_model_is_a_chain() -> None:
    fit = made("chain-gaussian")
    x = np.concatenate(VECTORS)
    assert lv.Embedding(fit).transform(x).shape == (1, 3)
    each = lv.Embedding(fit, steps="each").transform(x)
    np.testing.assert_allclose(each, fit.latent([x]).mean("z")[0].numpy(), atol=1e-12)


@dataclass(frozen=True)
class Doubled:
    """A plain object with posterior means: nothing of a fit but ``latent``."""

    def latent(self, data: Any) -> Volatile.Means:
        return Volatile.Means({"z": 2 * lv.Rows.of(data)["x"].numpy()})


def test_anything_with_posterior_means_is_a_source() -> None:
    embedding = lv.Embedding(Doubled())
    np.testing.assert_array_equal(embedding.transform(TABLE), 2 * TABLE)
    with pytest.raises(ValueError, match="call fit"):
        embedding.get_feature_names_out()
    assert list(embedding.fit(TABLE).get_feature_names_out()) == [f"z{k}" for k in range(5)]
    np.testing.assert_array_equal(lv.Embedding(lambda rows: Doubled()).fit_transform(TABLE), 2 * TABLE)


# --- recipes and fits ----------------------------------------------------------------------------------------------


def test_a_recipe_is_the_fit_that_it_makes() -> None:
    recipe = lv.Fitter(lv.models.GaussianMixture(2), lv.EM(passes=5), seed=3)
    direct = lv.fit(lv.models.GaussianMixture(2), TABLE, lv.EM(passes=5), seed=3, progress=False)
    made_now, again = recipe(TABLE), recipe(TABLE)
    for fit in (made_now, again):
        assert fit.seed == 3 and all(torch.equal(fit.point[name], direct.point[name]) for name in direct.point)
    other = replace(recipe, seed=4)(TABLE)
    assert not torch.equal(other.point["loc"], direct.point["loc"])
    embedding = lv.Embedding(recipe).fit(TABLE)
    np.testing.assert_array_equal(embedding.transform(TABLE), lv.Embedding(direct).transform(TABLE))


def test_fit_re_uses_a_fit_and_checks_the_data() -> None:
    fit = made("mixture-full")
    embedding = lv.Embedding(fit).fit(TABLE[:10] + 1)
    assert embedding.fit_ is fit and embedding.n_features_in_ == 5
    np.testing.assert_array_equal(embedding.transform(TABLE), lv.Embedding(fit).transform(TABLE))
    with pytest.raises(ValueError, match="4 features"):
        lv.Embedding(fit).fit(TABLE[:, :4])
    with pytest.raises(ShapeError, match="sequences"):
        lv.Embedding(fit).fit([TABLE, TABLE])


# --- bad input -----------------------------------------------------------------------------------------------------


def test_draws_and_distances_belong_to_different_types() -> None:
    fit = made("mixture-full")
    for ask in ("sample", "draws"):
        with pytest.raises(KindError, match=r"fit.latent\(rows\).sample"):
            getattr(lv.Embedding(fit), ask)(5)
    latent = fit.latent()
    assert not hasattr(latent, "transform")
    with pytest.raises(KindError, match="BeliefIndex"):
        latent.distance(0, 1)
    with pytest.raises(KindError, match="LatentPosterior in the place of a fit"):
        lv.Embedding(latent).fit(TABLE)


@pytest.mark.parametrize("source", [None, 3, lv.models.GaussianMixture(2), lv.Fit])
def test_what_is_no_source_is_said_to_be_none(source: Any) -> None:
    with pytest.raises(KindError, match=r"Embedding\(lv.Fitter\(model\)\)"):
        lv.Embedding(source).fit(TABLE)


def test_a_recipe_that_makes_no_fit() -> None:
    with pytest.raises(KindError, match="ndarray in the place of a fit"):
        lv.Embedding(lambda rows: np.zeros(3)).fit(TABLE)


def test_a_model_without_locals_cannot_embed() -> None:
    rows = lv.Rows({"y": TABLE[:, 0], "group": np.arange(SIZE) % 4})
    fit = lv.fit(Hierarchy(4), rows, lv.SVI(passes=2), progress=False)
    for embed in (lv.Embedding(fit).fit, lv.Embedding(fit).transform):
        with pytest.raises(ModelError, match="no local latents"):
            embed(rows)


class Lookup(FactorAnalysis):
    """A guide that looks its row up instead of reading it."""

    def guide(self, rows: lv.Batch) -> None:
        places: Tensor = rows.index.double()[:, None] / 10 + self.encoder.line.bias
        with rows.plate():
            pyro.sample("z", dist.Normal(places, 1.0).to_event(1))


def test_a_guide_that_looks_rows_up_is_refused() -> None:
    fit = lv.fit(Lookup(5, 2), TABLE, lv.SVI(passes=1), progress=False)
    with pytest.raises(ModelError, match="two equal rows whose posterior means of 'z' differ"):
        lv.Embedding(fit).fit(TABLE)


def test_settings_are_checked() -> None:
    fit = made("mixture-full")
    with pytest.raises(SettingError, match="steps='last'"):
        lv.Embedding(fit, steps="last").transform(TABLE)
    with pytest.raises(SettingError, match="batch_rows=0"):
        lv.Embedding(fit, batch_rows=0).fit(TABLE)
    for sites in ("y", ["z", "y"], []):
        with pytest.raises(NameUnknownError, match=r"local sites of the model: \['z'\]"):
            lv.Embedding(fit, sites=sites).transform(TABLE)
    with pytest.raises(ShapeError, match="input_features should have length equal"):
        lv.Embedding(fit).get_feature_names_out(["a"])
