"""Hashes of tensors: beside hashlib over bytes written down, and what they tell apart."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

import latentvars as lv
from latentvars.storage import digest


def test_the_digest_is_that_of_names_types_shapes_and_bytes() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.array(3, np.int64)
    expected = hashlib.sha256(b"a|torch.float64|(2, 3)|" + a.tobytes() + b"b|torch.int64|()|" + b.tobytes())
    tensors = {"b": torch.from_numpy(b), "a": torch.from_numpy(a)}
    assert digest(tensors) == expected.hexdigest()
    turned = {"b": tensors["b"], "a": tensors["a"].T.contiguous().T}  # other places in memory, the same numbers
    assert digest(turned) == expected.hexdigest()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int8, torch.complex64])
def test_every_type_has_a_digest_of_its_own(dtype: torch.dtype) -> None:
    one, other = torch.ones(3).to(dtype), torch.tensor([1.0, 1.0, 0.0]).to(dtype)
    assert digest({"a": one}) != digest({"a": other}) and digest({"a": one}) != digest({"a": torch.ones(3)})
    assert digest({"a": one[:0]}) != digest({})


def test_fits_and_encoders_are_hashed_alike() -> None:
    fit = lv.fit(lv.models.FactorAnalysis(1), lv.datasets.iris().x, lv.EM(passes=3), progress=False)
    tensors = {f"globals.{name}": value for name, value in fit.globals.tensors().items()}
    assert fit.fingerprint["fit"] == digest(tensors)
