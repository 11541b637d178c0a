"""Rows and Batch: what goes in comes out, in the right order, or is refused with a reason."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from latentvars.errors import DataError, KindError, LatentVarsError, NameUnknownError, SettingError, ShapeError
from latentvars.rows import ROWS_PLATE, Batch, Rows

TABLE = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
RAGGED = [np.arange(3.0), np.arange(10.0, 11.0), np.arange(20.0, 22.0)]


def equal(value: torch.Tensor, expected: Any) -> None:
    np.testing.assert_array_equal(value.numpy(), np.asarray(expected))


# --- what can be passed


@pytest.mark.parametrize(
    "x",
    [
        TABLE,
        TABLE.astype(np.float32),
        TABLE.astype(">f8"),
        np.asfortranarray(TABLE),
        TABLE[::-1, ::-1][::-1, ::-1],
        TABLE.astype(object),
        TABLE.tolist(),
        [tuple(row) for row in TABLE],
        torch.tensor(TABLE),
        torch.tensor(TABLE, dtype=torch.float16, requires_grad=True),
        pd.DataFrame(TABLE),
        pd.DataFrame(TABLE).astype("Float64"),
        pl.DataFrame(TABLE),
        {"x": TABLE},
        {"x": pl.DataFrame(TABLE)},
        np.ma.masked_array(TABLE, mask=False),
    ],
    ids=lambda x: type(x).__name__,
)
def test_every_kind_of_input_gives_the_same_rows(x: Any) -> None:
    rows = Rows(x)
    assert rows["x"].dtype == torch.float64 and not rows["x"].requires_grad
    equal(rows["x"], TABLE)
    assert rows.digest() == Rows(TABLE).digest()
    assert len(rows) == rows.steps == 3 and rows.lengths is None and rows.observed is None


@pytest.mark.parametrize("x", [[4, 5, 6], np.array([4, 5, 6], np.uint8), pd.Series([4, 5, 6]), pl.Series([4, 5, 6])])
def test_integers_stay_integers_and_booleans_become_floats(x: Any) -> None:
    assert Rows(x)["x"].dtype == torch.int64
    equal(Rows(x)["x"], [4, 5, 6])
    assert Rows(np.asarray(x) > 4)["x"].dtype == torch.float64
    equal(Rows(np.asarray(x) > 4)["x"], [0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "x",
    [
        [[1, None], [3, 4]],
        [[1.0, float("nan")], [3.0, 4.0]],
        np.array([[1, None], [3, 4]], object),
        np.ma.masked_array([[1, 2], [3, 4]], mask=[[False, True], [False, False]]),
        pd.DataFrame({"a": [1, 3], "b": [None, 4.0]}),
        pd.DataFrame({"a": [1, 3], "b": pd.array([None, 4], dtype="Int64")}),
        pl.DataFrame({"a": [1, 3], "b": [None, 4]}),
        pl.DataFrame({"a": [1.0, 3.0], "b": [None, 4.0]}),
    ],
)
def test_missing_entries_are_nan_and_masked(x: Any) -> None:
    rows = Rows(x)
    assert rows.observed is not None
    equal(rows["x"], [[1, np.nan], [3, 4]])
    equal(rows.observed["x"], [[True, False], [True, True]])
    batch = rows.batch([0])
    assert batch.observed is not None
    equal(batch.observed["x"], [[True, False]])
    assert rows.subset([1]).observed is None


def test_memory_is_shared_and_the_input_never_written_to() -> None:
    x = np.arange(600_000.0).reshape(-1, 2)  # smaller ones are copied where they lie off torch's boundaries
    x.flags.writeable = False
    rows = Rows(x)
    assert rows["x"].data_ptr() == x.ctypes.data == rows.batch().x.data_ptr()


def test_names_of_features_and_rows_are_kept() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}, index=["u", "v"])
    rows = Rows({"left": frame, "right": frame["a"], "third": np.ones((2, 1)), "image": np.ones((2, 4, 3))})
    assert rows.features == {"left": ("a", "b"), "third": ("third",), "image": ("image0", "image1", "image2")}
    assert list(rows.names) == ["u", "v"] and rows.subset([1, 1]).names == ("v", "v")
    assert Rows(pl.DataFrame({"p": [1], "q": [2.5]})).features == {"x": ("p", "q")}
    assert list(Rows(TABLE, names=["k", "k", "l"]).names) == ["k", "k", "l"]
    assert list(Rows(TABLE).names) == [0, 1, 2]


def test_of_returns_rows_as_they_are() -> None:
    rows = Rows(TABLE)
    assert Rows.of(rows) is rows and Rows.of(TABLE).digest() == rows.digest()


def test_rows_survive_a_copy_between_processes() -> None:
    rows = Rows(RAGGED, weights=[1, 2, 3])
    assert pickle.loads(pickle.dumps(rows)).digest() == rows.digest()


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (Rows(TABLE), "Rows(3 rows, x [2])"),
        (Rows({"y": [1, None]}, weights=[2, 3]), "Rows(2 rows, y scalar, 1 missing entries, weights sum to 5)"),
        (Rows(RAGGED), "Rows(3 sequences of 1 to 3 steps, x scalar)"),
    ],
)
def test_repr_is_one_line(rows: Rows, text: str) -> None:
    assert repr(rows) == text


# --- sequences


@pytest.mark.parametrize(
    "rows",
    [
        Rows(RAGGED),
        Rows([torch.tensor(part) for part in RAGGED]),
        Rows([pd.Series(part) for part in RAGGED]),
        Rows({"x": RAGGED}),
        Rows(np.concatenate(RAGGED), lengths=[3, 1, 2]),
        Rows(np.concatenate(RAGGED), groups=["a", "a", "a", "b", "c", "c"]),
        Rows([20.0, 0.0, 1.0, 10.0, 21.0, 2.0], groups=pd.Series(list("caabca"))).subset([1, 2, 0]),
    ],
)
def test_every_way_to_give_sequences_pads_alike(rows: Rows) -> None:
    batch = rows.batch()
    equal(batch.x, [[0, 1, 2], [10, 10, 10], [20, 21, 21]])
    assert batch.mask is not None and batch.lengths is not None
    equal(batch.mask, [[True, True, True], [True, False, False], [True, True, False]])
    equal(batch.steps(batch.x), np.concatenate(RAGGED))
    assert rows.steps == 6 and len(rows) == len(batch) == 3
    equal(rows["x"], np.concatenate(RAGGED))


def test_groups_need_not_be_adjacent_and_name_the_rows() -> None:
    rows = Rows({"x": np.arange(6.0), "y": np.arange(12).reshape(6, 2)}, groups=[7, 3, 7, 5, 3, 7])
    assert rows.names == (7, 3, 5) and rows.lengths is not None
    equal(rows.lengths, [3, 2, 1])
    equal(rows["x"], [0, 2, 5, 1, 4, 3])
    equal(rows["y"][:, 0], [0, 4, 10, 2, 8, 6])


def test_frames_as_sequences_keep_their_features() -> None:
    frames = [pl.DataFrame({"a": [1, 2], "b": [3, 4]}), pl.DataFrame({"a": [5.5], "b": [6.0]})]
    rows = Rows(frames)
    assert rows.features == {"x": ("a", "b")} and list(rows.names) == [0, 1]
    equal(rows.batch().x, [[[1, 3], [2, 4]], [[5.5, 6], [5.5, 6]]])


def test_missing_steps_of_sequences_are_masked_and_padding_is_not_observed() -> None:
    batch = Rows([np.array([[1.0, np.nan]]), np.ones((2, 2))]).batch()
    assert batch.observed is not None
    equal(batch.observed["x"], [[[True, False], [False, False]], [[True, True], [True, True]]])


# --- batches


@pytest.mark.parametrize("rows", [Rows(np.arange(7.0)), Rows([np.arange(t + 1.0) for t in range(7)])])
@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_batches_cover_each_row_once(rows: Rows, size: int) -> None:
    seen = [batch.index for batch in rows.batches(size, seed=4)]
    assert [len(index) for index in seen[:-1]] == [size] * (len(seen) - 1)
    assert sorted(torch.cat(seen).tolist()) == list(range(7))


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    rows = Rows(np.arange(100.0))

    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([batch.index for batch in rows.batches(9, seed=seed, epoch=epoch)]).tolist()

    before = torch.get_rng_state()
    first = order(0, 0)
    torch.rand(3)
    np.random.default_rng().random()
    assert order(0, 0) == first and order(0, 1) != first and order(1, 0) != first
    torch.set_rng_state(before)
    order(0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert [batch.index.tolist() for batch in rows.batches(60, shuffle=False)] == [
        list(range(60)),
        list(range(60, 100)),
    ]
    assert [batch.index.tolist() for batch in rows.batches()] == [list(range(100))]


def test_dtype_is_for_floating_columns_and_weights() -> None:
    batch = Rows({"x": TABLE, "n": [1, 2, 3]}).batch([2, 0], dtype=torch.float32)
    assert batch["x"].dtype == batch.weights.dtype == torch.float32 and batch["n"].dtype == torch.int64
    equal(batch["n"], [3, 1])
    equal(batch.index, [2, 0])


@pytest.mark.parametrize(
    "index", [[1, 0], np.array([-2, 0]), torch.tensor([1, 0]), slice(1, None, -1), slice(-2, None, -1)]
)
def test_rows_are_picked_by_positions_and_slices(index: Any) -> None:
    rows = Rows(TABLE, weights=[1, 2, 3])
    equal(rows.batch(index).x, TABLE[[1, 0]])
    equal(rows.subset(index)["x"], TABLE[[1, 0]])
    equal(rows.subset(index).weights, [2, 1])


def test_rows_are_picked_by_a_boolean_per_row() -> None:
    equal(Rows(RAGGED).batch([False, True, True]).x, [[10, 10], [20, 21]])


@pytest.mark.parametrize("rows", [Rows(TABLE, weights=[1, 2, 3]), Rows(RAGGED, weights=[1, 2, 3])])
def test_select_is_the_batch_of_the_picked_rows(rows: Rows) -> None:
    picked, direct = rows.batch([2, 0, 1]).select([2, 0]), rows.batch([1, 2])
    for name in ("index", "weights"):
        equal(getattr(picked, name), getattr(direct, name))
    equal(picked.x, direct.x)
    assert picked.total == 3 and (picked.lengths is None) == (rows.lengths is None)


def test_the_plate_scales_by_rows_over_batch() -> None:
    def model(batch: Batch) -> None:
        with batch.plate():
            pyro.sample("obs", dist.Normal(0.0, 1.0), obs=batch.x)

    rows = Rows(np.linspace(-2, 2, 12))
    parts = [pyro.poutine.trace(model).get_trace(batch) for batch in rows.batches(3, seed=1)]
    whole = dist.Normal(0.0, 1.0).log_prob(rows["x"]).sum()
    assert ROWS_PLATE in parts[0].nodes
    torch.testing.assert_close(torch.stack([part.log_prob_sum() for part in parts]).mean(), whole.to(torch.float64))


def test_x_is_the_column_x_or_the_only_one() -> None:
    equal(Rows({"y": [1, 2]}).batch().x, [1, 2])
    equal(Rows({"y": [1, 2], "x": [3, 4]}).batch().x, [3, 4])
    with pytest.raises(NameUnknownError, match=r"'y', 'z'"):
        _ = Rows({"y": [1, 2], "z": [3, 4]}).batch().x
    with pytest.raises(NameUnknownError, match=r"'z'.*\n.*'y'"):
        Rows({"y": [1, 2]}).batch()["z"]


# --- laws


@st.composite
def sequences(draw: st.DrawFn) -> list[np.ndarray]:
    trailing = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    numbers = st.floats(-1e6, 1e6)
    return [draw(hnp.arrays(np.float64, (length, *trailing), elements=numbers)) for length in lengths]


@given(sequences(), st.integers(1, 7), st.integers(0, 2**31))
def test_padding_and_batching_lose_nothing(parts: list[np.ndarray], size: int, seed: int) -> None:
    rows = Rows(parts)
    found: dict[int, np.ndarray] = {}
    for batch in rows.batches(size, seed=seed):
        assert batch.mask is not None and batch.lengths is not None
        assert batch.x.shape == (len(batch), int(batch.lengths.max()), *parts[0].shape[1:])
        for i, position in enumerate(batch.index.tolist()):
            length = int(batch.lengths[i])
            found[position] = batch.x[i, :length].numpy()
            assert bool((batch.x[i, length:] == batch.x[i, length - 1]).all())
    for position, part in enumerate(parts):
        np.testing.assert_array_equal(found[position], part)


@given(sequences(), st.data())
def test_subset_then_batch_is_batch_of_the_index(parts: list[np.ndarray], data: st.DataObject) -> None:
    rows = Rows(parts)
    index = data.draw(st.lists(st.integers(0, len(parts) - 1), min_size=1, max_size=8))
    subset = rows.subset(index)
    equal(subset.batch().x, rows.batch(index).x)
    assert subset.digest() == Rows([parts[i] for i in index]).digest()


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=st.floats(-9, 9)))
def test_any_shape_goes_in_and_comes_out(x: np.ndarray) -> None:
    rows = Rows(x)
    equal(rows.batch().x, x)
    assert rows.schema.columns == {"x": x.shape[1:]}
    assert (x.ndim == 1 and rows.features == {}) or len(rows.features["x"]) == x.shape[-1]
    rows.schema.check(rows.subset([0]))


# --- digest


def test_the_digest_sees_values_shapes_lengths_and_weights() -> None:
    base = np.arange(6.0)
    others = [
        Rows(base),
        Rows(base + 1e-12),
        Rows(base.reshape(3, 2)),
        Rows(base.reshape(2, 3)),
        Rows(base.astype(int)),
        Rows(base, lengths=[2, 4]),
        Rows(base, lengths=[4, 2]),
        Rows(base, weights=[1, 1, 1, 1, 1, 2]),
        Rows({"y": base}),
        Rows([*base[:5], np.nan]),
    ]
    assert len({rows.digest() for rows in others}) == len(others)
    assert Rows({"a": base, "b": base + 1}).digest() == Rows({"b": base + 1, "a": base}).digest()


def test_the_digest_takes_every_bit_pattern_of_nan_for_missing() -> None:
    other = np.array([0x7FF8000000000001], np.uint64).view(np.float64)
    assert Rows([1.0, other[0]]).digest() == Rows([1.0, None]).digest()
    assert Rows(np.append(other, 1.0)).digest() == Rows([None, 1.0]).digest()


@pytest.mark.long  # every fit that test_storage.py loads in a fresh process is refused if it is not
def test_the_digest_is_the_same_in_another_process() -> None:
    code = "from latentvars.rows import Rows; print(Rows([[1, None], [2.5, 3]], weights=[1, 2]).digest())"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert text.strip() == Rows([[1, None], [2.5, 3]], weights=[1, 2]).digest()


# --- schema


def test_the_schema_accepts_what_fits() -> None:
    schema = Rows(pd.DataFrame({"a": [1.0], "b": [2.0]})).schema
    schema.check(Rows(TABLE))  # without names there is nothing to compare
    schema.check(Rows({"x": TABLE, "further": [1, 2, 3]}))


@pytest.mark.parametrize(
    ("fitted", "new", "error", "message"),
    [
        (Rows(np.ones((3, 4))), Rows(np.ones((3, 5))), ShapeError, r"5 features in 'x'\n  needed: 4 features in 'x'"),
        (Rows([1.0, 2.0]), Rows([[1.0], [2.0]]), ShapeError, "1 features in 'x'\n  needed: one number per row in 'x'"),
        (Rows(RAGGED), Rows(np.ones(3)), ShapeError, "single observations\n  needed: rows that are sequences"),
        (Rows(np.ones(3)), Rows(RAGGED), ShapeError, "sequences\n  needed: rows that are single observations"),
        (Rows({"y": [1.0]}), Rows({"z": [1.0]}), NameUnknownError, "the column 'y'\n  needed: one of 'z'"),
        (
            Rows(pd.DataFrame({"a": [1.0], "b": [2.0]})),
            Rows(pd.DataFrame({"b": [1.0], "a": [2.0]})),
            DataError,
            r"\('b', 'a'\).*\n.*\('a', 'b'\)",
        ),
    ],
)
def test_the_schema_refuses_what_does_not_fit(fitted: Rows, new: Rows, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fitted.schema.check(new)


# --- bad input


@pytest.mark.parametrize(
    ("x", "settings", "error", "message"),
    [
        (np.empty((0, 3)), {}, DataError, "empty data"),
        ([], {}, DataError, "empty data"),
        ({}, {}, DataError, "without columns"),
        (np.empty((3, 0)), {}, DataError, r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1 is required"),
        (pl.DataFrame(), {}, DataError, "empty data"),
        (5.0, {}, KindError, "is float"),
        (None, {}, KindError, "NoneType"),
        ("text", {}, KindError, "is str"),
        (np.array(5.0), {}, ShapeError, "single value"),
        (torch.tensor(5.0), {}, ShapeError, "single value"),
        (np.ones(2) * 1j, {}, DataError, "Complex data not supported"),
        (torch.ones(2) * 1j, {}, DataError, "Complex data not supported"),
        (np.array(["a", "b"]), {}, DataError, "dtype <U1"),
        (np.array([{}], object), {}, KindError, "must be a string or a real number"),
        (np.array([1, "a"], object), {}, DataError, "the text 'a'"),
        (np.array(["2020-01-01"], "datetime64[D]"), {}, DataError, "datetime64"),
        (np.array([2**63], np.uint64), {}, DataError, "below 2\\*\\*63"),
        ([[1, 2], [3]], {}, ShapeError, "differ in length"),
        ([[1.0, np.inf], [-np.inf, 3.0]], {}, DataError, r"'x' has 2 infinite values, the first at \(0, 1\), \(1, 0\)"),
        ([[np.nan, np.inf]], {}, DataError, "1 infinite"),
        ([1e308, 1e308, np.inf], {}, DataError, "1 infinite"),
        (scipy.sparse.csr_matrix(np.eye(2)), {}, KindError, "toarray"),
        (torch.eye(2).to_sparse(), {}, KindError, "to_dense"),
        (pd.DataFrame({"a": [1], "b": ["u"], "c": pd.Categorical(["v"])}), {}, DataError, "'b', 'c' do not hold"),
        (pl.DataFrame({"a": [1], "b": ["u"], "c": [[1]]}), {}, DataError, "'b', 'c' do not hold"),
        (pd.Series(["u", "v"], dtype="category"), {}, DataError, "dtype category"),
        (pd.Series(pd.to_datetime(["2020-01-01"])), {}, DataError, "dtype datetime64"),
        ({"a": [1, 2], "b": [1, 2, 3]}, {}, ShapeError, "'a': 2, 'b': 3"),
        ({1: [1, 2]}, {}, KindError, "column name 1"),
        (
            {"a": pd.Series([1, 2], index=[0, 2]), "b": pd.Series([1, 2], index=[2, 0])},
            {},
            DataError,
            "indexes differ",
        ),
        ([np.ones((2, 3)), np.ones((2, 4))], {}, ShapeError, r"sequence 1 of column 'x' has the shape \[2, 4\]"),
        ([np.ones(2), np.ones(0)], {}, DataError, "sequence 1 of column 'x' has no steps"),
        ([np.ones(2), 3.0], {}, KindError, "item 1 is float"),
        ([pl.DataFrame({"a": [1]}), pl.DataFrame({"b": [1]})], {}, DataError, r"\('b',\).*\('a',\)"),
        ({"a": RAGGED, "b": RAGGED[::-1]}, {}, ShapeError, "sequences differ in length"),
        ({"a": RAGGED, "b": np.ones(6)}, {}, ShapeError, "not all lists of arrays"),
        (RAGGED, {"lengths": [3, 1, 2]}, ShapeError, "by lengths and by a list of arrays"),
        (np.ones(3), {"lengths": [3], "groups": [1, 1, 1]}, ShapeError, "by lengths and by groups"),
        (np.ones(3), {"lengths": [2, 2]}, ShapeError, "lengths that sum to 4\n  needed: the 3 steps"),
        (np.ones(3), {"lengths": [3, 0]}, ShapeError, "positive whole numbers"),
        (np.ones(3), {"lengths": [4, -1]}, ShapeError, "positive whole numbers"),
        (np.ones(3), {"lengths": [1.5, 1.5]}, ShapeError, "positive whole numbers"),
        (np.ones(3), {"lengths": 3}, KindError, "'lengths' is int"),
        (np.ones(3), {"groups": [1, 1]}, ShapeError, "2 groups"),
        (np.ones(3), {"groups": [1, None, 1]}, DataError, "no id at step 1"),
        (np.ones(3), {"groups": [[1], [2], [3]]}, KindError, "more than one id per step"),
        (np.ones(3), {"weights": [1, 2]}, ShapeError, r"weights of shape \[2\]"),
        (np.ones(3), {"weights": [[1, 2, 3]]}, ShapeError, r"weights of shape \[1, 3\]"),
        (np.ones(3), {"weights": [1, -2, 3]}, DataError, r"negative or not finite at \[1\]"),
        (np.ones(3), {"weights": [1, np.nan, np.inf]}, DataError, r"at \[1, 2\]"),
        (np.ones(3), {"weights": [0, 0, 0]}, DataError, "all zero"),
        (RAGGED, {"weights": np.ones(6)}, ShapeError, "each of the 3 rows"),
        (np.ones(3), {"names": ["a"]}, ShapeError, "1 names"),
        (Rows(TABLE), {}, KindError, "Rows.of"),
    ],
)
def test_bad_input_is_refused_with_a_reason(
    x: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        Rows(x, **settings)
    assert isinstance(caught.value, LatentVarsError) and caught.value.needed and caught.value.remedy


@pytest.mark.parametrize("index", [[], [3], [-4], [0.5], 1, [[0]], [True, False], slice(3, None)])
def test_rows_that_do_not_exist_cannot_be_picked(index: Any) -> None:
    for pick in (Rows(TABLE).batch, Rows(TABLE).subset, Rows(TABLE).batch().select):
        with pytest.raises(ShapeError):
            pick(index)


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 2, "seed": -1}, {"size": 2, "epoch": -1}])
def test_settings_of_batches_are_checked_at_once(settings: dict[str, int]) -> None:
    with pytest.raises(SettingError):
        Rows(TABLE).batches(**settings)


def test_values_are_frozen() -> None:
    rows = Rows(TABLE)
    with pytest.raises(AttributeError):
        rows.weights = torch.ones(3)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        rows.batch().total = 4  # type: ignore[misc]
