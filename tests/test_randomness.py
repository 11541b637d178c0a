"""Seeds: the mixing of numpy, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentvars.errors import SettingError
from latentvars.randomness import derive

NUMBERS = st.integers(min_value=0, max_value=2**64 - 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(NUMBERS | st.integers(0, 50) | st.just(2**32) | st.integers(0, 2**200), min_size=1, max_size=9))
def test_seeds_are_those_of_seed_sequence(numbers: list[int]) -> None:
    low, high = np.random.SeedSequence(numbers).generate_state(2, np.uint32).tolist()
    assert derive(*numbers) == (low << 31) ^ high


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(SettingError, match="seed=-1"):
        derive(-1, 3)
    with pytest.raises(SettingError, match="seed=-2"):
        derive(0, -2)
