"""Objectives of numeric M-steps as recorded graphs: the same fits, and no graph of another function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, EM_CASES, over
from torch import Tensor

import latentvars as lv
from latentvars.inference.em import repeated
from latentvars.inference.em.em import EMState
from latentvars.inference.em.m_step_plan import Plan
from latentvars.inference.em.repeated import Repeated, Slope
from latentvars.inference.running.binding import bind


@over(EM_CASES)
def test_fits_do_not_depend_on_the_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    for often in (10**9, 3):
        monkeypatch.setattr(repeated, "OFTEN", often)
        em = lv.EM(passes=6, stop=lv.Never())
        fits.append(lv.fit(CASES[name].model(), CASES[name].data(), em, progress=False))
    plain, recorded = fits
    np.testing.assert_allclose(recorded.history, plain.history, rtol=1e-9)
    for site, value in plain.point.items():
        torch.testing.assert_close(recorded.point[site], value, rtol=1e-5, atol=1e-7)
    state = recorded.state
    assert isinstance(state, EMState)
    if isinstance(state.plan, Plan) and state.plan.numeric:
        assert state.plan.repeated.asked > 3 and state.plan.repeated.code is not None


def slope(objective: Any) -> Slope:
    _, program = bind(CASES["user-mixture"].model(), CASES["user-mixture"].data())
    first = program.space.subset(program.space.names[:1])
    return Slope(program, first, objective, {}, (torch.tensor(2.0, dtype=torch.float64),))


def square(values: Mapping[str, Tensor], inputs: tuple[Tensor]) -> Tensor:
    return -(inputs[0] * next(iter(values.values())).square().sum())


def branching(values: Mapping[str, Tensor], inputs: tuple[Tensor]) -> Tensor:
    found = square(values, inputs)
    return found if float(found.detach()) < 0 else 2 * found


@pytest.mark.parametrize(("objective", "is_recorded"), [(square, True), (branching, False)])
def test_what_cannot_be_recorded_stays_as_it_is(objective: Any, is_recorded: bool) -> None:
    known, given = Repeated(), slope(objective)
    for number in range(repeated.OFTEN + 20):
        free = torch.full((given.space.size,), 0.001 * number, dtype=torch.float64)
        torch.testing.assert_close(known.evaluated(given, (), free), given.plain(free), rtol=1e-14, atol=0.0)
    assert (known.code is not None) == is_recorded


def test_another_function_is_not_taken_for_the_recorded_one() -> None:
    known, one = Repeated(), slope(square)
    free = torch.ones(one.space.size, dtype=torch.float64)
    for _ in range(repeated.OFTEN + 1):
        known.evaluated(one, (one,), free)
    other = slope(lambda values, inputs: 3 * square(values, inputs))
    torch.testing.assert_close(known.evaluated(other, (other,), free), other.plain(free))
    assert known.code is None and known.asked == 1
